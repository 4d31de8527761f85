"""What allocations cost budgets: every change of what one holds, or is to hold, goes through `tracked`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations.models import Allocation, Hold, Reservation
from api.core.db import table
from api.fleet.placement import Taken
from api.workspaces import budgets
from api.workspaces.service import Tenant
from api.workspaces.spans import Span, Spans

ALLOCATIONS, HOLDS, RESERVATIONS = table(Allocation), table(Hold), table(Reservation)
OPEN = "ironyard_tracked"


@contextmanager
def tracked(tx: Session, tenant: Tenant | None, allocation: Allocation) -> Iterator[list[str]]:
    """Around a change of an allocation's holds, reservations or end: its budgets move by the difference.

    What comes out is filled at the end with warnings of soft limits that were crossed. The tenant is locked;
    one without budgets costs no statement, None is looked up. Inside of another for the same allocation it
    does nothing. Raises BudgetExceeded and NoRate where the change costs more than there is.
    """
    outer: dict[UUID, list[str]] = tx.info.setdefault(OPEN, {})
    warnings = outer.get(allocation.id, [])
    if allocation.id in outer or (tenant is not None and not tenant.budgeted):
        yield warnings
        return
    outer[allocation.id] = warnings
    try:
        new = sa.inspect(allocation).transient or sa.inspect(allocation).pending
        before = Spans() if new else of(tx, allocation)
        yield warnings
        tx.flush()
        warnings += budgets.move(tx, before, of(tx, allocation), grace=_grace(allocation))
    finally:
        del outer[allocation.id]


def of(tx: Session, allocation: Allocation) -> Spans:
    """What an allocation holds or held, and has reserved."""
    found = Spans()
    for hold in tx.execute(sa.select(HOLDS).where(HOLDS.c.allocation_id == allocation.id)):
        found[_held(hold, allocation.ends_at)] += 1
    mine = sa.and_(RESERVATIONS.c.allocation_id == allocation.id, RESERVATIONS.c.closed_at.is_(None))
    for booked in tx.execute(sa.select(RESERVATIONS).where(mine)):
        found[_reserved(booked)] += 1
    return found


def between(
    tx: Session,
    workspace_ids: Collection[UUID],
    user_id: UUID | None,
    start: datetime,
    end: datetime | None = None,
) -> Spans:
    """What was, is or will be held by tenants in `[start, end)`, by one user of them or all; whole spans."""
    held, booked = HOLDS.c, RESERVATIONS.c
    holds = (
        sa.select(HOLDS, ALLOCATIONS.c.ends_at)
        .join(ALLOCATIONS, ALLOCATIONS.c.id == held.allocation_id)
        .where(held.workspace_id.in_(workspace_ids), sa.or_(held.ended_at.is_(None), held.ended_at > start))
    )
    later = sa.select(RESERVATIONS).where(booked.workspace_id.in_(workspace_ids), booked.closed_at.is_(None))
    if user_id is not None:
        holds, later = holds.where(held.user_id == user_id), later.where(booked.user_id == user_id)
    if end is not None:
        holds, later = holds.where(held.started_at < end), later.where(booked.starts_at < end)
    found = Spans()
    found.update(_held(hold, hold.ends_at) for hold in tx.execute(holds))
    found.update(_reserved(row) for row in tx.execute(later))
    return found


def agreed(
    tx: Session, allocation_id: UUID, taken: Sequence[Taken], present: Sequence[Decimal | None]
) -> list[Decimal | None]:
    """The rates at which the GPUs were reserved; the present ones where there were none then."""
    own = RESERVATIONS.c
    rows = tx.execute(
        sa.select(own.gpu_id, own.rate).where(own.allocation_id == allocation_id).order_by(own.id)
    )
    kept = {row.gpu_id: row.rate for row in rows if row.rate is not None}
    return [kept.get(gpu.gpu_id, rate) for gpu, rate in zip(taken, present, strict=True)]


def _held(hold: Any, planned: datetime | None) -> Span:
    """Until its planned end or, where it ended before, until then; what came after the plan is `late`."""
    ended = hold.ended_at
    end = max(hold.started_at, planned if planned is not None else ended or hold.started_at)
    return Span(
        workspace_id=hold.workspace_id,
        user_id=hold.user_id,
        start=hold.started_at,
        end=end if ended is None else min(end, ended),
        rate=hold.rate,
        late=ended if ended is not None and ended > end else None,
        open=ended is None,
    )


def _reserved(booked: Any) -> Span:
    whose = (booked.workspace_id, booked.user_id)
    return Span(*whose, booked.starts_at, booked.ends_at, booked.rate, held=False)


def _grace(allocation: Allocation) -> timedelta:
    if allocation.ends_at is None or allocation.expires_at is None:
        return timedelta()
    return allocation.ends_at - allocation.expires_at
