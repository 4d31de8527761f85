"""Keyset pagination: pages cost the same at the beginning and at the end of a long list."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy.orm import Mapped, Session

from api.core.errors import Invalid

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="pass as `cursor` for the next page; absent on the last"
    )


class Paging(BaseModel):
    limit: int
    after: UUID | None


def paging(
    limit: Annotated[int, Query(ge=1, le=200, description="items a page")] = 50,
    cursor: Annotated[
        str | None, Query(max_length=64, description="`next_cursor` of the page before")
    ] = None,
) -> Paging:
    return Paging(limit=limit, after=_decode(cursor) if cursor else None)


Pages = Annotated[Paging, Depends(paging)]


def fetch(
    tx: Session,
    statement: sa.Select[Any],
    key: Mapped[UUID],
    pages: Paging,
    *,
    newest_first: bool = False,
) -> tuple[Sequence[Any], str | None]:
    """One page of `statement` in the order of `key` (ids grow with time), and the next page's cursor."""
    if pages.after is not None:
        statement = statement.where(key < pages.after if newest_first else key > pages.after)
    statement = statement.order_by(key.desc() if newest_first else key).limit(pages.limit + 1)
    return page_of(tx.execute(statement).scalars().all(), pages)


def page_of(rows: Sequence[T], pages: Paging) -> tuple[list[T], str | None]:
    """The page of rows of which one more was looked for than fits, and the next page's cursor."""
    if len(rows) <= pages.limit:
        return list(rows), None
    last: Any = rows[pages.limit - 1]
    return list(rows[: pages.limit]), _encode(last.id)


def _encode(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _decode(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise Invalid("The cursor is not one that this list gave out; start again without it.") from error
