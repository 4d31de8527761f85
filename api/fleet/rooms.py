"""What is free: GPUs and the hosts (or NVLink domains) with enough of them, in the order of choice.

GPUs of hosts that are lent already come before those of idle ones. Both are read from the index of free GPUs,
in its order and only as far as needed, so that looking costs the same in a large fleet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.columns import UtcDateTime
from api.core.db import table
from api.fleet import mig
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, Health, Host
from api.fleet.wanted import Moment, Shape, Wanted

Side = Literal["lent", "idle", "any"]
Order = Literal["tight", "roomy", "turn"]
GPU, HOST = table(Gpu), table(Host)
WHOLE = GPU.alias("whole")
# The ledger's table of what is set aside for later; the fleet reads no more of it than this.
RESERVED = sa.table(
    "reservations",
    sa.column("gpu_id", sa.Uuid()),
    sa.column("starts_at", UtcDateTime()),
    sa.column("free_at", UtcDateTime()),
    sa.column("closed_at", UtcDateTime()),
)
COMES_BACK = (State.IDLE, State.ALLOCATED, State.RECLAIMING, State.CLEANING)
UNTIL = sa.bindparam("until", type_=UtcDateTime)
START = sa.bindparam("start", type_=UtcDateTime)
CANDIDATES = 32
FIRST = UUID(int=0)


class Spot(NamedTuple):
    """A GPU that may be taken; `lent`: its host is lent already."""

    id: UUID
    host_id: UUID
    number: int
    lent: bool


class Room(NamedTuple):
    """So many free GPUs that match, on one host; with `domain`, in one NVLink domain (of any host: None)."""

    host_id: UUID | None
    domain: str | None
    free: int
    lent: bool


@dataclass
class View:
    """What one claim sees: without what it has picked already and, when hasty, what others are looking at."""

    tx: Session
    moment: Moment
    hasty: bool = False
    but_gpus: set[UUID] = field(default_factory=set)
    but_hosts: set[UUID] = field(default_factory=set)

    @property
    def later(self) -> bool:
        return self.moment.start is not None

    def lent_spots(self, wanted: Wanted, number: int) -> list[Spot]:
        return self._spots(wanted, "any" if self.later else "lent", number, locking=self.hasty)

    def idle_spots(self, wanted: Wanted, number: int) -> list[Spot]:
        """Of idle hosts, in their order. Hasty: of those that nobody else looks at, which are locked."""
        if not self.hasty:
            return self._spots(wanted, "idle", number)
        found: list[Spot] = []
        after = FIRST
        while len(found) < number:
            rows = self._run(_spots(self._shape(wanted), "idle", "after"), wanted, limit=number, after=after)
            if not rows:
                break
            hosts = {row.host_id for row in rows}
            after = max(hosts)
            mine = self.tx.execute(_idle_hosts(), {"hosts": sorted(hosts)}).scalars().all()
            found += self.spots_of(wanted, list(mine)) if mine else []
        return found[:number]

    def spots_of(self, wanted: Wanted, hosts: list[UUID]) -> list[Spot]:
        rows = self._run(_spots(self._shape(wanted), "any", "hosts"), wanted, limit=100_000, hosts=hosts)
        return [Spot(*row) for row in rows]

    def spots_in(self, wanted: Wanted, room: Room, number: int) -> list[Spot]:
        where = "domain" if room.host_id is None else "host" if room.domain is None else "both"
        statement = _spots(self._shape(wanted), "any", where)
        rows = self._run(statement, wanted, limit=number, hosts=[room.host_id], domain=room.domain)
        return [Spot(*row) for row in rows]

    def rooms(
        self, wanted: Wanted, side: Side, order: Order, *, least: int, limit: int = CANDIDATES
    ) -> list[Room]:
        """Hosts (or NVLink domains of them) with at least so many free; whole ones, if those are wanted."""
        side = "any" if self.later else side
        if wanted.exclusive_host and order == "turn":
            return self._whole_rooms(wanted, side, least, limit)
        statement = _rooms(self._shape(wanted), side, order, wanted.exclusive_host)
        return [_room(row, side) for row in self._run(statement, wanted, limit=limit, least=least)]

    def _whole_rooms(self, wanted: Wanted, side: Side, least: int, limit: int) -> list[Room]:
        """Told apart here: the database would look at every host before it answers with the first."""
        statement = _rooms_after(self._shape(wanted), side)
        found: list[Room] = []
        after = FIRST
        while len(found) < limit:
            rows = self._run(statement, wanted, limit=limit, least=least, after=after)
            found += [_room(row, side) for row in rows if row.free == row.whole]
            if len(rows) < limit:
                break
            after = rows[-1].host_id
        return found[:limit]

    def domains(self, wanted: Wanted) -> list[Room]:
        """NVLink domains with enough, the tightest first, wherever their hosts are."""
        rows = self._run(_domains(self._shape(wanted)), wanted, limit=CANDIDATES, least=wanted.count)
        return [Room(None, row.nvlink_domain, row.free, lent=False) for row in rows]

    def still_free(self, ids: list[UUID]) -> list[Any]:
        """Those of these GPUs that are free in its time; told after they have been locked."""
        plain = Wanted(len(ids))
        condition = _free(plain.shape(later=self.later))
        return list(self.tx.execute(sa.select(GPU.c.id).where(GPU.c.id.in_(ids), *condition), self._times()))

    def _spots(self, wanted: Wanted, side: Side, number: int, *, locking: bool = False) -> list[Spot]:
        rows = self._run(_spots(self._shape(wanted), side, "", locking=locking), wanted, limit=number)
        return [Spot(*row) for row in rows]

    def _shape(self, wanted: Wanted) -> Shape:
        return wanted.shape(later=self.later, but_gpus=bool(self.but_gpus), but_hosts=bool(self.but_hosts))

    def _times(self) -> dict[str, Any]:
        return {"until": self.moment.until, "start": self.moment.start}

    def _run(self, statement: Any, wanted: Wanted, **more: Any) -> list[Any]:
        excluded = {"but_gpus": sorted(self.but_gpus), "but_hosts": sorted(self.but_hosts)}
        given = wanted.parameters(**self._times(), **excluded, **more)
        return list(self.tx.execute(statement, given))


def matches(shape: Shape) -> list[sa.ColumnElement[bool]]:
    """What a group asks of each GPU, whoever holds it."""
    given = {
        "model": GPU.c.model == sa.bindparam("of_model"),
        "memory_mib": GPU.c.memory_mib >= sa.bindparam("of_memory"),
        "region": GPU.c.region == sa.bindparam("in_region"),
        "nvlink": GPU.c.nvlink_domain.is_not(None),
        "on_hosts": GPU.c.host_id.in_(sa.bindparam("on_hosts", expanding=True, type_=sa.Uuid)),
        "in_domains": GPU.c.nvlink_domain.in_(sa.bindparam("in_domains", expanding=True)),
    }
    wanted = [given[name] for name in sorted(shape.given)]
    if shape.labels:
        carried = [
            col(Host.labels)[key].as_string() == sa.bindparam(f"label_{number}")
            for number, key in enumerate(shape.labels)
        ]
        wanted.append(GPU.c.host_id.in_(sa.select(HOST.c.id).where(*carried)))
    if shape.profile:
        wanted += [GPU.c.mig_mode.is_not(None), sa.or_(sa.false(), *map(_of, mig.families(shape.profile)))]
    return wanted


def _of(family: mig.Family) -> sa.ColumnElement[bool]:
    name = GPU.c.model
    named = sa.or_(
        name == family.name, name.startswith(f"{family.name} "), name.startswith(f"{family.name}-")
    )
    return sa.and_(named, GPU.c.memory_mib.between(family.least_mib, family.most_mib))


def free_now() -> list[sa.ColumnElement[bool]]:
    """What the index of free GPUs holds, so nothing more is said: a removed GPU is never schedulable."""
    unbooked = sa.or_(GPU.c.booked_from.is_(None), GPU.c.booked_from >= UNTIL)
    return [GPU.c.schedulable, GPU.c.held_by.is_(None), unbooked]


def free_later() -> list[sa.ColumnElement[bool]]:
    """Well, on a host that will be there, not held beyond the start and not set aside in the window."""
    hosts = sa.select(HOST.c.id).where(HOST.c.state.in_(COMES_BACK), sa.not_(HOST.c.cordoned))
    overlapping = sa.exists().where(
        RESERVED.c.gpu_id == GPU.c.id,
        RESERVED.c.closed_at.is_(None),
        RESERVED.c.starts_at < UNTIL,
        RESERVED.c.free_at > START,
    )
    return [
        GPU.c.removed_at.is_(None),
        GPU.c.health == Health.OK,
        GPU.c.host_id.in_(hosts),
        sa.or_(GPU.c.held_by.is_(None), GPU.c.held_until <= START),
        sa.not_(overlapping),
    ]


def _free(shape: Shape) -> list[sa.ColumnElement[bool]]:
    found = [*(free_later() if shape.later else free_now()), *matches(shape)]
    if shape.but_gpus:
        found.append(GPU.c.id.not_in(sa.bindparam("but_gpus", expanding=True, type_=sa.Uuid)))
    if shape.but_hosts:
        found.append(GPU.c.host_id.not_in(sa.bindparam("but_hosts", expanding=True, type_=sa.Uuid)))
    return found


def _side(side: Side) -> list[sa.ColumnElement[bool]]:
    if side == "any":
        return []
    return [GPU.c.host_lent] if side == "lent" else [sa.not_(GPU.c.host_lent)]


@lru_cache(maxsize=1024)
def _spots(shape: Shape, side: Side, where: str, *, locking: bool = False) -> Any:
    here: dict[str, list[sa.ColumnElement[bool]]] = {
        "": [],
        "hosts": [GPU.c.host_id.in_(sa.bindparam("hosts", expanding=True, type_=sa.Uuid))],
        "domain": [GPU.c.nvlink_domain == sa.bindparam("domain")],
        "after": [GPU.c.host_id > sa.bindparam("after", type_=sa.Uuid)],
    }
    here["host"] = here["hosts"]
    here["both"] = here["hosts"] + here["domain"]
    statement = sa.select(GPU.c.id, GPU.c.host_id, GPU.c.index, GPU.c.host_lent)
    statement = statement.where(*_free(shape), *_side(side), *here[where]).limit(_limit())
    first: list[Any] = [GPU.c.host_lent.desc()] if where == "domain" else []
    statement = statement.order_by(*first, GPU.c.host_id, GPU.c.index)
    return statement.with_for_update(skip_locked=True, key_share=True) if locking else statement


@lru_cache(maxsize=1)
def _idle_hosts() -> Any:
    """Those that are idle, locked; those in others' hands are skipped."""
    named = HOST.c.id.in_(sa.bindparam("hosts", expanding=True, type_=sa.Uuid))
    idle = sa.select(HOST.c.id).where(named, HOST.c.state == State.IDLE).order_by(HOST.c.id)
    return idle.with_for_update(skip_locked=True, key_share=True)


