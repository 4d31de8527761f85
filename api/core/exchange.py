"""What a request's transaction carries of the request: services and helpers see it through `tx` alone.

A transaction of the worker carries none of it, and then nothing is asked for and nothing is answered.
"""

from __future__ import annotations

from fastapi import Request, Response
from sqlalchemy.orm import Session

REQUEST, RESPONSE = "request", "response"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def request_of(tx: Session) -> Request | None:
    found: Request | None = tx.info.get(REQUEST)
    return found


def header(tx: Session, name: str) -> str | None:
    request = request_of(tx)
    return None if request is None else request.headers.get(name)


def answer_with(tx: Session, name: str, value: str) -> None:
    """Set a header of the answer."""
    response: Response | None = tx.info.get(RESPONSE)
    if response is not None:
        response.headers[name] = value


def is_read(tx: Session) -> bool:
    """Whether the request changes nothing, and may therefore be asked for twice."""
    request = request_of(tx)
    return request is not None and request.method in SAFE_METHODS


def route_of(tx: Session) -> str:
    request = request_of(tx)
    return "" if request is None else str(getattr(request.scope.get("route"), "path", "unmatched"))
