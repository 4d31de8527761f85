"""What goes on forever: operations without progress, and hosts that wait for one which nobody runs."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.columns import UtcDateTime
from api.core.operations.lifecycle import OPEN, State
from api.core.operations.models import Operation, OperationEvent
from api.fleet.lifecycle import State as HostState
from api.fleet.models import Host
from api.monitoring.models import Action, Kind, Seen, Sighting
from api.settings import Settings

AT_WORK = (HostState.ENROLLING, HostState.CLEANING, HostState.RECLAIMING)


def look(tx: Session, settings: Settings, now: datetime) -> Seen:
    limit = now - timedelta(seconds=settings.leak_stuck_after)
    return Seen([*_operations(tx, limit, settings), *_hosts(tx)])


def _operations(tx: Session, limit: datetime, settings: Settings) -> list[Sighting]:
    """Its last progress is the newest line of its log, or else its beginning: a worker beats all the same."""
    newest = (
        sa.select(sa.func.max(col(OperationEvent.at)))
        .where(col(OperationEvent.operation_id) == col(Operation.id))
        .correlate(Operation)
        .scalar_subquery()
    )
    progress = sa.func.coalesce(newest, col(Operation.started_at), col(Operation.created_at))
    statement = (
        sa.select(Operation, sa.type_coerce(progress, UtcDateTime()).label("progress"))
        .where(col(Operation.state).in_(OPEN))
        .order_by(col(Operation.id))
    )
    return [
        _operation(row.Operation, row.progress, settings)
        for row in tx.execute(statement)
        if min(row.progress, row.Operation.heartbeat_at or row.progress) < limit
    ]


def _operation(operation: Operation, progress: datetime, settings: Settings) -> Sighting:
    running = operation.state is State.RUNNING
    doing = f"makes no progress at {operation.step or 'its start'}" if running else "waits for a worker"
    beat = operation.heartbeat_at.isoformat() if operation.heartbeat_at else None
    return Sighting(
        kind=Kind.STUCK_OPERATION,
        subject_id=operation.id,
        subject=f"{operation.kind} {operation.subject}",
        detail=f"{operation.kind} of {operation.subject} {doing} since {progress:%Y-%m-%dT%H:%M:%SZ}.",
        evidence={
            "state": operation.state,
            "step": operation.step,
            "progress_at": progress.isoformat(),
            "heartbeat_at": beat,
            "worker": operation.worker,
            "allowed_seconds": settings.leak_stuck_after,
        },
        action=Action.CANCEL_OPERATION if running else Action.LOOK,
        host_id=operation.subject_id if operation.kind.startswith("host.") else None,
    )


def _hosts(tx: Session) -> list[Sighting]:
    busy = sa.exists().where(col(Operation.subject_id) == col(Host.id), col(Operation.state).in_(OPEN))
    statement = sa.select(col(Host.id), col(Host.name), col(Host.state), col(Host.state_since)).where(
        col(Host.state).in_(AT_WORK), ~busy
    )
    return [
        Sighting(
            kind=Kind.STUCK_OPERATION,
            subject_id=row.id,
            subject=row.name,
            detail=f"{row.name} is {row.state}, and no operation is at work there.",
            evidence={"state": row.state, "since": row.state_since.isoformat()},
            action=Action.TAKE_OUT_HOST,
            host_id=row.id,
        )
        for row in tx.execute(statement.order_by(col(Host.id)))
    ]
