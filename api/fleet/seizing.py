"""Taking what was chosen: hosts are locked before GPUs, both by id, and then all is looked at again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.access import Actor
from api.core.columns import UtcDateTime
from api.core.db import is_sqlite
from api.fleet import service
from api.fleet.fit import Pick
from api.fleet.lifecycle import Event, State, advance
from api.fleet.rooms import GPU, HOST, View, free_now

# A lock that leaves the key alone: writing a hold of a GPU needs no more than the key of its host.
LOCK: dict[str, Any] = {"key_share": True}


def seize(
    view: View, actor: Actor, picks: Sequence[Pick], holder: UUID, at: datetime
) -> dict[UUID, Any] | None:
    """The rows of what was picked, now held; None when something of it was lost to others.

    A hasty view then leaves out what others hold locked. The caller rolls back to where it began.
    """
    spots = [spot for pick in picks for spot in pick.spots]
    idle = sorted({spot.host_id for spot in spots if not spot.lent})
    ids = [spot.id for spot in spots]
    if not is_sqlite(view.tx) and not _locked(view, ids, idle):
        return None
    if not _open_hosts(view.tx, actor, idle, at):
        return None
    given = {"ids": ids, "holder": holder, "until": view.moment.until, "idle": idle}
    rows = {row.id: row for row in view.tx.execute(_hold(), given)}
    if len(rows) < len(ids):
        return None
    if idle:
        view.tx.execute(sa.update(GPU).where(GPU.c.host_id.in_(idle)).values(host_lent=True))
    return rows


def _locked(view: View, ids: list[UUID], idle: list[UUID]) -> bool:
    """Lock idle hosts with all of their GPUs, and what was picked of others; waits unless hasty."""
    hasty = view.hasty
    if idle:
        statement = sa.select(HOST.c.id).where(HOST.c.id.in_(idle), HOST.c.state == State.IDLE)
        got = set(view.tx.execute(_locking(statement.order_by(HOST.c.id), hasty=hasty)).scalars())
        if len(got) < len(idle):
            view.but_hosts |= set(idle) - got if hasty else set()
            return False
    wanted = sa.select(GPU.c.id, GPU.c.host_id).where(sa.or_(GPU.c.id.in_(ids), GPU.c.host_id.in_(idle)))
    if not hasty:
        view.tx.execute(_locking(wanted.order_by(GPU.c.id), hasty=False))
        return True
    every = {row.id: row.host_id for row in view.tx.execute(wanted)}
    mine = {row.id for row in view.tx.execute(_locking(wanted.order_by(GPU.c.id), hasty=True))}
    missing = every.keys() - mine
    view.but_gpus |= missing
    view.but_hosts |= {every[gpu_id] for gpu_id in missing} & set(idle)
    return not missing


def _locking(statement: sa.Select[Any], *, hasty: bool) -> sa.Select[Any]:
    return statement.with_for_update(skip_locked=hasty, **LOCK)


def lock_gpus(tx: Session, ids: Collection[UUID]) -> None:
    if not is_sqlite(tx):
        tx.execute(_locking(sa.select(GPU.c.id).where(GPU.c.id.in_(ids)).order_by(GPU.c.id), hasty=False))


def lock_hosts(tx: Session, host_ids: Sequence[UUID]) -> None:
    """The hosts and then their GPUs, each by id."""
    if is_sqlite(tx):
        return
    hosts = sa.select(HOST.c.id).where(HOST.c.id.in_(host_ids)).order_by(HOST.c.id)
    tx.execute(_locking(hosts, hasty=False))
    gpus = sa.select(GPU.c.id).where(GPU.c.host_id.in_(host_ids)).order_by(GPU.c.id)
    tx.execute(_locking(gpus, hasty=False))


@lru_cache(maxsize=1)
def _hold() -> Any:
    """Hold what is still free; GPUs of hosts that were lent when they were picked must be so still."""
    idle = GPU.c.host_id.in_(sa.bindparam("idle", expanding=True, type_=sa.Uuid))
    of_host = [
        sa.select(value).where(HOST.c.id == GPU.c.host_id).correlate(GPU).scalar_subquery().label(name)
        for name, value in (("host", HOST.c.name), ("host_since", HOST.c.state_since))
    ]
    chosen = GPU.c.id.in_(sa.bindparam("ids", expanding=True, type_=sa.Uuid))
    return (
        sa.update(GPU)
        .where(chosen, *free_now(), sa.or_(GPU.c.host_lent, idle))
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
            GPU.c.free_since,
            *of_host,
        )
    )


def _open_hosts(tx: Session, actor: Actor, host_ids: Sequence[UUID], at: datetime) -> bool:
    """`service.fire` for claims: idle hosts, locked, become allocated; False when one is idle no more."""
    after = advance(State.IDLE, Event.CLAIM)
    for host_id in host_ids:
        own = sa.select(HOST.c.state_since).where(HOST.c.id == host_id, HOST.c.state == State.IDLE)
        since = tx.execute(own).scalar_one_or_none()
        if since is None:
            return False
        since = max(at, since)
        moved = sa.update(HOST).where(HOST.c.id == host_id)
        tx.execute(moved.values(state=after, state_since=since))
        service.keep_period(tx, host_id, after, since)
        service.audit_event(tx, actor, host_id, Event.CLAIM, before=State.IDLE, after=after)
    return True
