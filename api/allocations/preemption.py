"""Preemptible allocations yield, after a notice, to a claim that waits and is not preemptible itself."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import demands, service, window
from api.allocations.lifecycle import Event, State
from api.allocations.models import Allocation
from api.core import audit, clock, notices
from api.core.access import Actor
from api.fleet import pool as fleet_pool
from api.fleet.placement import CapacityExceeded
from api.fleet.pool import Demand, Pool

if TYPE_CHECKING:
    from api.settings import Settings

MOST = 1000  # of the weakest preemptible allocations so many are weighed
MAY_YIELD = (
    col(Allocation.state) == State.ACTIVE,
    col(Allocation.preemptible),
    col(Allocation.preempt_at).is_(None),
)


@dataclass(frozen=True, slots=True)
class Holder:
    """A preemptible allocation and how many GPUs of use it holds."""

    id: UUID
    priority: int
    started_at: datetime
    gpus: int

    @property
    def weakest_first(self) -> tuple[Any, ...]:
        return self.priority, -self.started_at.timestamp(), self.id


def anyone(tx: Session) -> bool:
    """Whether there is anybody who could yield."""
    return bool(tx.execute(sa.select(sa.exists().where(*MAY_YIELD))).scalar_one())


def plan(
    tx: Session, actor: Actor, allocation: Allocation, ahead: Sequence[Demand], settings: Settings
) -> list[UUID]:
    """Announce their end to as few as it takes, for a locked claim that waits for capacity.

    Nobody, where that would bring it nothing: it begins as early without, or cannot begin with all of them
    ended; nor where it would hold up one of those `ahead`. Those announced for another claim do not count.
    """
    if allocation.preemptible:
        return []
    now = clock.now()
    preempt_at = now + timedelta(seconds=settings.preemption_notice)
    freed = max(
        window.free_at(preempt_at, settings), now + fleet_pool.SOON
    )  # no pool knows of anything sooner
    demand = demands.of(allocation, settings)
    pool = _pool(tx, allocation, demand, now, settings)
    start = pool.start(demand)
    if (start is not None and start <= freed) or (demand.until is not None and demand.until <= freed):
        return []
    chosen = choose(pool, demand, _holders(tx, pool.holders(demand)), freed)
    ids = [one.id for one in chosen]
    heads = [head for head in ahead if head.competes(demand)]
    if (
        ids
        and heads
        and _holds_up(demands.pool(tx, [demand, *heads], now, settings), ids, demand, heads, freed)
    ):
        return []
    if ids and _announce(tx, actor, ids, allocation, preempt_at):
        kept = allocation.why or {}
        yielding = [*kept.get("yielding", []), *map(str, ids)]
        allocation.why = kept | {"yielding": yielding, "enough_at": freed.isoformat()}
        tx.flush()
        return ids
    return []


def _holds_up(
    pool: Pool, ids: Sequence[UUID], demand: Demand, heads: Sequence[Demand], freed: datetime
) -> bool:
    """Whether one that comes first would have begun when these end by themselves, and then could not."""
    after = pool.ending(dict.fromkeys(ids, freed))
    later = []
    for head in heads:
        start = pool.start(head)
        if start is not None and start <= freed:
            after = after.placed(head, start) or after
        elif start is not None:
            later.append((head, start))
    rest = after.placed(demand, freed)
    return rest is None or any(not rest.can(head, start) for head, start in later)


def _pool(tx: Session, allocation: Allocation, demand: Demand, now: datetime, settings: Settings) -> Pool:
    own = set((allocation.why or {}).get("yielding", []))
    ends = {
        holder: window.free_at(end, settings) if str(holder) in own else None
        for holder, end in demands.pending(tx).items()
    }
    return fleet_pool.read(tx, [demand], now, timedelta(seconds=settings.cleaning_gap)).ending(ends)


def _holders(tx: Session, helpful: dict[UUID, int]) -> list[Holder]:
    rows = tx.execute(
        sa.select(col(Allocation.id), col(Allocation.priority), col(Allocation.started_at))
        .where(*MAY_YIELD)
        .order_by(col(Allocation.priority), col(Allocation.started_at).desc())
        .limit(MOST)
    )
    return [
        Holder(row.id, row.priority, row.started_at, helpful[row.id]) for row in rows if row.id in helpful
    ]


def choose(pool: Pool, demand: Demand, holders: Sequence[Holder], at: datetime) -> list[Holder]:
    """The fewest, of the lowest priority, whose end lets `demand` begin at `at`; none when all do not help.

    Among equals the one that began last yields. Whole allocations yield, so one that suffices alone and
    holds least is taken rather than several.
    """

    def enough(chosen: Collection[Holder]) -> bool:
        return pool.ending({one.id: at for one in chosen}).can(demand, at)

    weakest = sorted(holders, key=lambda one: one.weakest_first)
    needed = bisect_left(range(len(weakest) + 1), True, key=lambda number: enough(weakest[:number]))
    if needed == 0 or needed > len(weakest):
        return []
    reach = [one for one in weakest if one.priority <= weakest[needed - 1].priority]
    for one in sorted(reach, key=lambda one: (one.priority, one.gpus, *one.weakest_first)):
        if enough([one]):
            return [one]
    kept = list(reach)
    for one in sorted(reach, key=lambda one: (-one.priority, one.gpus, one.started_at, one.id)):
        without = [other for other in kept if other is not one]
        if enough(without):
            kept = without
    return kept


def _announce(
    tx: Session, actor: Actor, ids: list[UUID], allocation: Allocation, preempt_at: datetime
) -> bool:
    """False, and nothing done, when one of them has ended or changed meanwhile."""
    rows = (
        tx.execute(
            sa.select(Allocation)
            .where(col(Allocation.id).in_(ids), *MAY_YIELD)
            .order_by(col(Allocation.id))
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        .scalars()
        .all()
    )
    if len(rows) < len(ids):
        return False
    for row in rows:
        row.preempt_at = preempt_at
        row.why = (row.why or {}) | {"yields_to": str(allocation.id)}
        text = (
            f"Allocation {row.id} is preemptible and ends at {preempt_at:%Y-%m-%dT%H:%M:%SZ}, "
            "for a claim with a guarantee. Save your work before."
        )
        _tell(tx, "allocation.preemption_planned", row, text, preempt_at)
        after = {"preempt_at": preempt_at.isoformat(), "yields_to": str(allocation.id)}
        audit.record(tx, actor, "allocation.preemption_planned", row.id, after=after)
    tx.flush()
    return True


def settle(tx: Session, actor: Actor, allocation_id: UUID) -> bool:
    """End one whose notice is over; call it off where nobody needs its GPUs any more. True when it ended."""
    tenant, allocation = service.lock(tx, actor, allocation_id)
    if allocation.state is not State.ACTIVE or allocation.preempt_at is None:
        return False
    yields_to = (allocation.why or {}).get("yields_to")
    if not _still_waits(tx, allocation.id, yields_to):
        _call_off(tx, actor, allocation, yields_to)
        return False
    if allocation.preempt_at > clock.now():
        return False
    reason = f"yielded to allocation {yields_to}, which has a guarantee"
    _tell(tx, "allocation.preempted", allocation, f"Allocation {allocation.id} has ended: it {reason}.")
    service.finish(tx, actor, tenant, allocation, Event.PREEMPT, reason=reason)
    return True


def _still_waits(tx: Session, allocation_id: UUID, yields_to: str | None) -> bool:
    """Whether the claim is still queued, and still counts on this one."""
    if yields_to is None:
        return False
    statement = sa.select(col(Allocation.why)).where(
        col(Allocation.id) == UUID(yields_to), col(Allocation.state) == State.QUEUED
    )
    why = tx.execute(statement).scalar_one_or_none()
    yielding: list[str] = (why or {}).get("yielding", [])
    return str(allocation_id) in yielding


def _call_off(tx: Session, actor: Actor, allocation: Allocation, yields_to: str | None) -> None:
    planned, allocation.preempt_at = allocation.preempt_at, None
    allocation.why = {name: value for name, value in (allocation.why or {}).items() if name != "yields_to"}
    tx.flush()
    text = f"Allocation {allocation.id} stays: the claim that it was to yield to does not need it any more."
    _tell(tx, "allocation.preemption_called_off", allocation, text, planned)
    before = {"preempt_at": planned.isoformat() if planned else None, "yields_to": yields_to}
    audit.record(tx, actor, "allocation.preemption_called_off", allocation.id, before=before)


def _tell(tx: Session, kind: str, row: Allocation, text: str, at: datetime | None = None) -> None:
    moment = at.isoformat() if at else None
    notices.tell(
        tx, kind, f"{kind}:{row.id}:{moment}", row.id, text, workspace_id=row.workspace_id, preempt_at=moment
    )


def told(tx: Session, short: Any, allocation: Allocation, settings: Settings) -> Any:
    """The refusal of a direct claim, with what preemptible allocations hold of what it wants."""
    if not isinstance(short, CapacityExceeded) or allocation.preemptible or not anyone(tx):
        return short
    demand = demands.of(allocation, settings)
    helpful = fleet_pool.read(tx, [demand], clock.now(), timedelta(0)).holders(demand)
    number = sum(one.gpus for one in _holders(tx, helpful))
    if not number:
        return short
    more = f" Preemptible allocations hold {number} that match; wait=true queues for them."
    return CapacityExceeded(short.detail + more, **(short.facts | {"preemptible": number}))
