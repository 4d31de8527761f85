"""Versions of what can be changed: nobody overwrites what somebody else wrote meanwhile (RFC 9110, 13).

An entity tag is `"<version>-<representation>"`. The version is a digest of what can be changed of the thing;
`If-Match` compares that part alone, under the lock of the row that is about to be changed. The second part is
a digest of the answer, in which counters and times move by themselves; `If-None-Match` compares the whole, so
that `304` is said only when nothing at all differs. Clients keep the tag as it is and give it back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from api.core.errors import Invalid, Problem
from api.core.exchange import answer_with, header, is_read

T = TypeVar("T")
TAGS = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
VERSION_LENGTH, REPRESENTATION_LENGTH = 20, 12  # hexadecimal digits
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "As you know it: `If-None-Match`"}}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "the `ETag` that you saw; 412 if it has changed since. `*`: if it exists",
    "schema": {"type": "string"},
}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "the `ETag` that you have; 304 without a body if nothing differs",
    "schema": {"type": "string"},
}
ETAG = {"ETag": {"description": "for `If-Match` and `If-None-Match`", "schema": {"type": "string"}}}


class VersionConflict(Problem):
    status, code, title = 412, "version-conflict", "It has changed since you looked"

    def __init__(self, detail: str, version: str | None) -> None:
        etag = f'"{version}"' if version else None
        super().__init__(detail, etag=etag)
        self.headers = {"ETag": etag} if etag else {}


class NotModified(Exception):
    """The client has the present representation already."""

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag


def version(*rows: SQLModel, aside: Collection[str] = ()) -> str:
    """A digest of all columns of the rows but those `aside`, which change without anybody's doing."""
    values = [
        {column.key: getattr(row, column.key) for column in sa.inspect(type(row)).columns} for row in rows
    ]
    plain = [{name: value for name, value in row.items() if name not in aside} for row in values]
    return _digest(json.dumps(plain, default=_plain, sort_keys=True).encode(), VERSION_LENGTH)


def check(tx: Session, lock: Callable[[], str | None]) -> None:
    """Go on only if the thing is as the request's `If-Match` says; raises VersionConflict.

    `lock` locks the thing and returns its version, or None where it does not exist; it is called only when
    the request has a condition.
    """
    wanted, unwanted = header(tx, "if-match"), header(tx, "if-none-match")
    if wanted is None and unwanted is None:
        return
    present = lock()
    if wanted is not None and not _matches(wanted, present, "If-Match"):
        raise VersionConflict(_changed(present), present)
    if unwanted is not None and _matches(unwanted, present, "If-None-Match"):
        raise VersionConflict("It exists already, and If-None-Match was to prevent a change then.", present)


def tag(tx: Session, version: str, answer: T) -> T:
    """The answer, with its `ETag`. Raises NotModified when a GET's `If-None-Match` has just that."""
    etag = f'"{version}-{_digest(to_json(answer), REPRESENTATION_LENGTH)}"'
    if is_read(tx):
        known = header(tx, "if-none-match")
        if known is not None and (known.strip() == "*" or etag in _tags(known, "If-None-Match")):
            raise NotModified(etag)
    answer_with(tx, "ETag", etag)
    return answer


def _changed(present: str | None) -> str:
    if present is None:
        return "It does not exist, and If-Match asks that it does."
    return "Somebody has changed it since; look at it again, then decide whether your change still holds."


def _matches(given: str, present: str | None, name: str) -> bool:
    if given.strip() == "*":
        return present is not None
    versions = {found.strip('"').split("-")[0] for found in _tags(given, name)}
    return present in versions


def _tags(given: str, name: str) -> list[str]:
    """Those of a list of entity tags that count: for `If-Match` only strong ones, which say exactly what."""
    found = TAGS.findall(given)
    if not found or TAGS.sub("", given):
        raise Invalid(f'{name} takes entity tags in double quotes, as `ETag` gave them, or "*".')
    if name == "If-None-Match":
        return [one.removeprefix("W/") for one in found]
    return [one for one in found if not one.startswith("W/")]


def _plain(value: Any) -> str:
    """The same text for what means the same, whether it was just assigned or read from either database."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    return str(value)


def _digest(content: bytes, length: int) -> str:
    return hashlib.sha256(content).hexdigest()[:length]
