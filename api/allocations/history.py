"""What waits for a decision, and what has happened to an allocation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import service
from api.allocations.approval_models import (
    REQUESTED,
    AllocationChange,
    ChangeRead,
    HistoryRead,
    ToDecide,
)
from api.allocations.lifecycle import State
from api.allocations.models import Allocation
from api.core.access import Actor
from api.core.audit import AuditEvent
from api.core.db import table
from api.core.pagination import Paging, fetch, page_of
from api.workspaces import service as workspaces
from api.workspaces import tenants
from api.workspaces.models import Approval

ALLOCATIONS, CHANGES = table(Allocation), table(AllocationChange)
ASIDE = ("approver", "purpose")


def read_change(change: AllocationChange) -> ChangeRead:
    approver = change.asked.get("approver")
    return ChangeRead(
        id=change.id,
        allocation_id=change.allocation_id,
        kind=change.kind,
        state=change.state,
        asked={name: value for name, value in change.asked.items() if name != "approver"},
        approver=Approval(approver) if approver else None,
        requested_by=change.requested_by,
        requested_at=change.requested_at,
        decided_by=change.decided_by,
        decided_at=change.decided_at,
        reason=change.reason,
    )


def changes_of(
    tx: Session, actor: Actor, allocation_id: UUID, pages: Paging
) -> tuple[list[ChangeRead], str | None]:
    """Newest first."""
    allocation = service.get(tx, actor, allocation_id)
    own = sa.select(AllocationChange).where(col(AllocationChange.allocation_id) == allocation.id)
    rows, following = fetch(tx, own, col(AllocationChange.id), pages, newest_first=True)
    return [read_change(row) for row in rows], following


def history(
    tx: Session, actor: Actor, allocation_id: UUID, pages: Paging
) -> tuple[list[HistoryRead], str | None]:
    """Oldest first: what the audit trail says of it, to those who see the allocation."""
    allocation = service.get(tx, actor, allocation_id)
    own = sa.select(AuditEvent).where(col(AuditEvent.subject_id) == allocation.id)
    events, following = fetch(tx, own, col(AuditEvent.id), pages)
    named = {UUID(event.after["change"]) for event in events if event.after and "change" in event.after}
    changes = {
        row.id: read_change(row)
        for row in tx.execute(
            sa.select(AllocationChange).where(col(AllocationChange.id).in_(named))
        ).scalars()
    }
    return [_event(event, changes) for event in events], following


def _event(event: AuditEvent, changes: dict[UUID, ChangeRead]) -> HistoryRead:
    change = (event.after or {}).get("change")
    return HistoryRead(
        id=event.id,
        at=event.at,
        actor=event.actor,
        action=event.action,
        before=event.before,
        after=event.after,
        reason=event.reason,
        change=changes.get(UUID(change)) if change else None,
    )


def to_decide(tx: Session, actor: Actor, pages: Paging) -> tuple[list[ToDecide], str | None]:
    """Claims and changes about which the actor may decide, the oldest first."""
    claims = sa.select(ALLOCATIONS.c.id).where(
        ALLOCATIONS.c.state == State.REQUESTED,
        *_mine(actor, ALLOCATIONS.c.requested_by_id, col(Allocation.why)["approver"].as_string()),
    )
    changes = (
        sa.select(CHANGES.c.id)
        .join(ALLOCATIONS, ALLOCATIONS.c.id == CHANGES.c.allocation_id)
        .where(
            CHANGES.c.state == REQUESTED,
            ALLOCATIONS.c.state.in_((State.ACTIVE, State.RESERVED)),
            *_mine(actor, CHANGES.c.requested_by_id, col(AllocationChange.asked)["approver"].as_string()),
        )
    )
    waiting = sa.union_all(claims, changes).subquery()
    statement = sa.select(waiting.c.id)
    if pages.after is not None:
        statement = statement.where(waiting.c.id > pages.after)
    rows = tx.execute(statement.order_by(waiting.c.id).limit(pages.limit + 1)).all()
    shown, following = page_of(rows, pages)
    return _told(tx, [row.id for row in shown]), following


def _mine(
    actor: Actor, requested_by_id: sa.ColumnElement[Any], approver: sa.ColumnElement[Any]
) -> list[sa.ColumnElement[bool]]:
    """Nobody decides about what they asked for themselves."""
    others = sa.or_(requested_by_id.is_(None), requested_by_id != actor.user_id)
    if actor.operates:
        return [others]
    own = ALLOCATIONS.c.workspace_id.in_(tenants.decided_by(actor))
    return [others, own, approver == Approval.WORKSPACE.value]


def _told(tx: Session, ids: Sequence[UUID]) -> list[ToDecide]:
    changes = {
        row.id: row
        for row in tx.execute(sa.select(AllocationChange).where(col(AllocationChange.id).in_(ids))).scalars()
    }
    wanted = {change.allocation_id for change in changes.values()} | set(ids)
    allocations = {
        row.id: row
        for row in tx.execute(sa.select(Allocation).where(col(Allocation.id).in_(wanted))).scalars()
    }
    slugs = workspaces.slugs(tx, {row.workspace_id for row in allocations.values()})
    found = []
    for one in ids:
        change = changes.get(one)
        allocation = allocations[change.allocation_id if change else one]
        slug = slugs[allocation.workspace_id]
        found.append(_change(change, slug) if change else _claim(allocation, slug))
    return found


def _claim(allocation: Allocation, slug: str) -> ToDecide:
    return ToDecide(
        id=allocation.id,
        kind="claim",
        allocation_id=allocation.id,
        workspace=slug,
        requested_by=allocation.requested_by,
        requested_at=allocation.created_at,
        approver=Approval((allocation.why or {})["approver"]),
        asked={name: value for name, value in allocation.wanted.items() if name != "purpose"},
        purpose=allocation.wanted.get("purpose"),
        not_before=allocation.not_before,
        expires_at=allocation.expires_at,
        duration_seconds=allocation.duration_seconds,
    )


def _change(change: AllocationChange, slug: str) -> ToDecide:
    end = change.asked.get("expires_at")
    return ToDecide(
        id=change.id,
        kind=change.kind.value,
        allocation_id=change.allocation_id,
        workspace=slug,
        requested_by=change.requested_by,
        requested_at=change.requested_at,
        approver=Approval(change.asked["approver"]),
        asked={name: value for name, value in change.asked.items() if name not in ASIDE},
        purpose=change.asked.get("purpose"),
        not_before=None,
        expires_at=end,
        duration_seconds=None,
    )
