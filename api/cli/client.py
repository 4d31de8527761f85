"""The REST client of the commands. httpx2 is imported on first use: it takes longest of all."""

from __future__ import annotations

import ipaddress
import json
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from api.cli import credentials
from api.cli.exits import BY_STATUS, Exit, Failure

if TYPE_CHECKING:
    import httpx2 as httpx

API = "/api/v1"
PAGE = 200
ATTEMPTS = 3
RECONNECT = 1.0  # seconds
PATIENCE = 60.0  # seconds without a word after which a stream is given up
QUIET = 45.0  # seconds without a byte after which it is asked for again; the server pings every 15
UNAUTHENTICATED, VERSION_CONFLICT, UNAVAILABLE = 401, 412, 503


class Changed(Failure):
    """Somebody else has changed it since it was read."""


class Client:
    """`renew` gives a fresh token when the server no longer takes the present one."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        renew: Callable[[], str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        import httpx2 as httpx

        self.url = url.rstrip("/")
        self.token = token
        self._renew = renew
        try:
            self._http = httpx.Client(
                base_url=self.url,
                timeout=httpx.Timeout(timeout, connect=5.0),
                headers={"User-Agent": "ironyard"},
                trust_env=not _loopback(self.url),  # a proxy cannot lead to our own machine
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise Failure(f"{url} is not an address: {error}", Exit.USAGE) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return _content(self._request("GET", path, query=query))

    def text(self, path: str, **query: Any) -> str:
        return self._request("GET", path, query=query).text

    def post(self, path: str, body: Any = None, *, key: str | None = None, **query: Any) -> Any:
        """`key` is the Idempotency-Key, if not one of our own making."""
        return _content(self._request("POST", path, query=query, body=body, key=key))

    def send(self, method: str, path: str, body: Any = None) -> Any:
        return _content(self._request(method, path, body=body))

    def revise(self, method: str, path: str, change: Callable[[Any], Any]) -> Any:
        """Read, send back what `change` makes of it; read again if somebody else has changed it meanwhile."""
        for attempt in range(ATTEMPTS):
            seen = self._request("GET", path)
            match = seen.headers.get("ETag")
            try:
                return _content(self._request(method, path, body=change(_content(seen)), match=match))
            except Changed:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt answers or raises")

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """(event, data) of server-sent events; connects again where it broke, until nobody asks for more.

        Raises Failure when the server is not heard of for `PATIENCE` seconds.
        """
        import httpx2 as httpx

        last, heard = "0", time.monotonic()
        while True:
            try:
                for found in self._stream(path, last):
                    last, heard = found.get("id", last), time.monotonic()
                    yield found["event"], json.loads(found["data"])
            except httpx.HTTPError as error:
                if time.monotonic() - heard > PATIENCE:
                    raise Failure(f"{self.url} cannot be reached: {error}", Exit.UNREACHABLE) from error
            time.sleep(RECONNECT)

    def _stream(self, path: str, last: str) -> Iterator[dict[str, str]]:
        headers = {"Last-Event-ID": last, "Accept": "text/event-stream"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        with self._http.stream("GET", API + path, headers=headers, timeout=QUIET) as response:
            if response.status_code == UNAVAILABLE:
                return
            if not response.is_success:
                response.read()
                raise refusal(response, signed_in=self.token is not None)
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif not line and "data" in fields:
                    yield fields
                    fields = {}

    def pages(self, path: str, *, limit: int | None = None, **query: Any) -> list[Any]:
        """All items of a list, or the first `limit`."""
        items: list[Any] = []
        cursor = None
        while limit is None or len(items) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(items))
            page = self.get(path, limit=size, cursor=cursor, **query)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return items

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        key: str | None = None,
        match: str | None = None,
    ) -> httpx.Response:
        """What got no answer is asked for again; a change goes with a key, so that it is made once."""
        headers = {} if method == "GET" else {"Idempotency-Key": key or str(uuid.uuid4())}
        if match is not None:
            headers["If-Match"] = match
        given = {name: value for name, value in (query or {}).items() if value is not None}
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            response = self._attempt(method, path, headers=headers, query=given, body=body, last=last)
            if response is not None:
                return response
            time.sleep(0.3 * 2**attempt)
        raise AssertionError("the last attempt answers or raises")

    def _attempt(
        self, method: str, path: str, *, headers: dict[str, str], query: Any, body: Any, last: bool
    ) -> httpx.Response | None:
        """The answer; None when there was none and it may be asked for again."""
        import httpx2 as httpx

        try:
            response = self._call(method, path, headers, query, body)
            if response.status_code == UNAUTHENTICATED and self._renew is not None:
                self.token = self._renew()
                response = self._call(method, path, headers, query, body)
        except httpx.HTTPError as error:
            if not last:
                return None
            why = str(error) or type(error).__name__
            raise Failure(f"{self.url} cannot be reached: {why}", Exit.UNREACHABLE) from error
        if response.is_success:
            return response
        if response.status_code == UNAVAILABLE and not last:
            return None
        raise refusal(response, signed_in=self.token is not None)

    def _call(self, method: str, path: str, headers: dict[str, str], query: Any, body: Any) -> httpx.Response:
        if self.token:
            headers = headers | {"Authorization": f"Bearer {self.token}"}
        return self._http.request(method, API + path, params=query, json=body, headers=headers)


def connect() -> Client:
    """A client for who is signed in. Raises Failure (denied) when nobody is."""
    url, token = credentials.load()
    if not token:
        raise Failure("Nobody is signed in; run `ironyard login`.", Exit.DENIED)
    return Client(url, token)


def refusal(response: httpx.Response, *, signed_in: bool) -> Failure:
    """A problem document as one sentence with its code."""
    code = BY_STATUS.get(response.status_code, Exit.FAILED)
    try:
        problem = response.json()
        sentence = f"{problem['title']}: {problem['detail']} [{problem['code']}]"
    except (ValueError, KeyError, TypeError):
        sentence = f"{response.url} answered {response.status_code} {response.reason_phrase}."
    if response.status_code == UNAUTHENTICATED and signed_in:
        sentence += " Run `ironyard login`."
    return Changed(sentence, code) if response.status_code == VERSION_CONFLICT else Failure(sentence, code)


def _content(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise Failure(f"{response.url} is not an Ironyard server.", Exit.UNREACHABLE) from error


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
