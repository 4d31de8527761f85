"""How the callback plugin speaks to the facade: standard library only, in a thread of its own."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 15.0
BATCH = 200
KEEP = 5000
RETRY_SECONDS = 2.0
CLOSE_SECONDS = 30.0


class Refused(Exception):
    """The facade answered and said no. ``code`` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def configured() -> tuple[str, str] | None:
    """(address, token) from the environment, else from the credentials file; None when either is missing."""
    url, token = os.environ.get("IRONYARD_URL"), os.environ.get("IRONYARD_TOKEN")
    path = Path(os.environ.get("IRONYARD_CREDENTIALS", "~/.config/ironyard/credentials.json")).expanduser()
    stored: dict[str, str] = {}
    if not (url and token) and path.exists():
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
    url, token = url or stored.get("url"), token or stored.get("token")
    return (url.rstrip("/"), token) if url and token else None


class Client:
    def __init__(self, address: str, token: str, timeout: float = 15.0) -> None:
        self.address = address
        self.token = token
        self.timeout = timeout

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON, or None when it has no body.

        Raises Refused (4xx, 5xx) or OSError (no answer).
        """
        raw = self._ask("POST", path, json.dumps(body).encode())
        return json.loads(raw) if raw.strip() else None

    def get(self, path: str) -> bytes:
        """The answer's bytes. Raises as ``post`` does."""
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - the address is the operator's own setting
            f"{self.address}{path}",
            data=body,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                raw: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, problem(error)) from error
        return raw


def problem(error: urllib.error.HTTPError) -> str:
    """Title and detail of an RFC 9457 problem, or the status line."""
    try:
        said = json.load(error)
        text = ": ".join(str(said[key]) for key in ("title", "detail") if said.get(key))
    except (ValueError, TypeError, AttributeError, OSError):
        text = ""
    return text or f"HTTP {error.code} {error.reason}"


class Sender:
    """Sends events in batches and heartbeats.

    Never blocks or breaks the play; what cannot be sent is kept and retried.
    """

    def __init__(self, client: Client, operations: list[str], heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self.client = client
        self.heartbeat = heartbeat
        self.waiting: dict[str, list[dict[str, Any]]] = {operation: [] for operation in operations}
        self.ends: dict[str, dict[str, Any]] = {}
        self.beaten = dict.fromkeys(operations, time.monotonic())
        self.dropped = 0
        self.trouble: str | None = None
        self.refused: dict[str, str] = {}
        self.closing = threading.Event()
        self.wake = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._work, name="ironyard-sender", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def put(self, operation: str, event: dict[str, Any]) -> None:
        with self.lock:
            queue = self.waiting[operation]
            if len(queue) >= KEEP:
                queue.pop(0)
                self.dropped += 1
            queue.append(event)

    def finish(self, operation: str, body: dict[str, Any]) -> None:
        with self.lock:
            self.ends[operation] = body

    def close(self, seconds: float = CLOSE_SECONDS) -> list[str]:
        """Send what is left, for at most ``seconds``; returns warnings."""
        self.closing.set()
        self.wake.set()
        self.thread.join(seconds)
        warnings = [f"operation {operation}: {why}" for operation, why in self.refused.items()]
        with self.lock:
            left = sum(map(len, self.waiting.values()))
            unfinished = len(self.ends)
        if left or unfinished:
            warnings.append(f"{left} events and {unfinished} results could not be delivered: {self.trouble}")
        if self.dropped:
            warnings.append(f"{self.dropped} old events were dropped while the ledger was out of reach")
        return warnings

    def _work(self) -> None:
        until: float | None = None
        while True:
            delivered = self._round()
            if self.closing.is_set():
                until = until or time.monotonic() + CLOSE_SECONDS
                if delivered or time.monotonic() > until:
                    return
            self.wake.wait(0.5 if delivered else RETRY_SECONDS)
            self.wake.clear()

    def _round(self) -> bool:
        """One pass over all operations; False when the facade could not be reached."""
        try:
            for operation in list(self.waiting):
                self._send_events(operation)
            for operation in list(self.ends):
                self._send_end(operation)
        except (Refused, OSError, ValueError) as error:
            self.trouble = str(error)
            return False
        return True

    def _send_events(self, operation: str) -> None:
        while True:
            with self.lock:
                batch = self.waiting[operation][:BATCH]
            due = time.monotonic() - self.beaten[operation] >= self.heartbeat
            if not batch and (not due or self.closing.is_set()):
                return
            self._post(operation, "events", {"events": batch})
            self.beaten[operation] = time.monotonic()
            with self.lock:
                del self.waiting[operation][: len(batch)]

    def _send_end(self, operation: str) -> None:
        self._post(operation, "finish", self.ends[operation])
        with self.lock:
            del self.ends[operation]

    def _post(self, operation: str, what: str, body: dict[str, Any]) -> None:
        """A refusal by the ledger (4xx) will not change by asking again; anything else is retried."""
        try:
            self.client.post(f"/api/v1/operations/{operation}/{what}", body)
        except Refused as refused:
            if refused.code >= 500 or refused.code in (408, 425, 429):
                raise
            self.refused[operation] = f"{what} refused: {refused}"
