"""HTTP of groups: one thing done to many hosts."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.operations.estimates import Estimates
from api.core.operations.models import Operation
from api.core.operations.router import STREAM_SECONDS
from api.core.pagination import Page, Pages, fetch
from api.fleet import groups
from api.fleet.group_models import (
    GroupCancel,
    GroupCreate,
    GroupDetail,
    GroupMember,
    GroupRead,
    GroupRetry,
    GroupState,
    MemberRead,
    MemberState,
    OperationGroup,
)

router = APIRouter(prefix="/api/v1/operation-groups", tags=["fleet"], route_class=TransactionalRoute)
Operator = Annotated[Actor, needs(Permission.FLEET_OPERATE)]
FAULTS = problems(401, 403, 404, 422)
REFUSALS = problems(401, 403, 404, 409, 422)
CHANGES = problems(401, 403, 404, 409, 412, 422)
POLL_SECONDS = 0.7
FAILED_ONLY, BEGIN_NO_MORE = GroupRetry(), GroupCancel()


@router.get("", summary="List groups, newest first", responses=problems(401, 403, 422))
def list_groups(tx: Tx, pages: Pages, actor: Operator) -> Page[GroupRead]:  # noqa: ARG001
    rows, following = fetch(tx, sa.select(OperationGroup), col(OperationGroup.id), pages, newest_first=True)
    counts = _counts(tx, [row.id for row in rows])
    return Page(items=[_read(row, counts[row.id]) for row in rows], next_cursor=following)


@router.post("", status_code=202, summary="Do one thing to many hosts", responses=REFUSALS)
def create_group(asked: GroupCreate, tx: Tx, actor: Operator, request: Request) -> GroupDetail:
    """Begins `at_once` hosts; as each ends the next begins, until more than `max_failures` have failed.

    To enroll a host takes until its first reclaim has ended. What cannot be begun on a host counts as failed.
    """
    return detail(tx, groups.create(tx, actor, asked), request.app.state.estimates)


@router.get("/{group_id}", summary="Look at one group and its hosts", responses=FAULTS | etags.NOT_MODIFIED)
def get_group(group_id: UUID, tx: Tx, actor: Operator, request: Request) -> GroupDetail:  # noqa: ARG001
    return _tagged(tx, groups.get(tx, group_id), request)


def _tagged(tx: Session, group: OperationGroup, request: Request) -> GroupDetail:
    return etags.tag(tx, etags.version(group), detail(tx, group, request.app.state.estimates))


def _as_seen(tx: Session, group_id: UUID) -> None:
    etags.check(tx, lambda: etags.version(groups.lock(tx, group_id)))


@router.post("/{group_id}/cancel", status_code=202, summary="Begin no more hosts", responses=CHANGES)
def cancel_group(
    group_id: UUID, tx: Tx, actor: Operator, request: Request, asked: GroupCancel = BEGIN_NO_MORE
) -> GroupDetail:
    _as_seen(tx, group_id)
    return _tagged(tx, groups.cancel(tx, actor, group_id, also_running=asked.running), request)


@router.post("/{group_id}/retry", status_code=202, summary="Try the failed hosts again", responses=CHANGES)
def retry_group(
    group_id: UUID, tx: Tx, actor: Operator, request: Request, asked: GroupRetry = FAILED_ONLY
) -> GroupDetail:
    """A new group with the same action and limits, for the hosts of this one that failed."""
    _as_seen(tx, group_id)
    group = groups.retry(tx, actor, group_id, skipped=asked.skipped)
    return detail(tx, group, request.app.state.estimates)


def _exists(group_id: UUID, tx: Tx) -> None:
    groups.get(tx, group_id)
    tx.close()  # a stream holds no connection


@router.get(
    "/{group_id}/events",
    summary="Follow a group as it goes",
    responses=FAULTS,
    response_class=EventSourceResponse,
)
async def follow_group(
    group_id: UUID,
    actor: Operator,  # noqa: ARG001
    exists: Annotated[None, Depends(_exists)],  # noqa: ARG001
    request: Request,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `member` when a host moves on, `progress` when the counts change, `end` at last.

    Each connection first tells how everything stands, so nothing is missed by connecting again. The lines of
    a host's log are in the events of its operation.
    """
    told: dict[UUID, Any] = {}
    counts: Any = None
    deadline = monotonic() + STREAM_SECONDS
    while True:
        now = await run_in_threadpool(_snapshot, request.app.state, group_id)
        for member in now.members:
            seen = member.model_dump(exclude={"eta_seconds"})
            if told.get(member.host_id) != seen:
                told[member.host_id] = seen
                yield ServerSentEvent(event="member", data=member)
        whole = GroupRead.model_validate(now.model_dump(exclude={"members"}))
        ended = now.state is not GroupState.RUNNING
        if ended or counts != (whole.hosts, whole.cancel_requested):
            counts = (whole.hosts, whole.cancel_requested)
            yield ServerSentEvent(event="end" if ended else "progress", data=whole)
        if ended or monotonic() > deadline:
            return
        await asyncio.sleep(POLL_SECONDS)


def _snapshot(state: Any, group_id: UUID) -> GroupDetail:
    with state.database.snapshot() as tx:
        return detail(tx, groups.get(tx, group_id), state.estimates)


def detail(tx: Session, group: OperationGroup, estimates: Estimates) -> GroupDetail:
    found = groups.members(tx, group.id)
    ids = [member.operation_id for member in found if member.operation_id]
    rows = tx.execute(sa.select(Operation).where(col(Operation.id).in_(ids))).scalars()
    operations = {row.id: estimates.read(tx, row) for row in rows}
    members = [_member(row, operations.get(row.operation_id) if row.operation_id else None) for row in found]
    whole = _read(group, Counter(member.state for member in found))
    whole.eta_seconds = _left(whole, members)
    return GroupDetail(**whole.model_dump(), members=members)


def _member(member: GroupMember, operation: Any) -> MemberRead:
    read = MemberRead.model_validate(member)
    if operation is not None and member.state is MemberState.RUNNING:
        read.step, read.progress = operation.step, operation.progress
        read.eta_seconds = operation.eta_seconds
    return read


def _left(group: GroupRead, members: list[MemberRead]) -> float | None:
    """As long as what runs, and as many rounds as the waiting ones need after it."""
    known = [member.eta_seconds for member in members if member.eta_seconds is not None]
    if group.state is not GroupState.RUNNING or not known:
        return None
    took = [
        (member.ended_at - member.started_at).total_seconds()
        for member in members
        if member.ended_at and member.started_at
    ]
    one = sum(took) / len(took) if took else max(known)
    rounds = -(-group.hosts.get(MemberState.WAITING, 0) // group.at_once)
    return round(max(known) + rounds * one, 1)


def _read(group: OperationGroup, counts: Counter[MemberState]) -> GroupRead:
    return GroupRead.model_validate(group.model_dump() | {"hosts": dict(counts)})


def _counts(tx: Session, ids: list[UUID]) -> dict[UUID, Counter[MemberState]]:
    by = (col(GroupMember.group_id), col(GroupMember.state))
    found: dict[UUID, Counter[MemberState]] = defaultdict(Counter)
    for group_id, state, number in tx.execute(
        sa.select(*by, sa.func.count()).where(by[0].in_(ids)).group_by(*by)
    ):
        found[group_id][state] = number
    return found
