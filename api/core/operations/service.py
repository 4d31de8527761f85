"""Use cases of operations: enqueue, claim, log, finish, cancel. The transaction is the caller's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock, etags
from api.core.access import Actor, Permission
from api.core.db import table
from api.core.errors import Conflict, NotFound
from api.core.ids import new_id
from api.core.operations.lifecycle import OPEN, Event, State, advance
from api.core.operations.models import LogLine, Operation, OperationEvent
from api.core.texts import storable

QUEUE = "dispatcher"


class Dispatcher(Protocol):
    """Puts work into the background queue within the caller's transaction."""

    def enqueue(self, tx: Session, workflow_id: str, operation_id: UUID) -> None: ...


class OperationOpen(Conflict):
    code, title = "operation-open", "Another operation is still at work there"


class NotByHand(Conflict):
    code, title = "not-a-run-by-hand", "The operation takes no reports"


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to run an operation, until somebody else claims it."""

    operation_id: UUID
    kind: str
    worker: str
    attempt: int


def create(
    tx: Session,
    actor: Actor,
    kind: str,
    *,
    subject_id: UUID,
    subject: str,
    arguments: dict[str, Any] | None = None,
) -> Operation:
    """Record an operation. Raises OperationOpen while another one on the subject has not ended."""
    open_one = tx.execute(
        sa.select(Operation).where(col(Operation.subject_id) == subject_id, col(Operation.state).in_(OPEN))
    ).scalar_one_or_none()
    if open_one is not None:
        raise OperationOpen(
            f"{open_one.kind} is {open_one.state} on {subject}; wait for it or cancel it.",
            operation_id=str(open_one.id),
        )
    operation = Operation(
        kind=kind,
        subject_id=subject_id,
        subject=subject,
        arguments=arguments or {},
        requested_by=actor.name,
        requested_by_id=actor.user_id,
    )
    tx.add(operation)
    tx.flush()
    return operation


def dispatch(tx: Session, operation: Operation) -> None:
    """Enqueue it for a worker; a rollback takes that back too."""
    dispatcher: Dispatcher = tx.info[QUEUE]
    dispatcher.enqueue(tx, str(new_id()), operation.id)


def lock(tx: Session, operation_id: UUID) -> Operation:
    operation = tx.execute(
        sa.select(Operation).where(col(Operation.id) == operation_id).with_for_update()
    ).scalar_one_or_none()
    if operation is None:
        raise NotFound(f"There is no operation {operation_id}.")
    return operation


def get(tx: Session, actor: Actor, operation_id: UUID) -> Operation:
    operation = tx.get(Operation, operation_id)
    if operation is None or not visible(actor, operation):
        raise NotFound(f"There is no operation {operation_id}.")
    return operation


def version(operation: Operation) -> str:
    """Another one whenever its state changed or its end was asked for; its progress makes none."""
    return etags.version(operation, aside={"step", "progress", "arguments", "heartbeat_at"})


def check(tx: Session, actor: Actor, operation_id: UUID) -> None:
    """Go on only if the operation is as the request's `If-Match` says."""
    get(tx, actor, operation_id)
    etags.check(tx, lambda: version(lock(tx, operation_id)))


def visible(actor: Actor, operation: Operation) -> bool:
    return actor.may(Permission.FLEET_OPERATE) or operation.requested_by_id == actor.user_id


def counts(tx: Session, subject_id: UUID, start: datetime, end: datetime) -> dict[str, dict[str, int]]:
    """By kind and state, how many on the subject were asked for in `[start, end)`."""
    by = (col(Operation.kind), col(Operation.state))
    window = (col(Operation.created_at) >= start, col(Operation.created_at) < end)
    statement = sa.select(*by, sa.func.count()).where(col(Operation.subject_id) == subject_id, *window)
    found: dict[str, dict[str, int]] = {}
    for kind, state, number in tx.execute(statement.group_by(*by).order_by(*by)):
        found.setdefault(kind, {})[str(state)] = number
    return found


def claim(tx: Session, operation_id: UUID, worker: str) -> Claim | None:
    """Take an operation that is queued, or that a worker left behind; None when it has ended meanwhile."""
    operation = lock(tx, operation_id)
    if operation.state not in OPEN:
        return None
    operation.state = advance(operation.state, Event.START)
    operation.worker, operation.attempt = worker, operation.attempt + 1
    operation.heartbeat_at = clock.now()
    operation.started_at = operation.started_at or operation.heartbeat_at
    return Claim(operation.id, operation.kind, worker, operation.attempt)


def still_ours(tx: Session, claim: Claim) -> Operation | None:
    """The operation, locked, if nobody else has claimed or ended it since."""
    operation = lock(tx, claim.operation_id)
    ours = (operation.worker, operation.attempt, operation.state) == (
        claim.worker,
        claim.attempt,
        State.RUNNING,
    )
    return operation if ours else None


def requeue(tx: Session, operation: Operation) -> None:
    """Give a running operation back to the queue; the next worker starts it afresh."""
    operation.state = advance(operation.state, Event.REQUEUE)
    operation.worker = None
    dispatch(tx, operation)


def beat(operation: Operation) -> None:
    operation.heartbeat_at = clock.now()


def log(tx: Session, operation_id: UUID, lines: Iterable[LogLine]) -> None:
    rows = [line.model_dump() | {"operation_id": operation_id} for line in lines]
    if rows:
        tx.execute(sa.insert(table(OperationEvent)), rows)


def finish(
    tx: Session,
    actor: Actor,
    operation: Operation,
    event: Event,
    *,
    reason: str | None = None,
    outcome: dict[str, Any] | None = None,
) -> None:
    operation.state = advance(operation.state, event)
    operation.ended_at = clock.now()
    reason = storable(reason)
    operation.reason, operation.outcome = reason, storable(outcome)
    if event is Event.SUCCEED:
        operation.progress = 100
    audit.record(
        tx,
        actor,
        f"operation.{operation.state}",
        operation.id,
        after={"kind": operation.kind, "subject": operation.subject, "step": operation.step},
        reason=reason,
    )


def request_cancel(tx: Session, actor: Actor, operation_id: UUID) -> Operation:
    """Ask for an end; the worker stops the run and applies what follows from a run that was cut short."""
    get(tx, actor, operation_id)
    operation = lock(tx, operation_id)
    advance(operation.state, Event.CANCEL)
    if not operation.cancel_requested:
        operation.cancel_requested = True
        audit.record(tx, actor, "operation.cancel_requested", operation.id, after={"kind": operation.kind})
    return operation
