"""What claims that wait need, and what there will be for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import claims, window
from api.allocations.lifecycle import State
from api.allocations.models import Allocation
from api.allocations.window import Window
from api.fleet import pool as fleet_pool
from api.fleet.pool import Demand, Pool
from api.workspaces.models import ALL_MODELS

if TYPE_CHECKING:
    from api.settings import Settings


def of(allocation: Allocation, settings: Settings) -> Demand:
    """For its length from the grant on, or until its end."""
    groups = tuple(claims.wanted_groups(allocation.wanted))
    separate = bool(allocation.wanted.get("separate_hosts"))
    after = timedelta(seconds=settings.allocation_grace + settings.cleaning_gap)
    if allocation.duration_seconds is not None:
        return Demand(groups, separate, lasts=timedelta(seconds=allocation.duration_seconds) + after)
    assert allocation.expires_at is not None
    return Demand(groups, separate, until=allocation.expires_at + after)


def gpus(demand: Demand) -> Counter[str]:
    """How many, of all models together and of each that is named."""
    asked = Counter({ALL_MODELS: demand.count})
    for group in demand.groups:
        if group.model:
            asked[group.model] += group.count
    return asked


def span(allocation: Allocation, now: datetime, settings: Settings) -> Window:
    """The window that it would have if it began now."""
    if allocation.duration_seconds is not None:
        return window.between(now, now + timedelta(seconds=allocation.duration_seconds), settings)
    assert allocation.expires_at is not None
    return window.between(now, allocation.expires_at, settings)


def pending(tx: Session) -> dict[UUID, datetime]:
    """The allocations that are to yield, and when."""
    rows = tx.execute(
        sa.select(col(Allocation.id), col(Allocation.preempt_at)).where(
            col(Allocation.state) == State.ACTIVE, col(Allocation.preempt_at).is_not(None)
        )
    )
    return {row.id: row.preempt_at for row in rows}


def pool(
    tx: Session,
    demands: Sequence[Demand],
    now: datetime,
    settings: Settings,
    *,
    hosts: Collection[UUID] | None = None,
) -> Pool:
    """What is free, and when the rest will be: by the known ends, and by what is to yield."""
    gap = timedelta(seconds=settings.cleaning_gap)
    ends = {holder: window.free_at(end, settings) for holder, end in pending(tx).items()}
    return fleet_pool.read(tx, demands, now, gap, hosts=hosts).ending(ends)
