"""Identifiers: UUID version 7, so that the order of ids is the order of creation."""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    return uuid7()


def as_uuid(text: UUID | str) -> UUID | None:
    """None for what is no id, such as a slug."""
    if isinstance(text, UUID):
        return text
    try:
        return UUID(text)
    except ValueError:
        return None
