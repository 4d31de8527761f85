"""Operations that bring something outside in line with the ledger.

At most one of them waits, and a change while one runs leads to one more: nothing is lost, nothing piles up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.access import Actor
from api.core.errors import Conflict
from api.core.operations import service
from api.core.operations.lifecycle import OPEN, State
from api.core.operations.models import Operation

SYNCS = "syncs"  # where a transaction carries what follows from a change
AGAIN = "again"
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Sync:
    kind: str
    subject_id: UUID
    subject: str


def changed(tx: Session, actor: Actor) -> None:
    """Something changed that others follow: each of them is brought in line after this transaction."""
    for sync in tx.info.get(SYNCS, ()):
        request(tx, actor, sync)


def request(tx: Session, actor: Actor, sync: Sync, **arguments: Any) -> Operation:
    """An operation that will have seen everything in this transaction, or whose follow-up will.

    The one that waits takes the `arguments` too; while one runs they are kept for the next.
    """
    for _ in range(ATTEMPTS):
        operation = _open_one(tx, sync) or _begin(tx, actor, sync, arguments)
        if operation is not None:
            return _joined(operation, arguments)
    raise Conflict(f"{sync.kind} of {sync.subject} is asked for from many sides at once; try again.")


def follow_up(tx: Session, actor: Actor, operation: Operation) -> None:
    """Start the next one if something changed while this one ran. Call it where the end is written."""
    arguments = operation.arguments.get(AGAIN)
    if arguments is not None:
        sync = Sync(operation.kind, operation.subject_id, operation.subject)
        request(tx, actor, sync, **arguments)


def _open_one(tx: Session, sync: Sync) -> Operation | None:
    """Locked, so that it neither starts nor ends before this transaction does."""
    statement = sa.select(Operation).where(
        col(Operation.subject_id) == sync.subject_id, col(Operation.state).in_(OPEN)
    )
    options = {"populate_existing": True}
    return tx.execute(statement.with_for_update().execution_options(**options)).scalar_one_or_none()


def _begin(tx: Session, actor: Actor, sync: Sync, arguments: dict[str, Any]) -> Operation | None:
    """None when somebody else was faster: on PostgreSQL their row shows only in a new statement."""
    try:
        with tx.begin_nested():
            operation = service.create(
                tx, actor, sync.kind, subject_id=sync.subject_id, subject=sync.subject, arguments=arguments
            )
            service.dispatch(tx, operation)
    except (IntegrityError, service.OperationOpen):
        return None
    return operation


def _joined(operation: Operation, arguments: dict[str, Any]) -> Operation:
    if operation.state is State.QUEUED and not operation.cancel_requested:
        operation.arguments = operation.arguments | arguments
    else:
        later = operation.arguments.get(AGAIN, {}) | arguments
        operation.arguments = operation.arguments | {AGAIN: later}
    return operation
