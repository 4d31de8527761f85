"""What the fleet has and from when it is free, in memory: claims that wait are played through with it.

It is read once. What it says is never later than what is possible: of reservations it knows the first of each
GPU, of cleans the usual gap.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.columns import UtcDateTime
from api.core.db import table
from api.fleet.lifecycle import LENDABLE, State
from api.fleet.models import Gpu, Health, Host
from api.fleet.placement import Wanted
from api.fleet.slots import Demand, Slot, bucket, hardest_first, together

__all__ = ["SOON", "Demand", "Pool", "Slot", "read"]

GPU, HOST = table(Gpu), table(Host)
COMES_BACK = LENDABLE | {State.RECLAIMING, State.CLEANING}
SOON = timedelta(minutes=1)  # what is late or being cleaned is not free now, and nobody knows when exactly


@dataclass(frozen=True, slots=True)
class Pool:
    now: datetime
    slots: tuple[Slot, ...]

    def start(self, demand: Demand) -> datetime | None:
        """The earliest moment at which all of it could be placed; None when no known end leads there."""
        own = self._serving(demand)
        start = _first_for_one(own, demand) if len(demand.groups) == 1 else _first_for_several(own, demand)
        if start is None or (demand.until is not None and start >= demand.until):
            return None
        return max(start, self.now)

    def can(self, demand: Demand, moment: datetime) -> bool:
        """Whether all of it could be placed at that moment."""
        return self._left(demand, self._open(demand, moment)) is not None

    def placed(self, demand: Demand, moment: datetime) -> Pool | None:
        """The same with it placed at that moment, held until it is over; None when it does not fit then."""
        left = self._left(demand, self._open(demand, moment))
        if left is None:
            return None
        until = demand.free_at(moment)
        slots = []
        for slot in self.slots:
            kept = left.get(slot, slot.count)
            if kept:
                slots.append(replace(slot, count=kept))
            if kept < slot.count:
                slots.append(replace(slot, count=slot.count - kept, at=until))
        return replace(self, slots=tuple(slots))

    def ever(self, demand: Demand) -> bool:
        """Whether all of it could be placed if nobody held anything and every host were well."""
        return self._left(demand, self.slots) is not None

    def ending(self, ends: Mapping[UUID, datetime | None]) -> Pool:
        """The same, were what these holders hold free from then (None: at no known time)."""

        def moved(slot: Slot) -> Slot:
            if slot.holder is None or slot.holder not in ends or slot.at is None:
                return slot
            end = ends[slot.holder]
            return replace(slot, at=min(slot.at, max(end, self.now + SOON)) if end else None)

        return replace(self, slots=tuple(moved(slot) for slot in self.slots)) if ends else self

    def with_hosts(self, other: Pool) -> Pool:
        """The same, with what the other says of its hosts."""
        newer = {slot.host_id for slot in other.slots}
        return replace(
            self, slots=(*(slot for slot in self.slots if slot.host_id not in newer), *other.slots)
        )

    def holders(self, demand: Demand) -> dict[UUID, int]:
        """Who holds GPUs that would serve it, and how many."""
        found: dict[UUID, int] = defaultdict(int)
        for slot in self._serving(demand).slots:
            if slot.holder is not None and slot.at is not None:
                found[slot.holder] += slot.count
        return dict(found)

    def _serving(self, demand: Demand) -> Pool:
        """Only what is of use to it; whole hosts need to know of their other GPUs too."""
        serves = {slot.host_id for slot in self.slots if any(slot.suits(group) for group in demand.groups)}
        whole = any(group.exclusive_host for group in demand.groups)
        kept = (
            slot
            for slot in self.slots
            if slot.host_id in serves and (whole or any(slot.suits(group) for group in demand.groups))
        )
        return replace(self, slots=tuple(kept))

    def _open(self, demand: Demand, moment: datetime) -> list[Slot]:
        return [slot for slot in self.slots if slot.open(demand, moment, self.now)]

    def _left(self, demand: Demand, slots: Collection[Slot]) -> dict[Slot, int] | None:
        """What of these is left beside it; None when it does not fit."""
        left = {slot: slot.count for slot in slots}
        if sum(left.values()) < demand.count:
            return None
        used: set[UUID] = set()
        for group in sorted(demand.groups, key=hardest_first):
            taken = self._place(group, left, used if demand.separate else frozenset())
            if taken is None:
                return None
            used |= taken
        return left

    def _place(self, group: Wanted, left: dict[Slot, int], barred: Collection[UUID]) -> set[UUID] | None:
        """Take it out of what is left; the hosts that it uses, or None when it does not fit."""
        open_ = {
            slot: number
            for slot, number in left.items()
            if number and slot.host_id not in barred and slot.suits(group)
        }
        if together(group):
            open_ = self._one_bucket(group, open_)
        missing = sum(open_.values()) if group.exclusive_host else group.count
        if not open_ or sum(open_.values()) < missing:
            return None
        used = set()
        for slot, number in sorted(open_.items(), key=lambda item: item[0].host_id):
            part = min(missing, number)
            left[slot] -= part
            missing -= part
            if part:
                used.add(slot.host_id)
        return used

    def _one_bucket(self, group: Wanted, open_: dict[Slot, int]) -> dict[Slot, int]:
        """The host, or the NVLink domain, that it fits most tightly."""
        buckets: dict[tuple[str, str], dict[Slot, int]] = defaultdict(dict)
        for slot, number in open_.items():
            buckets[bucket(group, slot)][slot] = number
        sizes = {key: sum(bucket.values()) for key, bucket in buckets.items()}
        whole = self.sizes() if group.exclusive_host else {}
        fitting = [
            (size, key)
            for key, size in sizes.items()
            if size >= group.count and whole.get(key[0], size) == size
        ]
        return buckets[min(fitting)[1]] if fitting else {}

    def sizes(self) -> dict[str, int]:
        """The GPUs of each host."""
        sizes: dict[str, int] = defaultdict(int)
        for slot in self.slots:
            sizes[str(slot.host_id)] += slot.count
        return sizes


def _first_for_one(pool: Pool, demand: Demand) -> datetime | None:
    """When the last GPU that it needs comes free, in the bucket where that is first."""
    (group,) = demand.groups
    whole = pool.sizes() if group.exclusive_host else {}
    buckets: dict[tuple[str, str], list[tuple[datetime, int]]] = defaultdict(list)
    for slot in pool.slots:
        if slot.at is not None and slot.open(demand, slot.at, pool.now) and slot.suits(group):
            buckets[bucket(group, slot) if together(group) else ("", "")].append((slot.at, slot.count))
    starts = []
    for key, found in buckets.items():
        needed = max(group.count, whole.get(key[0], 0))
        for at, number in sorted(found):
            needed -= number
            if needed <= 0:
                starts.append(at)
                break
    return min(starts, default=None)


def _first_for_several(pool: Pool, demand: Demand) -> datetime | None:
    moments = sorted({max(slot.at, pool.now) for slot in pool.slots if slot.at is not None})
    first = bisect_left(moments, True, key=lambda moment: pool.can(demand, moment))
    return moments[first] if first < len(moments) else None


def read(
    tx: Session,
    demands: Sequence[Demand],
    now: datetime,
    gap: timedelta,
    *,
    hosts: Collection[UUID] | None = None,
) -> Pool:
    """Every GPU that could serve one of the demands (on these hosts); `gap` is what a clean takes."""
    known = (
        GPU.c.host_id,
        GPU.c.nvlink_domain,
        GPU.c.model,
        GPU.c.memory_mib,
        GPU.c.region,
        GPU.c.held_by,
        _known_from(now).label("known_from"),
        GPU.c.booked_from,
        GPU.c.mig_mode.is_not(None).label("mig"),
    )
    groups = [group for demand in demands for group in demand.groups]
    statement = (
        sa.select(*known, sa.func.count().label("number"))
        .select_from(GPU.join(HOST, HOST.c.id == GPU.c.host_id))
        .where(GPU.c.removed_at.is_(None), _may_serve(groups))
        .group_by(*known)
    )
    if hosts is not None:
        statement = statement.where(GPU.c.host_id.in_(hosts))
    rows = tx.execute(statement).all()
    labels: Mapping[UUID, Any] = {}
    if any(group.labels for group in groups):
        named = sa.select(HOST.c.id, HOST.c.labels).where(HOST.c.state != State.RETIRED)
        labels = {row.id: row.labels for row in tx.execute(named)}
    soon = now + SOON
    return Pool(now, tuple(_slot(row, labels.get(row[0], {}), now, soon, gap) for row in rows))


def _known_from(now: datetime) -> sa.ColumnElement[datetime]:
    """Now, or the planned end of its hold, or when its host's clean began; null where only a repair tells."""
    away = sa.or_(HOST.c.cordoned, GPU.c.health != Health.OK, HOST.c.state.not_in(COMES_BACK))
    return sa.case(
        (sa.and_(GPU.c.held_by.is_(None), GPU.c.schedulable), sa.literal(now, UtcDateTime)),
        (away, sa.null()),
        (GPU.c.held_by.is_not(None), GPU.c.held_until),
        (HOST.c.state.in_(LENDABLE), sa.null()),  # its check has failed or is too old
        else_=HOST.c.state_since,
    )