def _room(row: Any, side: Side) -> Room:
    return Room(row.host_id, getattr(row, "nvlink_domain", None), row.free, side == "lent")


def _grouped(shape: Shape, side: Side) -> tuple[list[Any], sa.Select[Any]]:
    groups = [GPU.c.host_id, GPU.c.nvlink_domain] if "nvlink" in shape.given else [GPU.c.host_id]
    free = sa.func.count()
    found = sa.select(*groups, free.label("free")).where(*_free(shape), *_side(side)).group_by(*groups)
    return groups, found.having(free >= sa.bindparam("least", type_=sa.Integer)).limit(_limit())


def whole_host() -> sa.ScalarSelect[int]:
    """How many GPUs the GPU's host has."""
    own = sa.and_(WHOLE.c.host_id == GPU.c.host_id, WHOLE.c.removed_at.is_(None))
    return sa.select(sa.func.count()).where(own).correlate(GPU).scalar_subquery()


@lru_cache(maxsize=1024)
def _rooms(shape: Shape, side: Side, order: Order, whole: bool) -> Any:
    groups, found = _grouped(shape, side)
    if whole:
        found = found.having(sa.func.count() == whole_host())
    ranks: dict[Order, list[Any]] = {
        "tight": [sa.func.count()],
        "roomy": [sa.func.count().desc()],
        "turn": [],
    }
    return found.order_by(*ranks[order], *groups)


@lru_cache(maxsize=1024)
def _rooms_after(shape: Shape, side: Side) -> Any:
    groups, found = _grouped(shape, side)
    beyond = GPU.c.host_id > sa.bindparam("after", type_=sa.Uuid)
    return found.add_columns(whole_host().label("whole")).where(beyond).order_by(*groups)


@lru_cache(maxsize=256)
def _domains(shape: Shape) -> Any:
    free = sa.func.count()
    return (
        sa.select(GPU.c.nvlink_domain, free.label("free"))
        .where(*_free(shape))
        .group_by(GPU.c.nvlink_domain)
        .having(free >= sa.bindparam("least", type_=sa.Integer))
        .order_by(free, GPU.c.nvlink_domain)
        .limit(_limit())
    )


def _limit() -> sa.BindParameter[int]:
    return sa.bindparam("limit", type_=sa.Integer)
