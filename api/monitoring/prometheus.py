"""Asking a Prometheus: instant queries whose answer is one number for each value of a label."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

PATH = "/api/v1/query"


class Unanswered(Exception):
    """Prometheus did not answer the question, or not all of it: nothing is known."""


class Prometheus:
    """One Prometheus, or what speaks its API. `timeout` in seconds, of each question."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        self.url = url.rstrip("/") + PATH
        self.timeout = timeout
        self._http = httpx.Client(timeout=timeout, headers={"User-Agent": "ironyard"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(self, query: str, label: str) -> dict[str, float]:
        """The vector by the value of `label`; what is no number is left out. Raises Unanswered."""
        asked = {"query": query, "timeout": f"{self.timeout:.0f}s"}
        try:
            response = self._http.post(self.url, data=asked)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unanswered(f"Prometheus cannot be reached ({type(error).__name__}).") from error
        try:
            return _vector(response.json(), label)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unanswered(f"Prometheus answered {response.status_code} and no vector.") from error


def _vector(document: Any, label: str) -> dict[str, float]:
    if document["status"] != "success":
        raise Unanswered(f"Prometheus refused: {document['errorType']}: {str(document['error'])[:200]}")
    if document.get("warnings"):  # such as a store that did not answer: what it holds is missing in the rest
        raise Unanswered(f"Prometheus answered in part: {str(document['warnings'][0])[:200]}")
    data = document["data"]
    if data["resultType"] != "vector":
        raise ValueError(data["resultType"])
    found: dict[str, float] = {}
    for row in data["result"]:
        value = float(row["value"][1])
        if math.isfinite(value):
            found[row["metric"][label]] = value
    return found
