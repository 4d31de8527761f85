"""What routes have in common: the headers that they take, the problems that any may answer with."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import Response
from pydantic import TypeAdapter

from api.core import etags, idempotency
from api.core.http import problems

NO_CONTENT, NOT_MODIFIED, PRECONDITION_FAILED = 204, 304, 412


def described(options: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    """A route's options, with the headers that it takes described and the problems that follow from them."""
    given = options.get("responses") or {}
    taken = [
        parameter
        for parameter, applies in (
            (idempotency.PARAMETER, keyed),
            (etags.IF_MATCH, PRECONDITION_FAILED in given),
            (etags.IF_NONE_MATCH, NOT_MODIFIED in given),
        )
        if applies
    ]
    extra: dict[str, Any] = {"parameters": taken} if taken else {}
    status = options.get("status_code") or 200
    if status != NO_CONTENT and {NOT_MODIFIED, PRECONDITION_FAILED} & given.keys():
        extra["responses"] = {str(status): {"headers": etags.ETAG}}
    common = problems(409, 422, 503) if keyed else problems(503)
    return options | {
        "openapi_extra": extra | (options.get("openapi_extra") or {}),
        "responses": common | given,
    }


def response(result: Any, model: Any, status: int, headers: Response) -> Response:
    """What FastAPI would answer with: `result` as `model` says, and the headers that the endpoint has set."""
    if isinstance(result, Response):
        return result
    made = Response(status_code=headers.status_code or status)
    if model is not None:
        adapter = _adapter(model)
        content = adapter.dump_json(adapter.validate_python(result, from_attributes=True), by_alias=True)
        made = Response(content, made.status_code, media_type="application/json")
    made.headers.update(headers.headers)
    return made


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)
