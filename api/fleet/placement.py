"""Choosing free GPUs and taking them, all or nothing, without waiting for other claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.access import Actor
from api.core.columns import UtcDateTime
from api.core.db import is_sqlite, table
from api.core.errors import Conflict
from api.fleet import service
from api.fleet.lifecycle import LENDABLE, Event, State, advance
from api.fleet.models import Gpu, Health, Host

# What a claim filters by: statements are built once for each shape, since building costs more than binding.
Shape = tuple[frozenset[str], tuple[str, ...]]
GPU, HOST = table(Gpu), table(Host)
CANDIDATE_HOSTS = 16
HOST_COLUMNS = [
    sa.select(value).where(HOST.c.id == GPU.c.host_id).correlate(GPU).scalar_subquery().label(name)
    for name, value in (
        ("host", HOST.c.name),
        ("host_state", HOST.c.state),
        ("host_since", HOST.c.state_since),
    )
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a claim asks of the GPUs. Memory in MiB, of each GPU."""

    count: int
    model: str | None = None
    memory_mib: int | None = None
    region: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    same_host: bool = False
    nvlink: bool = False
    exclusive_host: bool = False
    mig_profile: str | None = None

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
    def shape(self) -> Shape:
        given = [name for name in ("model", "memory_mib", "region", "nvlink") if getattr(self, name)]
        if self.exclusive_host:
            given.append("whole")
        return frozenset(given), tuple(key for key, _ in self.labels)

    def parameters(self, **more: Any) -> dict[str, Any]:
        labels = {f"label_{number}": value for number, (_, value) in enumerate(self.labels)}
        own = {
            "want": self.count,
            "of_model": self.model,
            "of_memory": self.memory_mib,
            "in_region": self.region,
        }
        return own | labels | more


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


class CapacityExceeded(Conflict):
    code, title = "capacity-exceeded", "Not enough free GPUs match"


def take(
    tx: Session,
    actor: Actor,
    groups: Sequence[Wanted],
    holder: UUID,
    at: datetime,
    *,
    until: datetime,
    spread: bool = False,  # noqa: ARG001
    separate: bool = False,  # noqa: ARG001
) -> tuple[list[Taken], datetime, dict[str, Any]]:
    """Mark free GPUs as held by `holder` until `until`; also the moment from which they are, and why these.

    That moment is `at` or a little later. Raises CapacityExceeded, naming what is short.

    Partly used hosts are filled before others are begun, in the order of their enrollment; GPUs that must be
    together come from the host that they fit most tightly. Free GPUs that another claim is looking at are
    skipped; only when that leaves too few does this one wait for those claims to end.
    """
    rows: list[Any] = []
    for wanted in groups:
        together = wanted.same_host or wanted.nvlink or wanted.exclusive_host
        found = (_take_together if together else _take_any)(tx, wanted, holder, until)
        if not found:
            raise _shortage(tx, wanted, until)
        rows += sorted(found, key=lambda row: (row.host_id, row.index))
    since = _claim_hosts(tx, actor, rows, at)
    # Clocks of several processes differ: a hold never begins before its GPU was free and its host lent.
    began = max(since, *(row.free_since for row in rows))
    return [_taken(row) for row in rows], began, {}


def _taken(row: Any) -> Taken:
    return Taken(row.id, row.host_id, row.host, row.index, row.uuid, row.model, row.memory_mib, row.region)


def give_back(tx: Session, actor: Actor, holder: UUID, at: datetime, *, reason: str) -> None:
    """Free what `holder` holds; a host that nobody holds any more goes into reclaim."""
    held = tx.execute(sa.select(GPU.c.host_id).where(GPU.c.held_by == holder).distinct()).scalars()
    host_ids = sorted(held)
    for host_id in host_ids:
        service.end_checks(tx, actor, host_id, reason=reason)
    for host_id in host_ids:
        service.lock(tx, host_id)
    freed = {"held_by": None, "held_until": None, "free_since": at}
    tx.execute(sa.update(GPU).where(GPU.c.held_by == holder).values(freed))
    for host_id in host_ids:
        if service.held_gpus(tx, host_id) == 0:
            service.fire(tx, actor, host_id, Event.RELEASE, reason=reason, at=at)


def hold_until(tx: Session, holder: UUID, until: datetime) -> None:
    """Move the planned end of what `holder` holds; the database refuses one that runs into a reservation."""
    tx.execute(sa.update(GPU).where(GPU.c.held_by == holder).values(held_until=until))


