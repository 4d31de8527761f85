"""HTTP of operations: look, follow, cancel."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Query
from sqlmodel import col

from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.operations import service
from api.core.operations.lifecycle import State
from api.core.operations.models import LogLineRead, Operation, OperationEvent, OperationRead
from api.core.pagination import Page, Pages, fetch

router = APIRouter(prefix="/api/v1/operations", tags=["operations"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.OPERATIONS_READ)]


@router.get("", summary="List operations, newest first", responses=problems(401, 403, 422))
def list_operations(
    tx: Tx,
    pages: Pages,
    actor: Reader,
    state: Annotated[State | None, Query()] = None,
    kind: Annotated[str | None, Query(description="such as `host.enroll`")] = None,
    subject_id: Annotated[UUID | None, Query(description="such as a host's id")] = None,
) -> Page[OperationRead]:
    statement = sa.select(Operation)
    if not actor.may(Permission.FLEET_OPERATE):
        statement = statement.where(col(Operation.requested_by_id) == actor.user_id)
    for column, wanted in (
        (Operation.state, state),
        (Operation.kind, kind),
        (Operation.subject_id, subject_id),
    ):
        if wanted is not None:
            statement = statement.where(col(column) == wanted)
    rows, following = fetch(tx, statement, col(Operation.id), pages, newest_first=True)
    return Page(items=[OperationRead.model_validate(row) for row in rows], next_cursor=following)


@router.get("/{operation_id}", summary="Look at one operation", responses=problems(401, 403, 404, 422))
def get_operation(operation_id: UUID, tx: Tx, actor: Reader) -> OperationRead:
    return OperationRead.model_validate(service.get(tx, actor, operation_id))


@router.get(
    "/{operation_id}/events", summary="Read an operation's log", responses=problems(401, 403, 404, 422)
)
def list_events(
    operation_id: UUID,
    tx: Tx,
    actor: Reader,
    after: Annotated[int, Query(ge=0, description="the last line's id that you have")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> list[LogLineRead]:
    service.get(tx, actor, operation_id)
    rows = tx.execute(
        sa.select(OperationEvent)
        .where(col(OperationEvent.operation_id) == operation_id, col(OperationEvent.id) > after)
        .order_by(col(OperationEvent.id))
        .limit(limit)
    ).scalars()
    return [LogLineRead.model_validate(row) for row in rows]


@router.post(
    "/{operation_id}/cancel",
    status_code=202,
    summary="Ask an operation to stop",
    responses=problems(401, 403, 404, 409, 422),
)
def cancel(operation_id: UUID, tx: Tx, actor: Reader) -> OperationRead:
    """The run is cut short; what it left half done ends as a failure would (a host goes to `maintenance`)."""
    return OperationRead.model_validate(service.request_cancel(tx, actor, operation_id))
