"""What is short when a claim is refused, and when enough will be free."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.complaints import instead
from api.core.texts import gpus
from api.fleet.forecast import enough_at
from api.fleet.lifecycle import LENDABLE
from api.fleet.models import Health
from api.fleet.rooms import GPU, HOST, UNTIL, View, free_later, free_now, matches
from api.fleet.wanted import CapacityExceeded, Wanted

MOST_NAMES = 50  # of models or regions that an answer lists
# Why a GPU that matches cannot be had, the first that applies, and what a person reads of one or several.
SENTENCES = {
    "held": ("is held", "are held"),
    "away": (
        "is on a host that is being cleaned, enrolled or repaired",
        "are on hosts that are being cleaned, enrolled or repaired",
    ),
    "cordoned": ("is on a cordoned host", "are on cordoned hosts"),
    "unwell": (
        "is out of the pool: its last health check failed",
        "are out of the pool: their last health check failed",
    ),
    "unchecked": ("waits for a health check of its host", "wait for a health check of their host"),
    "reserved": (
        "is reserved for a time before this claim would end",
        "are reserved for a time before this claim would end",
    ),
}


def told(
    view: View, groups: Sequence[Wanted], short: int, at: datetime, *, separate: bool
) -> CapacityExceeded:
    """The refusal, with the numbers of each group; `short`: the group that could not be had."""
    counted = [_counts(view, wanted) for wanted in groups]
    wanted, counts = groups[short], counted[short]
    lasts = view.moment.until - at
    when = enough_at(view.tx, groups, at, lasts=lasts, separate=separate)
    which = f" for group {short + 1} of {len(groups)}" if len(groups) > 1 else ""
    detail = f"Asked for {gpus(wanted.count)}{which}; {_why_not(view.tx, wanted, counts, when, at)}"
    several: dict[str, Any] = {}
    if len(groups) > 1:
        each = [{"asked": one.describe(), **numbers} for one, numbers in zip(groups, counted, strict=True)]
        several = {"group": short + 1, "groups": each}
    return CapacityExceeded(
        detail, asked=wanted.describe(), **counts, **several, enough_at=when.isoformat() if when else None
    )


def _why_not(tx: Session, wanted: Wanted, counts: dict[str, Any], when: datetime | None, at: datetime) -> str:
    if not counts["matching"]:
        return _nothing_matches(tx, wanted)
    if when is None:
        return _detail(wanted, counts) + " By the known ends there will not be enough."
    if when > at:
        return (
            _detail(wanted, counts) + f" Enough will be free at {when:%Y-%m-%dT%H:%M:%SZ}, by the known ends."
        )
    return _detail(wanted, counts)


def _nothing_matches(tx: Session, wanted: Wanted) -> str:
    """Names the model or region that the fleet has not, and what it has instead."""
    for what, column, name in (("model", GPU.c.model, wanted.model), ("region", GPU.c.region, wanted.region)):
        known = _values(tx, column) if name else []
        if name and name not in known:
            sentence = f"no GPU of the fleet has the {what} {name}{instead(name, known)}"
            return sentence if sentence.endswith("?") else f"{sentence}."
    asked = ", ".join(f"{name} {value}" for name, value in wanted.describe().items() if name != "gpus")
    return f"no GPU of the fleet matches {asked or 'this'}, free or not."


def _values(tx: Session, column: sa.Column[Any]) -> list[str]:
    statement = (
        sa.select(column).distinct().where(GPU.c.removed_at.is_(None)).order_by(column).limit(MOST_NAMES)
    )
    return list(tx.execute(statement).scalars())


def _detail(wanted: Wanted, counts: dict[str, Any]) -> str:
    free, matching = counts["free"], counts["matching"]
    detail = f"{free} that match {'is' if free == 1 else 'are'} free, of {matching} in the fleet."
    if counts["apart"]:
        detail += " They are not on one host (or not in one NVLink domain, or not a whole host)."
    elif free >= wanted.count:
        detail += " They are not enough beside the other groups."
    for name, (one, many) in SENTENCES.items():
        if counts[name]:
            detail += f" {counts[name]} {one if counts[name] == 1 else many}."
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
