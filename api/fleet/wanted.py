"""What a claim asks of the GPUs, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from api.core.errors import Conflict


class Shape(NamedTuple):
    """What a statement filters by: it is built once for each, since building costs more than binding."""

    given: frozenset[str]
    labels: tuple[str, ...]
    profile: str | None
    later: bool = False
    but_gpus: bool = False
    but_hosts: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a claim asks of the GPUs. Memory in MiB, of each GPU.

    `on_hosts` and `in_domains` narrow it to where others are held that these are to be together with.
    """

    count: int
    model: str | None = None
    memory_mib: int | None = None
    region: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    same_host: bool = False
    nvlink: bool = False
    exclusive_host: bool = False
    mig_profile: str | None = None
    on_hosts: tuple[UUID, ...] = ()
    in_domains: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        named = {
            "model": self.model,
            "memory_mib": self.memory_mib,
            "region": self.region,
            "labels": dict(self.labels),
            "same_host": self.same_host,
            "nvlink": self.nvlink,
            "exclusive_host": self.exclusive_host,
            "mig_profile": self.mig_profile,
        }
        return {"gpus": self.count} | {name: value for name, value in named.items() if value}

    @property
    def together(self) -> bool:
        return self.same_host or self.nvlink or self.exclusive_host

    @property
    def spans_hosts(self) -> bool:
        """An NVLink domain may be larger than a host."""
        return self.nvlink and not self.same_host and not self.exclusive_host

    @property
    def filters(self) -> tuple[str, ...]:
        named = ("model", "memory_mib", "region", "nvlink", "on_hosts", "in_domains")
        return tuple(name for name in named if getattr(self, name))

    def shape(self, **more: bool) -> Shape:
        return Shape(frozenset(self.filters), tuple(key for key, _ in self.labels), self.mig_profile, **more)

    def parameters(self, **more: Any) -> dict[str, Any]:
        labels = {f"label_{number}": value for number, (_, value) in enumerate(self.labels)}
        own = {"of_model": self.model, "of_memory": self.memory_mib, "in_region": self.region}
        where = {"on_hosts": self.on_hosts, "in_domains": self.in_domains}
        return own | labels | {name: list(value) for name, value in where.items() if value} | more


@dataclass(frozen=True, slots=True)
class Taken:
    gpu_id: UUID
    host_id: UUID
    host: str
    index: int
    uuid: str
    model: str
    memory_mib: int
    region: str


@dataclass(frozen=True, slots=True)
class Moment:
    """From now until `until`; with `start`, from then. `until` includes the clean after the end."""

    until: datetime
    start: datetime | None = None


class CapacityExceeded(Conflict):
    code, title = "capacity-exceeded", "Not enough free GPUs match"
