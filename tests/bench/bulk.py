"""Fills a ledger fast: rows copied, inside the database, from those that the platform made itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations.models import Allocation, Hold
from api.core.db import Database, is_sqlite, table
from api.fleet.models import Gpu, Host, HostPeriod

HOSTS, PERIODS, GPUS = table(Host), table(HostPeriod), table(Gpu)
ALLOCATIONS, HOLDS = table(Allocation), table(Hold)
EPOCH = 1_000_000_000  # the first closed hold began then, in seconds of Unix time
SLOT, LENGTH = 3600, 3000  # seconds from one hold of a GPU to the next, and that it lasts

Number = sa.ColumnElement[Any]


def hosts(database: Database, first: UUID, count: int) -> None:
    """`count` more hosts like the first, each with as many GPUs; no two share an id, a name or an address."""
    if count < 1:
        return
    with database.transaction() as tx:
        n = _numbers(count)
        address: Number = sa.func.concat("10.", n // 65536, ".", n // 256 % 256, ".", n % 256)
        if is_sqlite(tx):
            address = sa.func.printf("10.%d.%d.%d", n // 65536, n // 256 % 256, n % 256)
        _copy(tx, n, HOSTS, HOSTS.c.id == first, id=_id(tx, n), name=_text(tx, "h", n), address=address)
        own = PERIODS.c.host_id == first
        _copy(tx, n, PERIODS, sa.and_(own, PERIODS.c.ended_at.is_(None)), id=_id(tx, n), host_id=_id(tx, n))
        each = _each_gpu(tx, first)
        _copy(
            tx,
            n,
            GPUS,
            sa.and_(GPUS.c.host_id == first, GPUS.c.removed_at.is_(None)),
            id=_id(tx, n * each + GPUS.c.index),
            host_id=_id(tx, n),
            uuid=_text(tx, "GPU-", n * each + GPUS.c.index),
            nvlink_domain=_text(tx, "domain-", n),
        )


def closed_holds(database: Database, ended: UUID, gpus: int, count: int) -> None:
    """`count` allocations of one GPU each like the one that has `ended`, spread over the first copied `gpus`.

    Each GPU is held again and again, an hour after the other, long ago.
    """
    if count < 1:
        return
    with database.transaction() as tx:
        if not is_sqlite(tx):  # nothing that is copied needs to be checked or counted again
            tx.execute(sa.text("SET LOCAL session_replication_role = replica"))
        n = _numbers(count)
        each = tx.execute(sa.select(sa.func.count()).where(HOLDS.c.allocation_id == ended)).scalar_one()
        first = tx.execute(sa.select(HOLDS.c.host_id).where(HOLDS.c.allocation_id == ended).limit(1))
        per_host = _each_gpu(tx, first.scalar_one())
        start = n // gpus * SLOT + EPOCH
        span = {"started_at": _moment(tx, start), "ended_at": _moment(tx, start + LENGTH)}
        planned = {"created_at": span["started_at"], "expires_at": span["ended_at"]}
        _copy(tx, n, ALLOCATIONS, ALLOCATIONS.c.id == ended, id=_id(tx, n), **span, **planned)
        gpu = n % gpus + per_host  # the copies begin with host 1
        assert each == 1
        own = {"id": _id(tx, n), "allocation_id": _id(tx, n), "gpu_id": _id(tx, gpu)}
        held = {"host_id": _id(tx, gpu // per_host)}
        _copy(tx, n, HOLDS, HOLDS.c.allocation_id == ended, **own, **held, **span)


def _each_gpu(tx: Session, host_id: UUID) -> int:
    present = sa.select(sa.func.count()).where(GPUS.c.host_id == host_id, GPUS.c.removed_at.is_(None))
    return tx.execute(present).scalar_one()


def _numbers(count: int) -> Any:
    """1 to `count`, a row each, wherever the column is selected from."""
    first = sa.select(sa.literal(1, sa.BigInteger).label("n")).cte("numbers", recursive=True)
    return first.union_all(sa.select(first.c.n + 1).where(first.c.n < count)).c.n


def _copy(tx: Session, n: Any, source: sa.Table, which: sa.ColumnElement[bool], **changed: Number) -> None:
    """The rows in question once for each `n`, with these columns changed."""
    kept = [changed.get(column.name, column) for column in source.c]
    rows = sa.select(*kept).select_from(source.join(n.table, sa.true())).where(which)
    tx.execute(sa.insert(source).from_select(list(source.c), rows, include_defaults=False))


def _id(tx: Session, number: Number) -> Number:
    """Ids in the order of the numbers, all older than any real one."""
    if is_sqlite(tx):
        return sa.func.printf("00000000000070008000%012x", number)
    digits = sa.func.lpad(sa.func.to_hex(number), 12, "0")
    return sa.cast(sa.func.concat("00000000-0000-7000-8000-", digits), sa.Uuid)


def _text(tx: Session, prefix: str, number: Number) -> Number:
    return sa.func.printf(f"{prefix}%d", number) if is_sqlite(tx) else sa.func.concat(prefix, number)


def _moment(tx: Session, seconds: Number) -> Number:
    if is_sqlite(tx):
        return sa.func.strftime("%Y-%m-%d %H:%M:%S.000000", seconds, "unixepoch")
    return sa.func.to_timestamp(seconds)
