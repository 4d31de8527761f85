"""One host's use in a window, from the same stretches of time as the usage report."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel
from pydantic import Field as Member
from sqlalchemy.orm import Session

from api.billing.models import CapacityLine
from api.billing.service import capacity_of, cut
from api.core import clock
from api.core.clock import whole_seconds
from api.core.errors import Invalid
from api.core.operations import service as operations
from api.fleet import queries as fleet
from api.fleet.lifecycle import State
from api.fleet.models import Host


class HostUsage(BaseModel):
    """Whole seconds in `[start, end)`, cut at the present moment and at the host's first."""

    host_id: UUID
    host: str
    start: datetime
    end: datetime
    states: dict[State, int] = Member(description="seconds that the host spent in each state")
    gpu_seconds: dict[str, int] = Member(
        description="of all its GPUs: enrolled = allocated + idle + reclaiming + maintenance"
    )
    utilization: float | None = Member(description="allocated of enrolled GPU-seconds; null without GPUs")
    gpus: list[CapacityLine]
    operations: dict[str, dict[str, int]] = Member(description="by kind and state, those that began here")


PARTS = ("enrolled", "allocated", "idle", "reclaiming", "maintenance")


def host_usage(tx: Session, host: Host, start: datetime, end: datetime) -> HostUsage:
    """Raises Invalid when the window is empty or holds nothing of this host."""
    until = min(end, clock.now())
    began = max(start, host.created_at)
    if until <= began:
        raise Invalid("The window is empty, lies in the future, or before this host was recorded.")
    periods = fleet.periods(tx, began, until, host_id=host.id).get(host.id, [])
    states: Counter[State] = Counter()
    for period in periods:
        first, last = cut(period.started_at, period.ended_at, began, until)
        states[period.state] += whole_seconds(last) - whole_seconds(first)
    lines = capacity_of(tx, host.id, host.name, periods, began, until)
    total = {part: sum(getattr(line, f"{part}_seconds") for line in lines) for part in PARTS}
    return HostUsage(
        host_id=host.id,
        host=host.name,
        start=began,
        end=until,
        states=dict(states),
        gpu_seconds=total,
        utilization=round(total["allocated"] / total["enrolled"], 4) if total["enrolled"] else None,
        gpus=lines,
        operations=operations.counts(tx, host.id, began, until),
    )
