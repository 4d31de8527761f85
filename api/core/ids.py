"""Identifiers: UUID version 7, so that the order of ids is the order of creation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

if TYPE_CHECKING:
    from uuid import UUID


def new_id() -> UUID:
    return uuid7()
