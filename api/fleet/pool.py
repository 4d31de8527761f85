"""What the fleet has and from when it is free, in memory: claims that wait are played through with it.

It is read once. What it says is never later than what is possible: of reservations it knows the first of each
GPU, of cleans the usual gap.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.db import table
from api.fleet import mig
from api.fleet.lifecycle import LENDABLE, State
from api.fleet.models import Gpu, Health, Host
from api.fleet.wanted import Wanted

GPU, HOST = table(Gpu), table(Host)
COMES_BACK = LENDABLE | {State.RECLAIMING, State.CLEANING}
SOON = timedelta(minutes=1)  # what is late or being cleaned is not free now, and nobody knows when exactly


@dataclass(frozen=True, slots=True)
class Demand:
    """Groups that are to be placed together, for so long or until a moment; both include the clean after."""

    groups: tuple[Wanted, ...]
    separate: bool = False
    lasts: timedelta = timedelta(0)
    until: datetime | None = None

    def free_at(self, start: datetime) -> datetime:
        return self.until or start + self.lasts

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups)

    def competes(self, other: Demand) -> bool:
        """Whether one GPU could serve both."""
        return any(_overlap(mine, theirs) for mine in self.groups for theirs in other.groups)


def _overlap(one: Wanted, other: Wanted) -> bool:
    if one.model and other.model and one.model != other.model:
        return False
    if one.region and other.region and one.region != other.region:
        return False
    labels = dict(one.labels)
    return all(labels.get(key, value) == value for key, value in other.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """GPUs of one host that are alike; `at` is from when they may be lent, None where nobody knows."""

    host_id: UUID
    domain: str | None
    model: str
    memory_mib: int
    region: str
    labels: Mapping[str, str]
    holder: UUID | None
    at: datetime | None
    booked_from: datetime | None
    count: int

    def suits(self, wanted: Wanted) -> bool:
        return (
            (wanted.model is None or wanted.model == self.model)
            and (wanted.memory_mib is None or wanted.memory_mib <= self.memory_mib)
            and (wanted.region is None or wanted.region == self.region)
            and not (wanted.nvlink and self.domain is None)
            and all(self.labels.get(key) == value for key, value in wanted.labels)
            and (
                wanted.mig_profile is None
                or mig.instances(wanted.mig_profile, self.model, self.memory_mib) > 0
            )
        )

    def open(self, demand: Demand, moment: datetime, now: datetime) -> bool:
        """Whether it may be lent at that moment, and is not reserved before the demand is over."""
        if self.at is None or self.at > moment:
            return False
        return self.booked_from is None or self.booked_from >= demand.free_at(max(self.at, now))


@dataclass(frozen=True, slots=True)
class Pool:
    now: datetime
    slots: tuple[Slot, ...]

    def start(self, demand: Demand) -> datetime | None:
        """The earliest moment at which all of it could be placed; None when no known end leads there."""
        own = self._serving(demand)
        moments = sorted({max(slot.at, self.now) for slot in own.slots if slot.at is not None})
        first = bisect_left(moments, True, key=lambda moment: own.can(demand, moment))
        if first == len(moments) or (demand.until is not None and moments[first] >= demand.until):
            return None
        return moments[first]

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
        for group in sorted(demand.groups, key=_hardest_first):
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
        if group.together:
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
            domain = (slot.domain or "") if group.nvlink and not group.exclusive_host else ""
            buckets["" if group.spans_hosts else str(slot.host_id), domain][slot] = number
        sizes = {key: sum(bucket.values()) for key, bucket in buckets.items()}
        whole = self._sizes() if group.exclusive_host else {}
        fitting = [
            (size, key)
            for key, size in sizes.items()
            if size >= group.count and whole.get(key[0], size) == size
        ]
        return buckets[min(fitting)[1]] if fitting else {}

    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = defaultdict(int)
        for slot in self.slots:
            sizes[str(slot.host_id)] += slot.count
        return sizes


def _hardest_first(group: Wanted) -> tuple[Any, ...]:
    narrow = len(group.filters) + len(group.labels) + (group.mig_profile is not None)
    return not group.exclusive_host, not group.nvlink, not group.same_host, -narrow, -group.count


def read(tx: Session, demands: Sequence[Demand], now: datetime, gap: timedelta) -> Pool:
    """Every GPU that could serve one of the demands; `gap` is what a clean takes."""
    known = (
        HOST.c.id.label("host_id"),
        HOST.c.state,
        HOST.c.state_since,
        HOST.c.cordoned,
        GPU.c.nvlink_domain,
        GPU.c.model,
        GPU.c.memory_mib,
        GPU.c.region,
        GPU.c.health,
        GPU.c.schedulable,
        GPU.c.held_by,
        GPU.c.held_until,
        GPU.c.booked_from,
    )
    groups = [group for demand in demands for group in demand.groups]
    rows = tx.execute(
        sa.select(*known, sa.func.count().label("number"))
        .select_from(GPU.join(HOST, HOST.c.id == GPU.c.host_id))
        .where(GPU.c.removed_at.is_(None), _may_serve(groups))
        .group_by(*known)
    ).all()
    labels: Mapping[UUID, Any] = {}
    if any(group.labels for group in groups):
        named = sa.select(HOST.c.id, HOST.c.labels).where(HOST.c.state != State.RETIRED)
        labels = {row.id: row.labels for row in tx.execute(named)}
    return Pool(now, tuple(_slot(row, labels.get(row.host_id, {}), now, gap) for row in rows))


def _may_serve(groups: Sequence[Wanted]) -> sa.ColumnElement[bool]:
    """By model, where every group names one; a whole host may have GPUs of several."""
    models = {group.model for group in groups}
    if None in models or any(group.exclusive_host for group in groups):
        return sa.true()
    return GPU.c.model.in_(sorted(model for model in models if model))


def _slot(row: Any, labels: Mapping[str, str], now: datetime, gap: timedelta) -> Slot:
    return Slot(
        row.host_id,
        row.nvlink_domain,
        row.model,
        row.memory_mib,
        row.region,
        labels,
        row.held_by,
        _available(row, now, gap),
        row.booked_from,
        row.number,
    )


def _available(row: Any, now: datetime, gap: timedelta) -> datetime | None:
    """From when it may be lent; None where only somebody's repair can tell."""
    if row.held_by is None and row.schedulable:
        return now
    if row.cordoned or row.health is not Health.OK or row.state not in COMES_BACK:
        return None
    if row.held_by is not None:
        return max(row.held_until, now + SOON) if row.held_until else None
    if row.state in LENDABLE:  # its check has failed or is too old
        return None
    since: datetime = row.state_since
    return max(since + gap, now + SOON)
