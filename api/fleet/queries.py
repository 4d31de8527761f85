"""Reads of the fleet: lists with their counts, and host histories for the capacity report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.pagination import Paging, fetch
from api.fleet.lifecycle import SENTENCES, State
from api.fleet.models import Gpu, GpuRead, Health, Host, HostDetail, HostPeriod, HostRead


def hosts(
    tx: Session,
    pages: Paging,
    *,
    state: State | None = None,
    region: str | None = None,
    model: str | None = None,
    name: str | None = None,
    label: str | None = None,
    cordoned: bool | None = None,
) -> tuple[list[HostRead], str | None]:
    statement = sa.select(Host)
    for column, wanted in (
        (Host.state, state),
        (Host.region, region),
        (Host.name, name),
        (Host.cordoned, cordoned),
    ):
        if wanted is not None:
            statement = statement.where(col(column) == wanted)
    if state is None and name is None:
        statement = statement.where(col(Host.state) != State.RETIRED)
    if model is not None:
        having = sa.select(col(Gpu.host_id)).where(col(Gpu.model) == model, col(Gpu.removed_at).is_(None))
        statement = statement.where(col(Host.id).in_(having))
    if label is not None:
        key, _, value = label.partition("=")
        statement = statement.where(col(Host.labels)[key].as_string() == value)
    rows, following = fetch(tx, statement, col(Host.id), pages)
    counts = _counts(tx, [row.id for row in rows])
    return [HostRead.model_validate(_summary(row, counts)) for row in rows], following


def detail(tx: Session, host: Host) -> HostDetail:
    summary = _summary(host, _counts(tx, [host.id]))
    own = sa.select(Gpu).where(col(Gpu.host_id) == host.id, col(Gpu.removed_at).is_(None))
    gpus = tx.execute(own.order_by(col(Gpu.index))).scalars()
    return HostDetail.model_validate(
        summary
        | {
            "ssh_user": host.ssh_user,
            "key_reference": host.key_reference,
            "host_keys": host.host_keys,
            "reclaim_policy": host.reclaim_policy,
            "drains_to": host.drains_to,
            "facts": host.facts,
            "gpu_list": [gpu_read(gpu, host.name) for gpu in gpus],
        }
    )


def gpus(
    tx: Session,
    pages: Paging,
    *,
    host_id: UUID | None = None,
    model: str | None = None,
    region: str | None = None,
    health: Health | None = None,
    held: bool | None = None,
    memory_mib: int | None = None,
) -> tuple[list[GpuRead], str | None]:
    statement = sa.select(Gpu).where(col(Gpu.removed_at).is_(None))
    for column, wanted in (
        (Gpu.host_id, host_id),
        (Gpu.model, model),
        (Gpu.region, region),
        (Gpu.health, health),
    ):
        if wanted is not None:
            statement = statement.where(col(column) == wanted)
    if held is not None:
        statement = statement.where(col(Gpu.held_by).is_not(None) if held else col(Gpu.held_by).is_(None))
    if memory_mib is not None:
        statement = statement.where(col(Gpu.memory_mib) >= memory_mib)
    rows, following = fetch(tx, statement, col(Gpu.id), pages)
    names = host_names(tx, {row.host_id for row in rows})
    return [gpu_read(row, names[row.host_id]) for row in rows], following


def gpu_read(gpu: Gpu, host: str) -> GpuRead:
    return GpuRead.model_validate(gpu.model_dump() | {"host": host})


def gpus_by_id(tx: Session, ids: Sequence[UUID]) -> dict[UUID, Gpu]:
    return {gpu.id: gpu for gpu in tx.execute(sa.select(Gpu).where(col(Gpu.id).in_(ids))).scalars()}


def enrolled(tx: Session, start: datetime, end: datetime, *, host_id: UUID | None = None) -> list[Gpu]:
    """GPUs that belonged to the fleet, or to one host of it, at some time in `[start, end)`."""
    statement = sa.select(Gpu).where(
        col(Gpu.enrolled_at) < end, sa.or_(col(Gpu.removed_at).is_(None), col(Gpu.removed_at) > start)
    )
    if host_id is not None:
        statement = statement.where(col(Gpu.host_id) == host_id)
    return list(tx.execute(statement.order_by(col(Gpu.host_id), col(Gpu.index), col(Gpu.id))).scalars())


def periods(
    tx: Session, start: datetime, end: datetime, *, host_id: UUID | None = None
) -> dict[UUID, list[HostPeriod]]:
    """Each host's stays in its states that touch `[start, end)`, in order."""
    statement = sa.select(HostPeriod).where(
        col(HostPeriod.started_at) < end,
        sa.or_(col(HostPeriod.ended_at).is_(None), col(HostPeriod.ended_at) > start),
    )
    if host_id is not None:
        statement = statement.where(col(HostPeriod.host_id) == host_id)
    found: dict[UUID, list[HostPeriod]] = {}
    for row in tx.execute(statement.order_by(col(HostPeriod.started_at), col(HostPeriod.id))).scalars():
        found.setdefault(row.host_id, []).append(row)
    return found


def count_by_state(tx: Session) -> list[tuple[str, int]]:
    rows = tx.execute(sa.select(col(Host.state), sa.func.count()).group_by(col(Host.state)))
    return [(str(state), number) for state, number in rows]


def host_info(tx: Session) -> list[tuple[tuple[str, ...], float]]:
    """((name, id, region, state), 1) of every host that is not retired"""
    named = sa.select(col(Host.name), col(Host.id), col(Host.region), col(Host.state))
    rows = tx.execute(named.where(col(Host.state) != State.RETIRED).order_by(col(Host.name)))
    return [((name, str(host_id), region, str(state)), 1.0) for name, host_id, region, state in rows]


def count_gpus(tx: Session) -> list[tuple[str, str, int]]:
    """(model, held | free | unavailable, count)"""
    use = sa.case(
        (col(Gpu.held_by).is_not(None), "held"), (col(Gpu.schedulable), "free"), else_="unavailable"
    )
    statement = sa.select(col(Gpu.model), use, sa.func.count()).where(col(Gpu.removed_at).is_(None))
    return [tuple(row) for row in tx.execute(statement.group_by(col(Gpu.model), use))]


def host_names(tx: Session, ids: set[UUID]) -> dict[UUID, str]:
    rows = tx.execute(sa.select(col(Host.id), col(Host.name)).where(col(Host.id).in_(ids)))
    return {row.id: row.name for row in rows}


def _counts(tx: Session, ids: list[UUID]) -> dict[UUID, list[tuple[str, int, int]]]:
    statement = (
        sa.select(col(Gpu.host_id), col(Gpu.model), sa.func.count(), sa.func.count(col(Gpu.held_by)))
        .where(col(Gpu.host_id).in_(ids), col(Gpu.removed_at).is_(None))
        .group_by(col(Gpu.host_id), col(Gpu.model))
        .order_by(col(Gpu.model))
    )
    found: dict[UUID, list[tuple[str, int, int]]] = {}
    for host_id, model, total, held in tx.execute(statement):
        found.setdefault(host_id, []).append((model, total, held))
    return found


def _summary(host: Host, counts: dict[UUID, list[tuple[str, int, int]]]) -> dict[str, Any]:
    own = counts.get(host.id, [])
    return host.model_dump() | {
        "state_meaning": SENTENCES[host.state],
        "gpus": sum(total for _, total, _ in own),
        "gpus_held": sum(held for _, _, held in own),
        "gpu_models": [model for model, _, _ in own],
    }
