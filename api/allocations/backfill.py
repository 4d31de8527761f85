"""What goes before those that wait for GPUs: whatever leaves them as early as they could begin without it.

That is EASY backfill, for more than the first in line. It holds for claims that are granted out of their
turn, for reservations, and for what is held already and is to be held for longer, or more of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import demands
from api.allocations.lifecycle import State
from api.allocations.models import Allocation
from api.allocations.window import Window
from api.core import clock
from api.core.db import is_sqlite
from api.fleet.placement import CapacityExceeded
from api.fleet.pool import Demand, Pool

if TYPE_CHECKING:
    from api.settings import Settings

HEADS = 8  # of those that come first so many are looked after
CLAIMS = "Ask for a shorter time or for other GPUs, or queue as well with wait=true."
GROWS = "Ask for an earlier end, claim anew with wait=true, or ask an operator."
SERIALIZE = sa.text("SELECT pg_advisory_xact_lock(7308898)")
ANYONE = sa.select(sa.exists().where(col(Allocation.state) == sa.literal_column("'queued'")))


class WaitsFor(StrEnum):
    CAPACITY = "capacity"
    QUOTA = "quota"
    TURN = "turn"  # there are GPUs, and taking them would hold up somebody before it
    BUDGET = "budget"


class Head(NamedTuple):
    """One that comes first, and when it is to begin as was last forecast; None where that is not known."""

    demand: Demand
    start: datetime | None


def anyone(tx: Session) -> bool:
    return bool(tx.execute(ANYONE).scalar_one())


def before(tx: Session, allocation: Allocation, settings: Settings) -> list[Head]:
    """Those that wait for capacity that this one competes for, and come before it."""
    if not anyone(tx):
        return []
    why = col(Allocation.why)
    is_owed = why["yielding"].as_string().is_not(None)
    rows = tx.execute(
        sa.select(Allocation)
        .where(
            col(Allocation.state) == State.QUEUED,
            col(Allocation.id) != allocation.id,
            why["waits_for"].as_string() == WaitsFor.CAPACITY.value,
            sa.or_(col(Allocation.priority) >= allocation.priority, is_owed),
        )
        .order_by(is_owed.desc(), col(Allocation.priority).desc(), col(Allocation.id))
        .limit(HEADS * 8)
    ).scalars()
    own = demands.of(allocation, settings)
    heads = [Head(demands.of(row, settings), _enough_at(row)) for row in rows]
    return [head for head in heads if head.demand.competes(own)]


def _enough_at(row: Allocation) -> datetime | None:
    known = (row.why or {}).get("enough_at")
    return datetime.fromisoformat(known) if known else None


@contextmanager
def considerately(
    tx: Session, allocation: Allocation, span: Window, heads: Sequence[Head], settings: Settings
) -> Iterator[set[UUID]]:
    """Between the braces GPUs are held, or set aside, for the allocation in that window.

    The hosts that this touches are to be added to the set. It is taken back if it holds up one of `heads`:
    raises CapacityExceeded (`ahead`: how many come first; `latest`: until when it would hold up nobody).
    """
    grows = allocation.state in {State.ACTIVE, State.RESERVED} and sa.inspect(allocation).persistent
    touched = [head.demand for head in heads if head.start is None or span.free_at > head.start]
    touched = list(dict.fromkeys(touched))[:HEADS]
    with tx.begin_nested():
        if touched and not is_sqlite(tx):
            tx.execute(SERIALIZE)  # two at once, each harmless by itself, could together hold up a third
        pool = demands.pool(tx, touched, clock.now(), settings) if touched else None
        hosts: set[UUID] = set()
        yield hosts
        if pool is not None:
            tx.flush()
            late = _held_up(tx, pool, touched, hosts, settings)
            if late:
                latest = min(late) - (span.free_at - span.expires_at)
                raise _ahead(allocation, len(touched), latest, GROWS if grows else CLAIMS)


def _held_up(
    tx: Session, pool: Pool, heads: Sequence[Demand], hosts: Collection[UUID], settings: Settings
) -> list[datetime]:
    """When those would have begun that now cannot any more."""
    after = pool.with_hosts(demands.pool(tx, heads, pool.now, settings, hosts=hosts or None))
    starts = [(head, pool.start(head)) for head in heads]
    return [start for head, start in starts if start is not None and not after.can(head, start)]


def _ahead(allocation: Allocation, number: int, latest: datetime, advice: str) -> CapacityExceeded:
    waiters = "1 claim waits" if number == 1 else f"{number} claims wait"
    return CapacityExceeded(
        f"{waiters} for the same GPUs and would be held up. {advice}",
        asked=allocation.wanted,
        ahead=number,
        latest=latest.isoformat() if latest > clock.now() else None,
    )
