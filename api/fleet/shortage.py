"""What is short when a claim is refused, and when enough will be free."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from api.fleet.forecast import enough_at
from api.fleet.lifecycle import LENDABLE
from api.fleet.models import Health
from api.fleet.rooms import GPU, HOST, UNTIL, View, free_later, free_now, matches
from api.fleet.wanted import CapacityExceeded, Wanted

# Why a GPU that matches cannot be had, the first that applies, and what a person reads of so many of them.
SENTENCES = {
    "held": "are held",
    "away": "are on hosts that are being cleaned, enrolled or repaired",
    "cordoned": "are on cordoned hosts",
    "unwell": "are out of the pool: their last health check failed",
    "unchecked": "wait for a health check of their host",
    "reserved": "are reserved for a time before this claim would end",
}


def told(
    view: View, groups: Sequence[Wanted], short: int, at: datetime, *, separate: bool
) -> CapacityExceeded:
    """The refusal, with the numbers of each group; `short`: the group that could not be had."""
    counted = [_counts(view, wanted) for wanted in groups]
    wanted, counts = groups[short], counted[short]
    lasts = view.moment.until - at
    when = enough_at(view.tx, groups, at, lasts=lasts, separate=separate)
    detail = _detail(wanted, counts, (short + 1, len(groups)))
    if when is not None and when > at:
        detail += f" Enough will be free at {when:%Y-%m-%dT%H:%M:%SZ}, by the known ends."
    elif when is None:
        detail += " By the known ends there will not be enough."
    several: dict[str, Any] = {}
    if len(groups) > 1:
        each = [{"asked": one.describe(), **numbers} for one, numbers in zip(groups, counted, strict=True)]
        several = {"group": short + 1, "groups": each}
    return CapacityExceeded(
        detail, asked=wanted.describe(), **counts, **several, enough_at=when.isoformat() if when else None
    )


def _detail(wanted: Wanted, counts: dict[str, Any], which: tuple[int, int]) -> str:
    number, groups = which
    of = f" for group {number} of {groups}" if groups > 1 else ""
    free, matching = counts["free"], counts["matching"]
    detail = f"Asked for {wanted.count} GPUs{of}; {free} that match are free, of {matching} in the fleet."
    if counts["apart"]:
        detail += " They are not on one host (or not in one NVLink domain, or not a whole host)."
    elif free >= wanted.count:
        detail += " They are not enough beside the other groups."
    for name, sentence in SENTENCES.items():
        if counts[name]:
            detail += f" {counts[name]} {sentence}."
    return detail


def _counts(view: View, wanted: Wanted) -> dict[str, Any]:
    """How many match, and of each why it cannot be had; `apart`: enough are free, but not together."""
    shape = wanted.shape(later=view.later)
    free = sa.and_(*(free_later() if view.later else free_now()))
    rests = {
        "free": free,
        "held": GPU.c.held_by.is_not(None),
        "away": HOST.c.state.not_in(LENDABLE),
        "cordoned": HOST.c.cordoned,
        "unwell": GPU.c.health != Health.OK,
        "unchecked": sa.not_(HOST.c.health_current),
        "reserved": GPU.c.booked_from < UNTIL,
    }
    cause = sa.case(*((condition, name) for name, condition in rests.items()), else_="other")
    joined = GPU.join(HOST, HOST.c.id == GPU.c.host_id)
    statement = (
        sa.select(cause.label("cause"), sa.func.count().label("gpus"))
        .select_from(joined)
        .where(GPU.c.removed_at.is_(None), *matches(shape))
        .group_by(sa.literal_column("cause"))
    )
    times = {"until": view.moment.until, "start": view.moment.start}
    rows = {row.cause: row.gpus for row in view.tx.execute(statement, wanted.parameters(**times))}
    found: dict[str, Any] = {name: rows.get(name, 0) for name in rests}
    return found | {
        "matching": sum(rows.values()),
        "apart": wanted.together and found["free"] >= wanted.count and not _fits_alone(view, wanted),
    }


def _fits_alone(view: View, wanted: Wanted) -> bool:
    if view.rooms(wanted, "any", "tight", least=wanted.count, limit=1):
        return True
    return wanted.spans_hosts and bool(view.domains(wanted))


__all__ = ["enough_at", "told"]
