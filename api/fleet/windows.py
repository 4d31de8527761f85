"""Taking exactly the GPUs that were set aside, once their window has begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.core.access import Actor
from api.fleet import seizing
from api.fleet.fit import Pick
from api.fleet.rooms import GPU, HOST, Spot, View, free_now
from api.fleet.wanted import Moment, Taken

RESERVED = "it was reserved for this time"


def take(
    tx: Session, actor: Actor, gpu_ids: Sequence[UUID], holder: UUID, at: datetime, *, until: datetime
) -> tuple[list[Taken], datetime, dict[str, Any]] | None:
    """As `placement.take`, but these and no others; None, with nothing changed, when one cannot be had now.

    Their reservations are closed already.
    """
    view = View(tx, Moment(until))
    statement = sa.select(GPU.c.id, GPU.c.host_id, GPU.c.index, GPU.c.host_lent)
    found = statement.where(GPU.c.id.in_(gpu_ids), *free_now()).order_by(GPU.c.host_id, GPU.c.index)
    spots = [Spot(*row) for row in tx.execute(found, {"until": until})]
    if len(spots) < len(gpu_ids):
        return None
    attempted = tx.begin_nested()
    rows = seizing.seize(view, actor, [Pick(spots, {})], holder, at)
    if rows is None:
        attempted.rollback()
        return None
    attempted.commit()
    began = max(at, *(max(row.host_since, row.free_since) for row in rows.values()))
    return [_taken(rows[spot.id]) for spot in spots], began, _why(rows.values())


def _taken(row: Any) -> Taken:
    return Taken(row.id, row.host_id, row.host, row.index, row.uuid, row.model, row.memory_mib, row.region)


def _why(rows: Any) -> dict[str, Any]:
    hosts = Counter(row.host for row in rows)
    because = [{"host": host, "gpus": gpus, "because": RESERVED} for host, gpus in sorted(hosts.items())]
    return {"policy": "reserved", "hosts": because}


def lock(tx: Session, gpu_ids: Sequence[UUID]) -> None:
    """Whoever would hold or reserve one of them waits until this transaction has ended."""
    seizing.lock_gpus(tx, gpu_ids)


def lock_held(tx: Session, holder: UUID) -> list[UUID]:
    """Those that `holder` holds, locked."""
    found = sorted(tx.execute(sa.select(GPU.c.id).where(GPU.c.held_by == holder)).scalars())
    seizing.lock_gpus(tx, found)
    return found


def lock_hosts_of(tx: Session, gpu_ids: Sequence[UUID]) -> None:
    """Their hosts with all of their GPUs, locked in the order that every claim keeps to."""
    seizing.lock_hosts(tx, sorted(hosts_of(tx, gpu_ids)))


def hosts_of(tx: Session, gpu_ids: Sequence[UUID]) -> set[UUID]:
    return set(tx.execute(sa.select(GPU.c.host_id).where(GPU.c.id.in_(gpu_ids))).scalars())


def name(tx: Session, gpu_id: UUID) -> str:
    """As people call it: its index on its host."""
    statement = sa.select(GPU.c.index, HOST.c.name).join(HOST, HOST.c.id == GPU.c.host_id)
    row = tx.execute(statement.where(GPU.c.id == gpu_id)).one()
    return f"GPU {row.index} of {row.name}"
