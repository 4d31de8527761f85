"""The usage report: read from holds and host histories, never counted on the side."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from sqlalchemy.orm import Session

from api.allocations import queries as allocations
from api.allocations.models import Allocation, Hold
from api.billing.models import CapacityLine, UsageLine, UsageReport
from api.core import clock
from api.core.clock import whole_seconds
from api.core.errors import Invalid
from api.fleet import queries as fleet
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, HostPeriod
from api.identity import service as identity
from api.workspaces import service as workspaces

CATEGORY = {
    State.IDLE: "idle",
    State.ALLOCATED: "idle",  # the host is lent, this GPU of it is not
    State.ENROLLING: "reclaiming",
    State.CLEANING: "reclaiming",
    State.RECLAIMING: "reclaiming",
    State.MAINTENANCE: "maintenance",
}


class LedgerContradiction(Exception):
    """The ledger says two things at once of a GPU; a report on top of that would be wrong."""


def usage_report(tx: Session, start: datetime, end: datetime) -> UsageReport:
    """Usage and capacity in `[start, end)`, cut at the present moment.

    Raises Invalid when the window is empty, LedgerContradiction when the parts of a GPU's time do not add up.
    """
    now = clock.now()
    if end <= start:
        raise Invalid("`to` must be later than `from`.")
    until = min(end, now)
    if until <= start:
        raise Invalid("The window lies in the future; nothing has been used yet.")
    rows = allocations.holds_between(tx, start, until)
    gpus = fleet.enrolled(tx, start, until)
    known = fleet.gpus_by_id(tx, [hold.gpu_id for hold, _ in rows])
    names = fleet.host_names(tx, {gpu.host_id for gpu in gpus} | {hold.host_id for hold, _ in rows})
    slugs = workspaces.slugs(tx, {hold.workspace_id for hold, _ in rows})
    holders = identity.emails(tx, {hold.user_id for hold, _ in rows if hold.user_id})
    periods = fleet.periods(tx, start, until)
    holds: dict[UUID, list[Hold]] = defaultdict(list)
    for hold, _ in rows:
        holds[hold.gpu_id].append(hold)
    return UsageReport(
        start=start,
        end=until,
        generated_at=now,
        usage=[_usage(hold, owner, known, names, slugs, holders, start, until) for hold, owner in rows],
        capacity=[
            _capacity(gpu, names[gpu.host_id], holds[gpu.id], periods.get(gpu.host_id, []), start, until)
            for gpu in gpus
        ],
    )


def capacity_of(
    tx: Session, host_id: UUID, host: str, periods: list[HostPeriod], start: datetime, until: datetime
) -> list[CapacityLine]:
    """How the time of one host's GPUs was spent."""
    holds: dict[UUID, list[Hold]] = defaultdict(list)
    for hold, _ in allocations.holds_between(tx, start, until, host_id=host_id):
        holds[hold.gpu_id].append(hold)
    gpus = fleet.enrolled(tx, start, until, host_id=host_id)
    return [_capacity(gpu, host, holds[gpu.id], periods, start, until) for gpu in gpus]


def _usage(
    hold: Hold,
    allocation: Allocation,
    gpus: dict[UUID, Gpu],
    names: dict[UUID, str],
    slugs: dict[UUID, str],
    holders: dict[UUID, str],
    start: datetime,
    until: datetime,
) -> UsageLine:
    began, ended = cut(hold.started_at, hold.ended_at, start, until)
    return UsageLine(
        allocation_id=allocation.id,
        workspace=slugs[hold.workspace_id],
        requested_by=(holders.get(hold.user_id) if hold.user_id else None) or allocation.requested_by,
        host=names[hold.host_id],
        gpu_uuid=gpus[hold.gpu_id].uuid,
        model=hold.model,
        start=began,
        end=ended,
        open=hold.ended_at is None or hold.ended_at > until,
        gpu_seconds=whole_seconds(ended) - whole_seconds(began),
    )


def _capacity(
    gpu: Gpu, host: str, holds: list[Hold], periods: list[HostPeriod], start: datetime, until: datetime
) -> CapacityLine:
    began, ended = cut(gpu.enrolled_at, gpu.removed_at, start, until)
    seconds = dict.fromkeys(("allocated", "idle", "reclaiming", "maintenance"), 0)
    for category, first, last in _stretches(gpu, holds, periods, began, ended):
        seconds[category] += whole_seconds(last) - whole_seconds(first)
    enrolled = whole_seconds(ended) - whole_seconds(began)
    if sum(seconds.values()) != enrolled:
        raise LedgerContradiction(f"GPU {gpu.uuid}: {seconds} do not add up to {enrolled} enrolled seconds")
    return CapacityLine(
        host=host,
        gpu_uuid=gpu.uuid,
        model=gpu.model,
        enrolled_seconds=enrolled,
        allocated_seconds=seconds["allocated"],
        idle_seconds=seconds["idle"],
        reclaiming_seconds=seconds["reclaiming"],
        maintenance_seconds=seconds["maintenance"],
    )


def _stretches(
    gpu: Gpu, holds: list[Hold], periods: list[HostPeriod], began: datetime, ended: datetime
) -> Iterator[tuple[str, datetime, datetime]]:
    """The GPU's enrolled time as (category, from, to), each moment in exactly one."""
    cut_holds = [cut(hold.started_at, hold.ended_at, began, ended) for hold in holds]
    cut_periods = [(row.state, *cut(row.started_at, row.ended_at, began, ended)) for row in periods]
    edges = {began, ended}
    edges.update(edge for cut in cut_holds for edge in cut)
    edges.update(edge for _, *cut in cut_periods for edge in cut)
    for first, last in pairwise(sorted(edges)):
        held = sum(1 for start, end in cut_holds if start <= first < end)
        states = [state for state, start, end in cut_periods if start <= first < end]
        if held > 1 or len(states) != 1:
            raise LedgerContradiction(
                f"GPU {gpu.uuid} at {first.isoformat()}: {held} holds, host states {states}"
            )
        if held and states[0] is not State.ALLOCATED:
            raise LedgerContradiction(f"GPU {gpu.uuid} is held at {first.isoformat()} on a host {states[0]}")
        yield ("allocated" if held else CATEGORY[states[0]]), first, last


def cut(
    first: datetime, last: datetime | None, start: datetime, until: datetime
) -> tuple[datetime, datetime]:
    return min(max(first, start), until), max(min(last or until, until), start)


COLUMNS = (
    "part",
    *UsageLine.model_fields,
    *(name for name in CapacityLine.model_fields if name.endswith("s")),
)


def as_csv(report: UsageReport) -> str:
    """Both parts in one table; `part` tells `usage` lines from `capacity` lines."""
    names = list(dict.fromkeys(COLUMNS))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\r\n")
    writer.writeheader()
    for part, lines in (("usage", report.usage), ("capacity", report.capacity)):
        for line in lines:
            writer.writerow({"part": part} | {k: _safe(v) for k, v in line.model_dump(mode="json").items()})
    return out.getvalue()


def _safe(value: object) -> object:
    """A text that a spreadsheet would run as a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
