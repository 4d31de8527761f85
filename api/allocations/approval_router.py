"""HTTP of approval: what waits for a decision, decisions, changes, transfers, history, rules."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from api.allocations import approvals, changes, decisions, history, queries, service, transfer
from api.allocations.approval_models import (
    ANY_MODEL,
    AllocationChange,
    ApprovalRule,
    Approved,
    ChangeRead,
    ChangeRequest,
    ChangeState,
    Denied,
    HistoryRead,
    RuleRead,
    RuleSet,
    ToDecide,
    TransferRequest,
)
from api.allocations.models import Allocation, AllocationRead
from api.allocations.router import ACCEPTED, REFUSALS, WAITS, Claimer, Operator, Reader
from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.pagination import Page, Pages
from api.workspaces.models import ALL_MODELS

router = APIRouter(prefix="/api/v1", tags=["approval"], route_class=TransactionalRoute)
Administrator = Annotated[Actor, needs(Permission.WORKSPACES_ADMINISTER)]
Model = Annotated[str, Path(min_length=1, max_length=128, description="a GPU model; `*`: any")]
LOOKS = problems(401, 403, 404, 422)
CREATED = 201
UNSAID = Approved()


@router.get("/approvals", summary="List what waits for my decision, oldest first", responses=LOOKS)
def list_approvals(tx: Tx, pages: Pages, actor: Claimer) -> Page[ToDecide]:
    """Claims and changes of others. Nobody decides about what they asked for themselves."""
    items, following = history.to_decide(tx, actor, pages)
    return Page(items=items, next_cursor=following)


@router.post("/allocations/{allocation_id}/approve", summary="Approve a claim", responses=REFUSALS)
def approve(
    allocation_id: UUID, tx: Tx, actor: Claimer, request: Request, asked: Approved = UNSAID
) -> AllocationRead:
    """The claim is made in the name of whoever asked: held now, reserved, or queued.

    When quota or GPUs are short, you are told and the request goes on waiting.
    """
    service.check(tx, actor, allocation_id)
    settings = request.app.state.settings
    made = decisions.approve(tx, actor, allocation_id, settings, reason=asked.reason)
    return _read(tx, made.allocation)


@router.post("/allocations/{allocation_id}/deny", summary="Deny a claim", responses=REFUSALS)
def deny(allocation_id: UUID, asked: Denied, tx: Tx, actor: Claimer) -> AllocationRead:
    service.check(tx, actor, allocation_id)
    return _read(tx, decisions.deny(tx, actor, allocation_id, reason=asked.reason))


@router.post(
    "/allocations/{allocation_id}/transfer", summary="Hand it to another workspace", responses=REFUSALS
)
def hand_over(allocation_id: UUID, asked: TransferRequest, tx: Tx, actor: Claimer) -> AllocationRead:
    """To one in which you may claim as well. The GPUs stay, with what is on their hosts, and count there."""
    to = asked.workspace
    etags.check(tx, lambda: service.version(transfer.lock(tx, actor, allocation_id, to).allocation))
    return _read(tx, transfer.transfer(tx, actor, allocation_id, to, reason=asked.reason))


def _read(tx: Tx, allocation: Allocation) -> AllocationRead:
    tx.flush()
    return etags.tag(tx, service.version(allocation), queries.with_gpus(tx, [allocation])[0])


@router.get(
    "/allocations/{allocation_id}/history", summary="What happened to it, oldest first", responses=LOOKS
)
def get_history(allocation_id: UUID, tx: Tx, pages: Pages, actor: Reader) -> Page[HistoryRead]:
    items, following = history.history(tx, actor, allocation_id, pages)
    return Page(items=items, next_cursor=following)


@router.post(
    "/allocations/{allocation_id}/changes",
    status_code=CREATED,
    summary="Ask for a later end or more GPUs",
    responses=REFUSALS | WAITS,
)
def ask_for_change(
    allocation_id: UUID, asked: ChangeRequest, tx: Tx, actor: Claimer, request: Request, response: Response
) -> ChangeRead:
    """Done at once (`201`), or kept for those who decide (`202`)."""
    service.check(tx, actor, allocation_id)
    made = changes.ask(tx, actor, allocation_id, asked, request.app.state.settings)
    response.status_code = ACCEPTED if made.state is ChangeState.REQUESTED else CREATED
    return _change(tx, made)


@router.get("/allocations/{allocation_id}/changes", summary="List its changes, newest first", responses=LOOKS)
def list_changes(allocation_id: UUID, tx: Tx, pages: Pages, actor: Reader) -> Page[ChangeRead]:
    items, following = history.changes_of(tx, actor, allocation_id, pages)
    return Page(items=items, next_cursor=following)


@router.get(
    "/allocations/{allocation_id}/changes/{change_id}",
    summary="Look at one change",
    responses=LOOKS | etags.NOT_MODIFIED,
)
def get_change(allocation_id: UUID, change_id: UUID, tx: Tx, actor: Reader) -> ChangeRead:
    return _change(tx, changes.get(tx, service.get(tx, actor, allocation_id), change_id))


@router.post(
    "/allocations/{allocation_id}/changes/{change_id}/approve", summary="Approve a change", responses=REFUSALS
)
def approve_change(
    allocation_id: UUID,
    change_id: UUID,
    tx: Tx,
    actor: Claimer,
    request: Request,
    asked: Approved = UNSAID,
) -> ChangeRead:
    """It is made now; when something is short, you are told and it goes on waiting."""
    changes.check(tx, actor, allocation_id, change_id)
    settings = request.app.state.settings
    return _change(tx, changes.approve(tx, actor, allocation_id, change_id, settings, reason=asked.reason))


@router.post(
    "/allocations/{allocation_id}/changes/{change_id}/deny", summary="Deny a change", responses=REFUSALS
)
def deny_change(allocation_id: UUID, change_id: UUID, asked: Denied, tx: Tx, actor: Claimer) -> ChangeRead:
    changes.check(tx, actor, allocation_id, change_id)
    return _change(tx, changes.deny(tx, actor, allocation_id, change_id, reason=asked.reason))


@router.post(
    "/allocations/{allocation_id}/changes/{change_id}/cancel",
    summary="Withdraw a change that waits",
    responses=REFUSALS,
)
def cancel_change(allocation_id: UUID, change_id: UUID, tx: Tx, actor: Claimer) -> ChangeRead:
    changes.check(tx, actor, allocation_id, change_id)
    return _change(tx, changes.cancel(tx, actor, allocation_id, change_id))


def _change(tx: Tx, change: AllocationChange) -> ChangeRead:
    tx.flush()
    return etags.tag(tx, changes.version(change), history.read_change(change))


@router.get(
    "/admin/approval-rules", summary="List who approves which GPU models", responses=problems(401, 403)
)
def list_rules(tx: Tx, actor: Operator) -> list[RuleRead]:  # noqa: ARG001
    return [_rule(tx, row, tagged=False) for row in approvals.rules(tx)]


@router.get("/admin/approval-rules/{model}", summary="Look at one rule", responses=LOOKS | etags.NOT_MODIFIED)
def get_rule(model: Model, tx: Tx, actor: Operator) -> RuleRead:  # noqa: ARG001
    return _rule(tx, approvals.rule(tx, _stored(model)))


@router.put(
    "/admin/approval-rules/{model}", summary="Say who approves claims of a GPU model", responses=REFUSALS
)
def set_rule(model: Model, asked: RuleSet, tx: Tx, actor: Administrator) -> RuleRead:
    """A claim that names no model falls under every rule, since it could be given any."""
    etags.check(tx, lambda: approvals.locked_rule(tx, _stored(model)))
    return _rule(tx, approvals.set_rule(tx, actor, _stored(model), asked.approver))


@router.delete("/admin/approval-rules/{model}", status_code=204, summary="Remove a rule", responses=REFUSALS)
def remove_rule(model: Model, tx: Tx, actor: Administrator) -> None:
    etags.check(tx, lambda: approvals.locked_rule(tx, _stored(model)))
    approvals.remove_rule(tx, actor, _stored(model))


def _stored(model: str) -> str:
    return ALL_MODELS if model == ANY_MODEL else model


def _rule(tx: Tx, row: ApprovalRule, *, tagged: bool = True) -> RuleRead:
    read = RuleRead(model=row.model or None, approver=row.approver)
    return etags.tag(tx, approvals.rule_version(row), read) if tagged else read
