"""What is done with allocations that exist: see them, lock them, end them."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import spending
from api.allocations.lifecycle import OPEN, Event, State, advance
from api.allocations.models import Allocation, Hold, Reservation
from api.core import audit, clock, etags
from api.core.access import Actor
from api.core.db import table
from api.core.errors import Conflict, NotFound
from api.fleet import placement
from api.workspaces import service as workspaces
from api.workspaces.service import Tenant

HOLDS, RESERVATIONS = table(Hold), table(Reservation)
TICK = timedelta(microseconds=1)


def get(tx: Session, actor: Actor, allocation_id: UUID) -> Allocation:
    """One that the actor's workspaces do not own is not found."""
    allocation = tx.execute(visible(actor).where(col(Allocation.id) == allocation_id)).scalar_one_or_none()
    if allocation is None:
        raise NotFound(f"There is no allocation {allocation_id} that you may see.")
    return allocation


def visible(actor: Actor) -> sa.Select[Allocation]:
    statement = sa.select(Allocation)
    if actor.operates:
        return statement
    return statement.where(col(Allocation.workspace_id).in_(workspaces.visible_ids(actor)))


def lock(tx: Session, actor: Actor, allocation_id: UUID) -> tuple[Tenant, Allocation]:
    """Quota first, then the allocation, hosts and GPUs: every change of the ledger locks in that order."""
    allocation = get(tx, actor, allocation_id)
    tenant = workspaces.lock_tenant(tx, actor, allocation.workspace_id)
    tx.refresh(allocation, with_for_update=True)
    check_owner(tenant, allocation)
    return tenant, allocation


def check_owner(tenant: Tenant, allocation: Allocation) -> None:
    """Raises Conflict when the allocation changed hands while its workspace was waited for."""
    if allocation.workspace_id != tenant.id:
        raise Conflict(f"Allocation {allocation.id} was just handed to another workspace; look again.")


def version(allocation: Allocation) -> str:
    """Another one whenever somebody moved its end or its state."""
    return etags.version(allocation)


def check(tx: Session, actor: Actor, allocation_id: UUID) -> None:
    """Go on only if the allocation is as the request's `If-Match` says. Locks it as `lock` does."""
    etags.check(tx, lambda: version(lock(tx, actor, allocation_id)[1]))


def release(tx: Session, actor: Actor, allocation_id: UUID, *, reason: str | None = None) -> Allocation:
    """End it now, or withdraw it if it has not begun. Releasing what has ended changes nothing."""
    tenant, allocation = lock(tx, actor, allocation_id)
    if allocation.state is State.ACTIVE:
        finish(tx, actor, tenant, allocation, Event.RELEASE, reason=reason)
    elif allocation.state in OPEN:
        withdraw(tx, actor, allocation, Event.CANCEL, reason=reason)
    return allocation


def begun(moment: datetime | None) -> datetime:
    """A moment that every allocation has once it is active."""
    assert moment is not None
    return moment


def finish(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    event: Event,
    *,
    reason: str | None = None,
) -> None:
    """End an active, locked allocation: its holds are closed and its hosts reclaimed."""
    ended = max(clock.now(), _last_begin(tx, allocation) + TICK)
    allocation.state = advance(allocation.state, event)
    allocation.ended_at, allocation.preempt_at = ended, None
    allocation.reason = reason or allocation.reason
    tx.flush()
    with spending.tracked(tx, tenant, allocation):
        placement.give_back(
            tx, actor, allocation.id, ended, reason=f"allocation {allocation.id} {allocation.state}"
        )
        tx.execute(
            sa.update(HOLDS)
            .where(HOLDS.c.allocation_id == allocation.id, HOLDS.c.ended_at.is_(None))
            .values(ended_at=ended)
        )
    before = {"state": State.ACTIVE}
    audit.record(tx, actor, f"allocation.{allocation.state}", allocation.id, before=before, reason=reason)


def _last_begin(tx: Session, allocation: Allocation) -> datetime:
    """Of its open holds: a clock that was set back since it grew or changed hands ends none before that."""
    latest = sa.select(sa.func.max(HOLDS.c.started_at)).where(
        HOLDS.c.allocation_id == allocation.id, HOLDS.c.ended_at.is_(None)
    )
    return tx.execute(latest).scalar_one() or begun(allocation.started_at)


def withdraw(
    tx: Session, actor: Actor, allocation: Allocation, event: Event, *, reason: str | None = None
) -> None:
    """End a locked allocation that has not begun; what was set aside for it is free again."""
    before = allocation.state
    allocation.state = advance(allocation.state, event)
    allocation.ended_at = clock.now()
    allocation.reason = reason or allocation.reason
    tx.flush()
    if before is State.RESERVED:
        _give_up(tx, allocation)
    audit.record(
        tx,
        actor,
        f"allocation.{allocation.state}",
        allocation.id,
        before={"state": before},
        reason=reason,
    )


def _give_up(tx: Session, allocation: Allocation) -> None:
    with spending.tracked(tx, None, allocation):
        tx.execute(
            sa.update(RESERVATIONS)
            .where(RESERVATIONS.c.allocation_id == allocation.id, RESERVATIONS.c.closed_at.is_(None))
            .values(closed_at=allocation.ended_at)
        )