def _free(shape: Shape) -> sa.ColumnElement[bool]:
    """What the index of free GPUs holds, so nothing more is said: a removed GPU is never schedulable."""
    unbooked = sa.or_(
        GPU.c.booked_from.is_(None), GPU.c.booked_from >= sa.bindparam("until", type_=UtcDateTime)
    )
    return sa.and_(GPU.c.schedulable, GPU.c.held_by.is_(None), unbooked, *_filters(shape))


def _matches(shape: Shape) -> sa.ColumnElement[bool]:
    return sa.and_(GPU.c.removed_at.is_(None), *_filters(shape))


def _filters(shape: Shape) -> list[sa.ColumnElement[bool]]:
    given, labels = shape
    conditions: dict[str, sa.ColumnElement[bool]] = {
        "model": GPU.c.model == sa.bindparam("of_model"),
        "memory_mib": GPU.c.memory_mib >= sa.bindparam("of_memory"),
        "region": GPU.c.region == sa.bindparam("in_region"),
        "nvlink": GPU.c.nvlink_domain.is_not(None),
        "whole": GPU.c.host_id.in_(sa.select(HOST.c.id).where(HOST.c.state == State.IDLE)),
    }
    wanted = [conditions[name] for name in sorted(given)]
    if labels:
        carried = [
            col(Host.labels)[key].as_string() == sa.bindparam(f"label_{number}")
            for number, key in enumerate(labels)
        ]
        wanted.append(GPU.c.host_id.in_(sa.select(HOST.c.id).where(*carried)))
    return wanted


def _update(picked: sa.Select[Any]) -> Any:
    chosen = picked.limit(sa.bindparam("want", type_=sa.Integer)).cte("picked")
    return (
        sa.update(GPU)
        .where(GPU.c.id.in_(sa.select(chosen.c.id)))
        .values(
            held_by=sa.bindparam("holder", type_=sa.Uuid), held_until=sa.bindparam("until", type_=UtcDateTime)
        )
        .returning(
            GPU.c.id,
            GPU.c.host_id,
            GPU.c.index,
            GPU.c.uuid,
            GPU.c.model,
            GPU.c.memory_mib,
            GPU.c.region,
            GPU.c.host_lent,
            GPU.c.free_since,
            *HOST_COLUMNS,
        )
    )


@lru_cache(maxsize=256)
def _anywhere(shape: Shape, *, waiting: bool) -> Any:
    """Take free GPUs of any host: skipping those in other claims' hands, or waiting for them.

    Waiting claims lock in the order of ids and hold nothing yet, so they cannot wait for each other.
    """
    free = sa.select(GPU.c.id).where(_free(shape))
    if waiting:
        return _update(free.order_by(GPU.c.id).with_for_update())
    # The order of the index of free GPUs: the first are found without looking at the rest.
    return _update(
        free.order_by(GPU.c.host_lent.desc(), GPU.c.host_id, GPU.c.index).with_for_update(skip_locked=True)
    )


@lru_cache(maxsize=256)
def _candidates(shape: Shape) -> Any:
    """Hosts (or NVLink domains of them) with enough free GPUs, the tightest fit first."""
    groups = [GPU.c.host_id] + ([GPU.c.nvlink_domain] if "nvlink" in shape[0] else [])
    return (
        sa.select(*groups)
        .where(_free(shape))
        .group_by(*groups)
        .having(sa.func.count() >= sa.bindparam("want", type_=sa.Integer))
        .order_by(sa.func.count(), GPU.c.host_id)
        .limit(CANDIDATE_HOSTS)
    )


@lru_cache(maxsize=256)
def _here(shape: Shape) -> Any:
    """Take free GPUs of one host, and of one NVLink domain of it where that was asked for."""
    here = [GPU.c.host_id == sa.bindparam("here", type_=sa.Uuid)]
    if "nvlink" in shape[0] and "whole" not in shape[0]:
        here.append(GPU.c.nvlink_domain == sa.bindparam("domain"))
    return _update(sa.select(GPU.c.id).where(_free(shape), *here).order_by(GPU.c.index).with_for_update())


