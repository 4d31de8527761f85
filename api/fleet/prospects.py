"""What a claim could be given, looked at without holding or locking anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.fleet import fit
from api.fleet.forecast import enough_at
from api.fleet.health_models import RANK, Verdict
from api.fleet.rooms import GPU, View, matches, whole_host
from api.fleet.wanted import Moment, Wanted


class Kind(NamedTuple):
    """GPUs of one model in one region; memory in MiB, of the smallest of them."""

    model: str
    region: str
    memory_mib: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Prospect:
    """What would be given, or from when.

    `hosts`: on how many; `opened` and `left`: GPUs of the idle hosts that would be begun, and those of them
    that nobody would hold. `verdict` and `checked_at`: the worst and the oldest of the GPUs' last checks.
    """

    available_at: datetime
    hosts: int = 0
    opened: int = 0
    left: int = 0
    verdict: Verdict | None = None
    checked_at: datetime | None = None


def kinds(tx: Session, wanted: Wanted, most: int) -> list[Kind]:
    """What there is in the fleet that matches, the most frequent first."""
    statement = (
        sa.select(GPU.c.model, GPU.c.region, sa.func.min(GPU.c.memory_mib), sa.func.count())
        .where(GPU.c.removed_at.is_(None), *matches(wanted.shape()))
        .group_by(GPU.c.model, GPU.c.region)
        .having(sa.func.count() >= wanted.count)
        .order_by(sa.func.count().desc(), GPU.c.model, GPU.c.region)
        .limit(most)
    )
    return [Kind(*row) for row in tx.execute(statement, wanted.parameters())]


def of(tx: Session, wanted: Wanted, now: datetime, until: datetime) -> Prospect | None:
    """What a claim would be given now, or when it could be; None: not by the known ends."""
    try:
        (pick,) = fit.plan(View(tx, Moment(until)), [wanted], spread=False, separate=False)
    except fit.TooFew:
        later = enough_at(tx, [wanted], now, lasts=until - now)
        return None if later is None else Prospect(later)
    opened = {spot.host_id for spot in pick.spots if not spot.lent}
    size = _sizes(tx, sorted(opened))
    taken = Counter(spot.host_id for spot in pick.spots)
    verdict, checked_at = _health(tx, [spot.id for spot in pick.spots])
    return Prospect(
        now,
        hosts=len(taken),
        opened=sum(size.values()),
        left=sum(size[host] - taken[host] for host in opened),
        verdict=verdict,
        checked_at=checked_at,
    )


def _sizes(tx: Session, hosts: Sequence[UUID]) -> dict[UUID, int]:
    statement = sa.select(GPU.c.host_id, whole_host()).where(GPU.c.host_id.in_(hosts)).distinct()
    return {row[0]: row[1] for row in tx.execute(statement)} if hosts else {}


def _health(tx: Session, ids: Sequence[UUID]) -> tuple[Verdict | None, datetime | None]:
    rows = tx.execute(sa.select(GPU.c.health_verdict, GPU.c.health_checked_at).where(GPU.c.id.in_(ids))).all()
    if any(row.health_verdict is None or row.health_checked_at is None for row in rows):
        return None, None
    worst: Verdict = max((row.health_verdict for row in rows), key=RANK.index)
    return worst, min(row.health_checked_at for row in rows)
