"""Requests for GPUs are approved or denied, or lapse when their time has passed."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import approvals, claims, service
from api.allocations.approval_models import AllocationChange
from api.allocations.claims import Claimed
from api.allocations.lifecycle import Event, State
from api.allocations.models import Allocation
from api.core import audit, clock, notices
from api.core.access import Actor
from api.core.errors import Conflict, WrongState
from api.identity import service as identity
from api.settings import Settings
from api.workspaces import tenants
from api.workspaces.models import MAY_CLAIM, Approval
from api.workspaces.service import Tenant

LAPSED = "nobody decided before the time that was asked for had passed"


def approve(
    tx: Session, actor: Actor, allocation_id: UUID, settings: Settings, *, reason: str | None = None
) -> Claimed:
    """Make the claim in the name of whoever asked: hold now, reserve, or queue.

    When quota or GPUs are short the approver is told by an error, and the request goes on waiting. Raises
    Forbidden, WrongState, QuotaExceeded, CapacityExceeded.
    """
    tenant, allocation = _to_decide(tx, actor, allocation_id)
    check_holder(tx, tenant, allocation)
    span = approvals.window_of(allocation, clock.now(), settings)
    wait = bool((allocation.why or {}).get("wait"))
    _decided(allocation, actor, reason)
    allocation.why = None
    audit.record(tx, actor, "allocation.approved", allocation.id, reason=reason)
    made = claims.begin(tx, actor, tenant, allocation, span, settings, wait=wait)
    text = because(f"{actor.name} has approved your claim", reason)
    tell_requester(tx, allocation, allocation, "approved", text)
    return made


def deny(tx: Session, actor: Actor, allocation_id: UUID, *, reason: str) -> Allocation:
    """Raises Forbidden, WrongState."""
    _, allocation = _to_decide(tx, actor, allocation_id)
    _decided(allocation, actor, reason)
    service.withdraw(tx, actor, allocation, Event.DENY, reason=reason)
    text = because(f"{actor.name} has denied your claim", reason)
    tell_requester(tx, allocation, allocation, "denied", text)
    return allocation


def _to_decide(tx: Session, actor: Actor, allocation_id: UUID) -> tuple[Tenant, Allocation]:
    tenant, allocation = approvals.lock(tx, actor, allocation_id)
    if allocation.state is not State.REQUESTED:
        by = f", decided by {allocation.decided_by}" if allocation.decided_by else ""
        raise WrongState(
            f"Allocation {allocation.id} is {allocation.state}{by}; there is nothing to decide.",
            state=allocation.state,
        )
    approvals.check_decider(actor, tenant, allocation.requested_by_id, approver_of(tx, tenant, allocation))
    return tenant, allocation


def approver_of(tx: Session, tenant: Tenant, allocation: Allocation) -> Approval:
    """The stricter of who had to be asked when it was asked for, and who would have to be now."""
    asked = Approval((allocation.why or {}).get("approver", Approval.WORKSPACE))
    return approvals.strictest(asked, approvals.level(tx, tenant, approvals.models_of(allocation.wanted)))


def check_holder(tx: Session, tenant: Tenant, allocation: Allocation) -> None:
    """Raises Conflict when whoever asked may hold nothing in the workspace any more."""
    user_id = allocation.requested_by_id
    if user_id is None:
        return
    user = identity.get_user(tx, user_id)
    member = tenants.role_of(tx, tenant.id, user_id) in MAY_CLAIM
    if not user.active or not (member or Actor(user.email, user.role).operates):
        raise Conflict(
            f"{allocation.requested_by} may claim nothing in {tenant.slug} any more; deny it instead.",
            requested_by=allocation.requested_by,
        )


def _decided(allocation: Allocation, actor: Actor, reason: str | None) -> None:
    allocation.decided_by, allocation.decided_by_id = actor.name, actor.user_id
    allocation.decided_at, allocation.reason = clock.now(), reason


def tell_requester(
    tx: Session, asked: Allocation | AllocationChange, allocation: Allocation, verb: str, text: str
) -> None:
    """`asked` is the allocation itself, or a change of it that somebody else may have asked for."""
    kind = f"allocation.{verb}"
    notices.tell(
        tx,
        kind,
        f"{kind}:{asked.id}",
        allocation.id,
        text,
        workspace_id=allocation.workspace_id,
        user_id=asked.requested_by_id,
    )


def because(text: str, reason: str | None) -> str:
    return f"{text}: {reason}" if reason else f"{text}."


def lapsed(tx: Session) -> list[UUID]:
    """Requests whose time passed before anybody decided."""
    waiting = sa.select(col(Allocation.id)).where(
        col(Allocation.state) == State.REQUESTED, col(Allocation.expires_at) <= clock.now()
    )
    return list(tx.execute(waiting.order_by(col(Allocation.created_at)).limit(500)).scalars())


def lapse(tx: Session, actor: Actor, allocation_id: UUID) -> bool:
    """False when somebody decided meanwhile."""
    _, allocation = service.lock(tx, actor, allocation_id)
    passed = allocation.expires_at is not None and allocation.expires_at <= clock.now()
    if allocation.state is not State.REQUESTED or not passed:
        return False
    service.withdraw(tx, actor, allocation, Event.EXPIRE, reason=LAPSED)
    tell_requester(tx, allocation, allocation, "lapsed", because("Your claim has lapsed", LAPSED))
    return True
