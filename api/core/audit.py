"""The audit trail: appended in the transaction of the change that it tells of; the database refuses edits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session
from sqlmodel import Field, SQLModel, col

from api.core import clock
from api.core.access import Actor, Permission, needs
from api.core.columns import Json, UtcDateTime
from api.core.db import TransactionalRoute, Tx, table
from api.core.http import problems
from api.core.ids import new_id
from api.core.pagination import Page, Pages, fetch


class AuditEvent(SQLModel, table=True):
    __tablename__ = "audit_events"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    at: datetime = Field(sa_type=UtcDateTime)
    actor: str
    actor_id: UUID | None = None
    key_id: UUID | None = None
    action: str
    subject_id: UUID = Field(index=True)
    before: dict[str, Any] | None = Field(default=None, sa_type=Json)
    after: dict[str, Any] | None = Field(default=None, sa_type=Json)
    reason: str | None = None
    address: str | None = None
    request_id: str | None = None


class AuditRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    at: datetime
    actor: str
    actor_id: UUID | None
    key_id: UUID | None
    action: str
    subject_id: UUID
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    address: str | None
    request_id: str | None


EVENTS = table(AuditEvent)


def record(
    tx: Session,
    actor: Actor,
    action: str,
    subject_id: UUID,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Append one event. `action` is `<noun>.<verb in the past tense>`."""
    event = row(actor, action, subject_id, before=before, after=after, reason=reason)
    tx.execute(sa.insert(EVENTS), event)


def row(
    actor: Actor,
    action: str,
    subject_id: UUID,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """The event as a row of `EVENTS`, for a statement that appends it together with the change."""
    return {
        "id": new_id(),
        "at": clock.now(),
        "actor": actor.name,
        "actor_id": actor.user_id,
        "key_id": actor.key_id,
        "action": action,
        "subject_id": subject_id,
        "before": before,
        "after": after,
        "reason": reason,
        "address": actor.address,
        "request_id": actor.request_id,
    }


router = APIRouter(prefix="/api/v1/admin/audit", tags=["audit"], route_class=TransactionalRoute)


@router.get("", summary="List the audit trail, newest first", responses=problems(401, 403, 422))
def list_events(
    tx: Tx,
    pages: Pages,
    actor: Annotated[Actor, needs(Permission.AUDIT_READ)],  # noqa: ARG001
    subject_id: Annotated[UUID | None, Query(description="only what happened to this")] = None,
    action: Annotated[str | None, Query(description="only this action, such as `host.reclaimed`")] = None,
) -> Page[AuditRead]:
    statement = sa.select(AuditEvent)
    if subject_id is not None:
        statement = statement.where(col(AuditEvent.subject_id) == subject_id)
    if action is not None:
        statement = statement.where(col(AuditEvent.action) == action)
    rows, following = fetch(tx, statement, col(AuditEvent.id), pages, newest_first=True)
    return Page(items=[AuditRead.model_validate(row) for row in rows], next_cursor=following)
