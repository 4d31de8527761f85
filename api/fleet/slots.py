"""GPUs that are alike and from when they are free; what is wanted of them, together and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from api.fleet import mig
from api.fleet.placement import Wanted


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
    """GPUs of one host that are alike; `at` is from when they may be lent, None where nobody knows.

    `mig`: they can be cut into MIG instances; into which profiles follows from model and memory.
    """

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
    mig: bool = False

    def suits(self, wanted: Wanted) -> bool:
        return (
            (wanted.model is None or wanted.model == self.model)
            and (wanted.memory_mib is None or wanted.memory_mib <= self.memory_mib)
            and (wanted.region is None or wanted.region == self.region)
            and not (wanted.nvlink and self.domain is None)
            and self._carries(wanted.mig_profile)
            and all(self.labels.get(key) == value for key, value in wanted.labels)
        )

    def _carries(self, profile: str | None) -> bool:
        return profile is None or (self.mig and mig.instances(profile, self.model, self.memory_mib) > 0)

    def open(self, demand: Demand, moment: datetime, now: datetime) -> bool:
        """Whether it may be lent at that moment, and is not reserved before the demand is over."""
        if self.at is None or self.at > moment:
            return False
        return self.booked_from is None or self.booked_from >= demand.free_at(max(self.at, now))


def together(group: Wanted) -> bool:
    return group.same_host or group.nvlink or group.exclusive_host


def bucket(group: Wanted, slot: Slot) -> tuple[str, str]:
    """What must not be split: the host, or the NVLink domain."""
    domain = (slot.domain or "") if group.nvlink and not group.exclusive_host else ""
    anywhere = bool(domain) and not group.same_host  # an NVLink domain may be larger than a host
    return "" if anywhere else str(slot.host_id), domain


def hardest_first(group: Wanted) -> tuple[Any, ...]:
    named = sum(value is not None for value in (group.model, group.memory_mib, group.region))
    narrow = named + len(group.labels) + (group.mig_profile is not None)
    return not group.exclusive_host, not group.nvlink, not group.same_host, -narrow, -group.count