def _may_serve(groups: Collection[Wanted]) -> sa.ColumnElement[bool]:
    """What one of the groups could use, labels and MIG profiles aside; of whole hosts every GPU counts."""
    if any(group.exclusive_host for group in groups):
        return sa.true()
    return sa.or_(sa.false(), *(sa.and_(sa.true(), *_asked(group)) for group in dict.fromkeys(groups)))


def _asked(group: Wanted) -> Iterator[sa.ColumnElement[bool]]:
    if group.model is not None:
        yield GPU.c.model == group.model
    if group.memory_mib is not None:
        yield GPU.c.memory_mib >= group.memory_mib
    if group.region is not None:
        yield GPU.c.region == group.region
    if group.nvlink:
        yield GPU.c.nvlink_domain.is_not(None)
    if group.mig_profile is not None:
        yield GPU.c.mig_mode.is_not(None)


def _slot(row: Any, labels: Mapping[str, str], now: datetime, soon: datetime, gap: timedelta) -> Slot:
    host_id, domain, model, memory_mib, region, holder, known_from, booked_from, mig, count = row
    at: datetime | None = known_from
    if known_from is not None and holder is not None:
        at = max(known_from, soon)
    elif known_from is not None and known_from < now:
        at = max(known_from + gap, soon)
    return Slot(host_id, domain, model, memory_mib, region, labels, holder, at, booked_from, count, bool(mig))