def _take_any(tx: Session, wanted: Wanted, holder: UUID, until: datetime) -> list[Any]:
    parameters = wanted.parameters(holder=holder, until=until)
    # One GPU is taken or not: there is nothing to let go of before waiting.
    attempt = tx.begin_nested() if wanted.count > 1 and not is_sqlite(tx) else None
    rows = list(tx.execute(_anywhere(wanted.shape, waiting=False), parameters))
    if len(rows) < wanted.count and not is_sqlite(tx):
        if attempt:
            attempt.rollback()
        rows = list(tx.execute(_anywhere(wanted.shape, waiting=True), parameters))
    elif attempt:
        attempt.commit()
    if len(rows) < wanted.count:  # let go, so that the shortage is counted as others see it
        tx.execute(sa.update(GPU).where(GPU.c.held_by == holder).values(held_by=None, held_until=None))
        return []
    return rows


def _take_together(tx: Session, wanted: Wanted, holder: UUID, until: datetime) -> list[Any]:
    for group in list(tx.execute(_candidates(wanted.shape), wanted.parameters(until=until))):
        count = wanted.count
        if wanted.exclusive_host:
            whole = sa.select(sa.func.count()).where(
                GPU.c.host_id == group.host_id, GPU.c.removed_at.is_(None)
            )
            count = tx.execute(whole).scalar_one()
        more = {"holder": holder, "until": until, "here": group.host_id, "want": count}
        attempt = tx.begin_nested()
        rows = list(
            tx.execute(
                _here(wanted.shape), wanted.parameters(**more, domain=getattr(group, "nvlink_domain", None))
            )
        )
        if len(rows) == count:
            attempt.commit()
            return rows
        attempt.rollback()
    return []


def _claim_hosts(tx: Session, actor: Actor, rows: list[Any], at: datetime) -> datetime:
    """Idle hosts of the rows become allocated; the moment since when all of them are."""
    latest = at
    for host in {row.host_id: row for row in rows}.values():
        since = host.host_since
        if host.host_state is State.IDLE:
            since = _claim_idle(tx, actor, host.host_id, max(at, since))
        latest = max(latest, since)
    return latest


def _claim_idle(tx: Session, actor: Actor, host_id: UUID, at: datetime) -> datetime:
    """`fire` for claims: it locks only the host, since a claim may lock no GPU but its own."""
    after = advance(State.IDLE, Event.CLAIM)
    moved = tx.execute(
        sa.update(HOST)
        .where(HOST.c.id == host_id, HOST.c.state == State.IDLE)
        .values(state=after, state_since=at)
        .returning(HOST.c.id)
    ).first()
    if moved is None:  # another claim was first
        since: datetime = tx.execute(sa.select(HOST.c.state_since).where(HOST.c.id == host_id)).scalar_one()
        return since
    service.keep_period(tx, host_id, after, at)
    service.audit_event(tx, actor, host_id, Event.CLAIM, before=State.IDLE, after=after)
    return at


def _shortage(tx: Session, wanted: Wanted, until: datetime) -> CapacityExceeded:
    given, labels = wanted.shape
    anywhere = (given - {"whole"}, labels)
    free = tx.execute(
        sa.select(sa.func.count()).where(_free(wanted.shape)), wanted.parameters(until=until)
    ).scalar_one()
    matching = tx.execute(
        sa.select(sa.func.count()).where(_matches(anywhere)), wanted.parameters()
    ).scalar_one()
    unwell, unchecked = _out_of_the_pool(tx, anywhere, wanted)
    together = free >= wanted.count
    detail = f"Asked for {wanted.count} GPUs; {free} that match are free, of {matching} in the fleet."
    if together:
        detail += " They are not on one host (or not in one NVLink domain, or not a whole host)."
    if unwell:
        detail += f" {unwell} are out of the pool: their last health check failed."
    if unchecked:
        detail += f" {unchecked} wait for a health check of their host."
    counts = {"free": free, "matching": matching, "unwell": unwell, "unchecked": unchecked}
    return CapacityExceeded(detail, asked=wanted.describe(), **counts)


def _out_of_the_pool(tx: Session, shape: Shape, wanted: Wanted) -> tuple[int, int]:
    """Matching GPUs that nobody holds, on hosts that may be lent: sick ones, and those of unchecked hosts."""
    unheld = sa.and_(
        GPU.c.held_by.is_(None), HOST.c.state.in_(LENDABLE), sa.not_(HOST.c.cordoned), _matches(shape)
    )
    counted = (
        sa.select(
            sa.func.count().filter(GPU.c.health != Health.OK),
            sa.func.count().filter(sa.and_(GPU.c.health == Health.OK, sa.not_(HOST.c.health_current))),
        )
        .select_from(GPU.join(HOST, HOST.c.id == GPU.c.host_id))
        .where(unheld)
    )
    unwell, unchecked = tx.execute(counted, wanted.parameters()).one()
    return unwell, unchecked
