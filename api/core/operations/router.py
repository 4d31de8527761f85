"""HTTP of operations: look, follow, cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlmodel import col

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.operations import service
from api.core.operations.estimates import Estimates
from api.core.operations.lifecycle import OPEN, State
from api.core.operations.models import LogLineRead, Operation, OperationEvent, OperationRead
from api.core.pagination import Page, Pages, fetch

router = APIRouter(prefix="/api/v1/operations", tags=["operations"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.OPERATIONS_READ)]
FAULTS = problems(401, 403, 404, 422)
MAX_ID = 2**63 - 1
STREAM_SECONDS = 900.0


@router.get("", summary="List operations, newest first", responses=problems(401, 403, 422))
def list_operations(
    tx: Tx,
    pages: Pages,
    actor: Reader,
    request: Request,
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
    estimates = _estimates(request)
    return Page(items=[estimates.read(tx, row) for row in rows], next_cursor=following)


@router.get("/{operation_id}", summary="Look at one operation", responses=FAULTS | etags.NOT_MODIFIED)
def get_operation(operation_id: UUID, tx: Tx, actor: Reader, request: Request) -> OperationRead:
    return _tagged(tx, service.get(tx, actor, operation_id), request)


def _tagged(tx: Tx, operation: Operation, request: Request) -> OperationRead:
    return etags.tag(tx, service.version(operation), _estimates(request).read(tx, operation))


@router.get("/{operation_id}/log", summary="Read an operation's log", responses=FAULTS)
def list_lines(
    operation_id: UUID,
    tx: Tx,
    actor: Reader,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="the last line's id that you have")] = 0,
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


def _visible(operation_id: UUID, tx: Tx, actor: Reader) -> None:
    """Refused before the stream begins: afterwards there is no status left to give."""
    service.get(tx, actor, operation_id)
    tx.close()  # a stream holds no connection


@router.get(
    "/{operation_id}/events",
    summary="Follow an operation as it goes",
    responses=FAULTS,
    response_class=EventSourceResponse,
)
async def follow(
    operation_id: UUID,
    actor: Reader,  # noqa: ARG001
    visible: Annotated[None, Depends(_visible)],  # noqa: ARG001
    request: Request,
    last_event_id: Annotated[int, Header(ge=0, le=MAX_ID, description="where an earlier stream broke")] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `line` for each line of its log, `progress` when it moves on, `end` at last.

    Each carries the id of the last line before it; connecting again with `Last-Event-ID` misses nothing. A
    stream ends with the operation, and after a quarter of an hour, so that permissions are looked at again.
    """
    app = request.app.state
    told: OperationRead | None = None
    deadline = monotonic() + STREAM_SECONDS
    async for news in app.feed.follow(operation_id, last_event_id):
        for line in news.lines:
            last_event_id = line.id
            data = line.model_dump(mode="json") | {"host": news.operation.subject}
            yield ServerSentEvent(event="line", id=str(line.id), data=data)
        now = await run_in_threadpool(_standing, app, news.operation)
        ended = news.operation.state not in OPEN and not news.more
        if ended or _moved(told, now):
            told = now
            yield ServerSentEvent(event="end" if ended else "progress", id=str(last_event_id), data=now)
        if ended or monotonic() > deadline:
            return


def _standing(app: Any, operation: Operation) -> OperationRead:
    with app.database.snapshot() as tx:
        found: OperationRead = app.estimates.read(tx, operation)
    found.outcome = None  # it can be large; whoever wants it asks for it
    return found


def _moved(told: OperationRead | None, now: OperationRead) -> bool:
    aside = {"eta_seconds"}
    return told is None or told.model_dump(exclude=aside) != now.model_dump(exclude=aside)


def _estimates(request: Request) -> Estimates:
    found: Estimates = request.app.state.estimates
    return found


@router.post(
    "/{operation_id}/cancel",
    status_code=202,
    summary="Ask an operation to stop",
    responses=problems(401, 403, 404, 409, 412, 422),
)
def cancel(operation_id: UUID, tx: Tx, actor: Reader, request: Request) -> OperationRead:
    """The run is cut short; what it left half done ends as a failure would (a host goes to `maintenance`)."""
    service.check(tx, actor, operation_id)
    return _tagged(tx, service.request_cancel(tx, actor, operation_id), request)
