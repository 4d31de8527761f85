"""What a request's validation found, in words that say what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel

from api.core.errors import Invalid

JSON_TYPE = "application/json"
NOT_AN_OBJECT = ("model_attributes_type", "dict_type", "model_type")


def told(error: Mapping[str, Any], model: type[BaseModel] | None, sent_as: str) -> dict[str, str]:
    """`where` and `message` of one of pydantic's errors; `sent_as`: the request's Content-Type."""
    place = tuple(error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    match error["type"]:
        case "json_invalid":
            reason = error.get("ctx", {}).get("error", "")
            return _at(place[:1], f"not JSON at character {place[-1]}: {reason}".removesuffix(": "))
        case kind if kind in NOT_AN_OBJECT and len(place) == 1 and JSON_TYPE not in sent_as:
            message = (
                f"send a JSON object, with `Content-Type: {JSON_TYPE}` (this came as {sent_as or 'nothing'})"
            )
        case kind if kind in NOT_AN_OBJECT:
            message = 'this has to be an object, {"name": value}'
        case "extra_forbidden":
            message = unknown("field", str(place[-1]), _fields(model, place[1:-1]))
        case "too_short" | "too_long":
            message = message.replace(" items after validation", _counted(error))
    return _at(place, message)


def refuse_unknown_parameters(request: Request) -> None:
    """Raises Invalid for a query parameter that the route does not take: `dryrun=true` would hold GPUs."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if not request.scope["query_string"] or dependant is None:
        return
    known = sorted(set(_parameters(dependant)))
    found = [
        {"where": f"query/{name}", "message": unknown("parameter", name, known)}
        for name in request.query_params
        if name not in known
    ]
    if found:
        raise Invalid("; ".join(f"{one['where']}: {one['message']}" for one in found[:5]), errors=found)


def _parameters(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for other in dependant.dependencies:
        yield from _parameters(other)


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """A sentence about a name that nothing has: the one that was probably meant, else all there are."""
    return f"there is no such {what}" + instead(name, known)


def instead(name: str, known: Sequence[str]) -> str:
    """`; did you mean …?` with the names that are like it, else `; there are …` with all."""
    plain = {other.casefold(): other for other in known}
    within = [other for other in plain if name and name.casefold() in other]
    close = within or get_close_matches(name.casefold(), plain, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(plain[other] for other in sorted(close)[:4])}?"
    return f"; there are {', '.join(sorted(known))}" if known else ""


def _at(place: Iterable[Any], message: str) -> dict[str, str]:
    return {"where": "/".join(str(part) for part in place), "message": message}


def _counted(error: Mapping[str, Any]) -> str:
    """What a length counts: a password is checked as a collection."""
    return " characters" if isinstance(error.get("input"), str) else " items"


def _fields(model: type[BaseModel] | None, place: Sequence[Any]) -> list[str]:
    """The names that the object at the top of the body takes; none for one that lies deeper."""
    if model is None or place:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]
