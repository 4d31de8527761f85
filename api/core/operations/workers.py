"""Workers: who they are, that they live, and who picks up after the dead."""

from __future__ import annotations

import logging
import os
import platform
import secrets
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import clock
from api.core.operations.models import Worker

log = logging.getLogger("ironyard.workers")


def register(tx: Session) -> Worker:
    worker = Worker(id=f"worker-{secrets.token_hex(4)}", machine=platform.node(), pid=os.getpid())
    tx.add(worker)
    return worker


def beat(tx: Session, worker_id: str) -> None:
    tx.execute(sa.update(Worker).where(col(Worker.id) == worker_id).values(heartbeat_at=clock.now()))


def stopped(tx: Session, worker_id: str) -> None:
    tx.execute(sa.update(Worker).where(col(Worker.id) == worker_id).values(stopped_at=clock.now()))


def dead(tx: Session, *, silence: float) -> list[str]:
    """Workers to pick up after: silent for too long, or processes of this machine that are gone."""
    rows = tx.execute(
        sa.select(Worker).where(col(Worker.stopped_at).is_(None), col(Worker.recovered_by).is_(None))
    ).scalars()
    limit = clock.now() - timedelta(seconds=silence)
    return [row.id for row in rows if row.heartbeat_at < limit or _gone(row)]


def recovered(tx: Session, worker_id: str, by: str) -> None:
    tx.execute(
        sa.update(Worker)
        .where(col(Worker.id) == worker_id, col(Worker.recovered_by).is_(None))
        .values(recovered_by=by)
    )


def eldest(tx: Session, *, silence: float) -> str | None:
    """The living worker that does what only one has to do; when it dies, another one is."""
    limit = clock.now() - timedelta(seconds=silence)
    living = sa.select(col(Worker.id)).where(
        col(Worker.stopped_at).is_(None),
        col(Worker.recovered_by).is_(None),
        col(Worker.heartbeat_at) >= limit,
    )
    return tx.execute(living.order_by(col(Worker.started_at), col(Worker.id)).limit(1)).scalar_one_or_none()


def alive(tx: Session, *, silence: float, machine: str | None = None) -> int:
    """How many workers were heard of in the last `silence` seconds, on all machines or on one."""
    limit = clock.now() - timedelta(seconds=silence)
    living = (
        sa.select(sa.func.count())
        .select_from(Worker)
        .where(col(Worker.stopped_at).is_(None), col(Worker.heartbeat_at) >= limit)
    )
    if machine is not None:
        living = living.where(col(Worker.machine) == machine)
    return tx.execute(living).scalar_one()


def dead_machines(tx: Session) -> set[str]:
    """Machines that had workers and have none that lives: what those left unfinished, nobody goes on with."""
    rows = tx.execute(
        sa.select(col(Worker.machine), col(Worker.stopped_at), col(Worker.recovered_by)).distinct()
    ).all()
    return {row.machine for row in rows} - {
        row.machine for row in rows if row.stopped_at is None and row.recovered_by is None
    }


def _gone(worker: Worker) -> bool:
    if worker.machine != platform.node() or worker.pid == os.getpid():
        return False
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
