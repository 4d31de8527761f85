"""The end of an allocation: when it comes by itself, and how it is moved."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import approvals, backfill, booking, service, spending, usage, window
from api.allocations.lifecycle import Event, State, advance
from api.allocations.limits import check_quota
from api.allocations.models import Allocation, Hold
from api.allocations.window import Window
from api.core import audit, clock
from api.core.access import Actor
from api.core.db import table
from api.fleet import placement, windows
from api.settings import Settings
from api.workspaces.models import ALL_MODELS
from api.workspaces.service import Tenant

HOLDS = table(Hold)
BATCH = 500


def overdue(tx: Session) -> list[UUID]:
    """Allocations whose time, and the grace after it, is over."""
    statement = sa.select(col(Allocation.id)).where(
        col(Allocation.state) == State.ACTIVE, col(Allocation.ends_at) <= clock.now()
    )
    return list(tx.execute(statement.order_by(col(Allocation.ends_at)).limit(BATCH)).scalars())


def expire(tx: Session, actor: Actor, allocation_id: UUID) -> bool:
    """End it if its time is over; False when somebody ended or extended it meanwhile."""
    tenant, allocation = service.lock(tx, actor, allocation_id)
    if allocation.state is not State.ACTIVE or service.begun(allocation.ends_at) > clock.now():
        return False
    service.finish(tx, actor, tenant, allocation, Event.EXPIRE)
    return True


def extend(tx: Session, actor: Actor, allocation_id: UUID, end: datetime, settings: Settings) -> Allocation:
    """Move the planned end, later or earlier, of what is held or reserved; the same GPUs, or nothing changes.

    Raises Invalid for an end that is past or too far off, WrongState, ReservationConflict where somebody has
    reserved one of the GPUs (with the latest end that is possible), QuotaExceeded where the time added would
    take what the workspace has reserved, BudgetExceeded, and CapacityExceeded where it would hold up a claim
    that waits; operators may do that.
    """
    tenant, allocation = approvals.lock(tx, actor, allocation_id)
    after = advance(allocation.state, Event.EXTEND)
    before = service.begun(allocation.expires_at)
    span = _span(allocation, after, end, settings)
    later = span.ends_at > service.begun(allocation.ends_at)
    heads = backfill.before(tx, allocation, settings) if later and not actor.operates else []
    with (
        spending.tracked(tx, tenant, allocation),
        backfill.considerately(tx, allocation, span, heads, settings) as hosts,
    ):
        if after is State.RESERVED:
            gpu_ids = booking.move_end(tx, tenant, allocation, span)
        else:
            gpu_ids = _hold_until(tx, tenant, allocation, span)
        allocation.expires_at, allocation.ends_at = span.expires_at, span.ends_at
        if heads:
            hosts.update(windows.hosts_of(tx, gpu_ids))
    audit.record(
        tx,
        actor,
        "allocation.extended",
        allocation.id,
        before={"expires_at": before.isoformat()},
        after={"expires_at": span.expires_at.isoformat()},
    )
    return allocation


def _span(allocation: Allocation, after: State, end: datetime, settings: Settings) -> Window:
    if after is State.RESERVED:
        return _reserved(allocation, end, settings)
    now = clock.now()
    return window.between(now, window.checked_end(end, now, settings), settings)


def _reserved(allocation: Allocation, end: datetime, settings: Settings) -> Window:
    """It may be late already: its end must be ahead as well."""
    window.checked_end(end, clock.now(), settings)
    begin = service.begun(allocation.not_before)
    return window.between(begin, window.checked_end(end, begin, settings), settings, later=True)


def _hold_until(tx: Session, tenant: Tenant, allocation: Allocation, span: Window) -> list[UUID]:
    ends_at = service.begun(allocation.ends_at)
    if span.ends_at > ends_at:
        _check_quota(tx, tenant, allocation, replace(span, starts_at=ends_at))
    gpu_ids = windows.lock_held(tx, allocation.id)
    booking.refuse_reserved(tx, gpu_ids, allocation.id, span)
    placement.hold_until(tx, allocation.id, span.free_at)
    return gpu_ids


def _check_quota(tx: Session, tenant: Tenant, allocation: Allocation, added: Window) -> None:
    """What the workspace has reserved in the time added stays possible."""
    then = usage.longer(tx, tenant, allocation.requested_by_id, added, allocation.id)
    if then is not None:
        mine = sa.and_(HOLDS.c.allocation_id == allocation.id, HOLDS.c.ended_at.is_(None))
        models = Counter(tx.execute(sa.select(HOLDS.c.model).where(mine)).scalars())
        check_quota(then, models + Counter({ALL_MODELS: models.total()}), later=True)
