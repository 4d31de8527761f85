"""What every request passes: an id, a size limit, metrics; and every error as a problem document."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core import complaints, errors, metrics
from api.core.etags import NotModified
from api.core.ids import new_id

log = logging.getLogger("ironyard.http")
MEDIA_TYPE = "application/problem+json"
REPORT = re.compile(r"/api/v1/operations/[^/]+/finish")  # it brings what enroll recorded of a host


class ProblemDocument(BaseModel):
    """RFC 9457. Further members state what was asked and what is short."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None


_MEANINGS = {
    401: "Not signed in",
    403: "The role does not allow this",
    404: "No such thing, or not visible to you",
    409: "Conflicts with the present state; `code` tells how",
    412: "It has changed since you looked; `etag` is the present one",
    413: "The body is too large",
    422: "The request is not valid; `errors` lists where",
    503: "Not ready; try again",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: each status as a problem document."""
    return {
        status: {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": _reference()}}}
        for status in statuses
    }


def _reference() -> dict[str, str]:
    return {"$ref": "#/components/schemas/ProblemDocument"}


def answer(request: Request, problem: errors.Problem) -> JSONResponse:
    document = problem.document(request.scope.get("request_id"))
    return JSONResponse(document, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


async def _on_problem(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, errors.Problem)
    return answer(request, problem)


async def _on_not_modified(_request: Request, known: Exception) -> Response:
    assert isinstance(known, NotModified)
    return Response(status_code=304, headers={"ETag": known.etag})


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    sent_as = request.headers.get("content-type", "")
    found = [complaints.told(item, _body_model(request), sent_as) for item in error.errors()]
    detail = "; ".join(f"{item['where']}: {item['message']}" for item in found[:5])
    return answer(request, errors.Invalid(detail, errors=found))


def _body_model(request: Request) -> type[BaseModel] | None:
    field = getattr(request.scope.get("route"), "body_field", None)
    model = None if field is None else field.field_info.annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = {
        404: f"Nothing answers at {request.url.path}; /docs lists what does.",
        405: f"{request.url.path} does not take {request.method}; /docs lists what it takes.",
    }.get(error.status_code, str(error.detail))
    document = errors.from_status(error.status_code, detail)
    document["request_id"] = request.scope.get("request_id")
    return JSONResponse(document, error.status_code, headers=error.headers, media_type=MEDIA_TYPE)


async def _on_integrity(request: Request, error: Exception) -> JSONResponse:
    log.warning("a constraint refused a change", exc_info=error)
    return answer(
        request, errors.Conflict("Somebody changed the same thing at the same time; look and try again.")
    )


async def _on_database(request: Request, error: Exception) -> JSONResponse:
    log.error("the database did not answer", exc_info=error)
    return answer(request, errors.Unavailable("The database did not answer; nothing was changed."))


async def _on_data(request: Request, error: Exception) -> JSONResponse:
    log.warning("the database cannot store a value of the request", exc_info=error)
    return answer(
        request,
        errors.Invalid("A number of the request is too large, or a text holds NUL or half of a character."),
    )


async def _on_anything(request: Request, error: Exception) -> JSONResponse:
    log.error("unhandled error", exc_info=error)
    return answer(
        request, errors.Problem("The error is in our log under this request id. Nothing was changed.")
    )


def install(app: FastAPI, *, body_limit: int, report_limit: int) -> None:
    app.add_exception_handler(errors.Problem, _on_problem)
    app.add_exception_handler(NotModified, _on_not_modified)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(DataError, _on_data)
    app.add_exception_handler(UnicodeEncodeError, _on_data)
    app.add_exception_handler(OverflowError, _on_data)  # a number beyond SQLite's integers
    app.add_exception_handler(IntegrityError, _on_integrity)
    app.add_exception_handler(OperationalError, _on_database)
    app.add_exception_handler(InterfaceError, _on_database)
    app.add_exception_handler(Exception, _on_anything)
    app.add_middleware(Envelope, body_limit=body_limit, report_limit=report_limit)


class Envelope:
    """Gives each request an id, refuses large bodies before they are read, and counts what happened.

    FastAPI's own `max_body_size` answers in plain text before any handler of ours can make it a problem.
    """

    def __init__(self, app: ASGIApp, body_limit: int, report_limit: int) -> None:
        self.app = app
        self.body_limit = body_limit
        self.report_limit = report_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = scope["request_id"] = str(new_id())
        began = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            limit = self.report_limit if REPORT.fullmatch(scope["path"]) else self.body_limit
            if _declared_length(scope) > limit:
                await self._refuse(scope, receive, send_with_id, limit)
            else:
                await self.app(scope, _limited(receive, limit), send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            metrics.observe_request(scope["method"], route, status, time.perf_counter() - began)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        problem = errors.TooLarge(f"At most {limit} bytes are taken.", limit=limit)
        response = JSONResponse(problem.document(scope["request_id"]), problem.status, media_type=MEDIA_TYPE)
        response.headers["connection"] = "close"
        await response(scope, receive, send)


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _limited(receive: Receive, limit: int) -> Receive:
    """Counts a body of undeclared length while it is read."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > limit:
                raise HTTPException(413, f"At most {limit} bytes are taken.")
        return message

    return limited
