"""Typed errors; one handler turns each into an RFC 9457 problem document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar

PROBLEM_TYPE = "urn:ironyard:problem:"


class Problem(Exception):
    """An answer that is not success.

    `code` is stable; `detail` says what was asked, what is short and what to do.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts
        self.headers: dict[str, str] = {}

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        document: dict[str, Any] = {
            "type": PROBLEM_TYPE + self.code,
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if request_id:
            document["request_id"] = request_id
        return document | self.facts


class NotFound(Problem):
    status, code, title = 404, "not-found", "There is no such thing, or you may not see it"


class Invalid(Problem):
    status, code, title = 422, "invalid-request", "The request is not valid"


class Unauthenticated(Problem):
    status, code, title = 401, "unauthenticated", "Sign in first"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.headers = {"WWW-Authenticate": "Bearer"}


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "Your role does not allow this"


class Conflict(Problem):
    status, code, title = 409, "conflict", "The request conflicts with the present state"


class Exists(Conflict):
    code, title = "already-exists", "It exists already"


class WrongState(Conflict):
    code, title = "wrong-state", "The present state does not allow this"


class TooLarge(Problem):
    status, code, title = 413, "body-too-large", "The request's body is too large"


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "Try again in a moment"

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.headers = {"Retry-After": "1"}


def from_status(status: int, detail: str) -> dict[str, Any]:
    """The problem document of an error that the framework raised."""
    phrase = HTTPStatus(status).phrase
    code = TooLarge.code if status == TooLarge.status else phrase.lower().replace(" ", "-")
    return {
        "type": PROBLEM_TYPE + code,
        "title": phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
