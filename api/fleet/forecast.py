"""When a claim that does not fit now will: by the planned ends of holds and by reservations.

The work is bounded: of a large fleet only the GPUs that come free first are looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.columns import UtcDateTime
from api.fleet import fit
from api.fleet.lifecycle import LENDABLE
from api.fleet.models import Health
from api.fleet.rooms import COMES_BACK, GPU, HOST, RESERVED, Order, Room, Side, Spot, matches, whole_host
from api.fleet.wanted import Wanted

MOST_GPUS, SPARE, MOST_LOOKS = 2_048, 1_000, 300_000
# What a clean is reckoned to take; the default of IRONYARD_CLEANING_GAP.
CLEANING = timedelta(seconds=900)


class Slot(NamedTuple):
    """A GPU, and from when it may be had; `whole`: the GPUs of its host."""

    spot: Spot
    domain: str | None
    whole: int
    since: datetime
    busy: tuple[tuple[datetime, datetime], ...]

    def free(self, at: datetime, lasts: timedelta) -> bool:
        if at < self.since:
            return False
        return all(at + lasts <= start or at >= end for start, end in self.busy)


def enough_at(
    tx: Session,
    groups: Sequence[Wanted],
    now: datetime,
    *,
    lasts: timedelta = timedelta(0),
    separate: bool = False,
    cleaning: timedelta = CLEANING,
) -> datetime | None:
    """The earliest moment from `now` on at which all groups can be had for `lasts`, if nobody else comes.

    `lasts` includes the clean after the end. None: not by the known ends (too few match, or are well).
    """
    slots = {wanted: _slots(tx, wanted, now, cleaning, separate=separate) for wanted in set(groups)}
    every = [slot for found in slots.values() for slot in found]
    if not every:
        return None
    moments = sorted({now, *(slot.since for slot in every), *(end for slot in every for _, end in slot.busy)})

    def fits(at: datetime) -> bool:
        open_then = {name: [slot for slot in found if slot.free(at, lasts)] for name, found in slots.items()}
        try:
            fit.plan(Foreseen(open_then), groups, spread=False, separate=separate)
        except fit.TooFew:
            return False
        return True

    if not fits(moments[-1]):
        return None
    if not any(slot.busy for slot in every):  # what is free stays free: search by halves
        return moments[bisect_left(moments, True, key=fits)]
    looks = max(8, MOST_LOOKS // len(every))
    return next((at for at in moments[:looks] if fits(at)), moments[-1])


def _slots(tx: Session, wanted: Wanted, now: datetime, cleaning: timedelta, *, separate: bool) -> list[Slot]:
    """GPUs that match and come back, the first to be free first."""
    rows = tx.execute(
        sa.select(
            GPU.c.id,
            GPU.c.host_id,
            GPU.c.index,
            GPU.c.nvlink_domain,
            GPU.c.held_until,
            GPU.c.booked_from,
            HOST.c.state,
            HOST.c.state_since,
            (whole_host() if wanted.exclusive_host else sa.literal(0)).label("whole"),
        )
        .select_from(GPU.join(HOST, HOST.c.id == GPU.c.host_id))
        .where(
            GPU.c.removed_at.is_(None),
            GPU.c.health == Health.OK,
            HOST.c.state.in_(COMES_BACK),
            sa.not_(HOST.c.cordoned),
            sa.or_(HOST.c.health_current, GPU.c.held_by.is_not(None), HOST.c.state.not_in(LENDABLE)),
            *matches(wanted.shape()),
        )
        .order_by(
            sa.func.coalesce(GPU.c.held_until, sa.bindparam("now", now, type_=UtcDateTime)),
            GPU.c.host_id,
            GPU.c.index,
        )
        .limit(MOST_GPUS if wanted.together or separate else wanted.count + SPARE),
        wanted.parameters(),
    ).all()
    busy = _reservations(tx, [row.id for row in rows if row.booked_from is not None], now)
    return [
        Slot(
            Spot(row.id, row.host_id, row[2], lent=False),
            row.nvlink_domain,
            row.whole,
            _since(row, now, cleaning),
            tuple(busy[row.id]),
        )
        for row in rows
    ]


def _since(row: Any, now: datetime, cleaning: timedelta) -> datetime:
    since: datetime = now
    if row.held_until is not None:
        since = row.held_until
    elif row.state not in LENDABLE:
        since = row.state_since + cleaning
    return max(now, since)


def _reservations(
    tx: Session, gpu_ids: Sequence[UUID], now: datetime
) -> dict[UUID, list[tuple[datetime, datetime]]]:
    found: dict[UUID, list[tuple[datetime, datetime]]] = defaultdict(list)
    for first in range(0, len(gpu_ids), 1000):
        own = RESERVED.c.gpu_id.in_(gpu_ids[first : first + 1000])
        open_ones = sa.and_(own, RESERVED.c.closed_at.is_(None), RESERVED.c.free_at > now)
        for row in tx.execute(sa.select(RESERVED).where(open_ones)):
            found[row.gpu_id].append((row.starts_at, row.free_at))
    return found


@dataclass
class Foreseen:
    """What is free at a moment to come, as `fit.plan` looks at it."""

    slots: dict[Wanted, list[Slot]]
    but_gpus: set[UUID] = field(default_factory=set)
    but_hosts: set[UUID] = field(default_factory=set)
    later = True

    def lent_spots(self, wanted: Wanted, number: int) -> list[Spot]:
        return [slot.spot for slot in self._open(wanted)][:number]

    def idle_spots(self, wanted: Wanted, number: int) -> list[Spot]:  # noqa: ARG002
        return []

    def spots_of(self, wanted: Wanted, hosts: Sequence[UUID]) -> list[Spot]:
        return [slot.spot for slot in self._open(wanted) if slot.spot.host_id in hosts]

    def spots_in(self, wanted: Wanted, room: Room, number: int) -> list[Spot]:
        key = room.host_id, room.domain
        found = [
            slot.spot for slot in self._open(wanted) if key in (_place(wanted, slot), (None, slot.domain))
        ]
        return found[:number]

    def rooms(
        self,
        wanted: Wanted,
        side: Side,  # noqa: ARG002
        order: Order,  # noqa: ARG002
        *,
        least: int,
        limit: int = 0,  # noqa: ARG002
    ) -> list[Room]:
        counts: dict[tuple[UUID, str | None], list[Slot]] = defaultdict(list)
        for slot in self._open(wanted):
            counts[_place(wanted, slot)].append(slot)
        found = [
            Room(host_id, domain, len(slots), lent=False)
            for (host_id, domain), slots in counts.items()
            if len(slots) >= least and (not wanted.exclusive_host or len(slots) == slots[0].whole)
        ]
        return sorted(found, key=lambda room: (room.free, room.host_id, room.domain or ""))

    def domains(self, wanted: Wanted) -> list[Room]:
        counts: dict[str, int] = defaultdict(int)
        for slot in self._open(wanted):
            counts[slot.domain or ""] += 1
        enough = [(free, domain) for domain, free in counts.items() if free >= wanted.count]
        return [Room(None, domain, free, lent=False) for free, domain in sorted(enough)]

    def _open(self, wanted: Wanted) -> list[Slot]:
        return [
            slot
            for slot in self.slots[wanted]
            if slot.spot.id not in self.but_gpus and slot.spot.host_id not in self.but_hosts
        ]


def _place(wanted: Wanted, slot: Slot) -> tuple[UUID, str | None]:
    return slot.spot.host_id, slot.domain if wanted.nvlink else None
