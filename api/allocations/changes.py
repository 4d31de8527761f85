"""Changes of what is held, a later end or more GPUs: made at once, or after somebody's approval."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import approvals, claims, decisions, growth, service, window
from api.allocations.approval_models import REQUESTED, AllocationChange, ChangeRequest, ChangeState, Kind
from api.allocations.lifecycle import Event, State, advance
from api.allocations.models import Allocation, Hold, Reservation
from api.core import audit, clock, etags
from api.core.access import Actor
from api.core.errors import Exists, Invalid, NotFound, WrongState
from api.core.ids import new_id
from api.core.texts import gpus
from api.settings import Settings
from api.workspaces.models import Approval
from api.workspaces.service import Tenant

HELD = (State.ACTIVE, State.RESERVED)
EVENTS = {Kind.EXTEND: Event.EXTEND, Kind.GROW: Event.GROW}


def ask(
    tx: Session, actor: Actor, allocation_id: UUID, asked: ChangeRequest, settings: Settings
) -> AllocationChange:
    """Make the change, or keep it for those who decide (its state is then `requested`).

    Raises WrongState unless it is active (or reserved, for another end), Exists while another change of this
    kind waits, and whatever making it raises.
    """
    tenant, allocation = approvals.lock(tx, actor, allocation_id)
    advance(allocation.state, EVENTS[asked.kind])
    change = AllocationChange(
        id=new_id(),
        allocation_id=allocation.id,
        kind=asked.kind,
        asked=_asked(allocation, asked, settings),
        requested_by=actor.name,
        requested_by_id=actor.user_id,
        requested_at=clock.now(),
    )
    approver = _needed(tx, actor, tenant, allocation, change)
    if approver is None:
        change.state = ChangeState.DONE
        tx.add(change)
        growth.make(tx, actor, tenant, allocation, change, settings)
    else:
        _request(tx, actor, tenant, allocation, change, approver)
    return change


def _asked(allocation: Allocation, asked: ChangeRequest, settings: Settings) -> dict[str, Any]:
    purpose = {"purpose": asked.purpose} if asked.purpose else {}
    if asked.kind is Kind.EXTEND:
        assert asked.expires_at is not None
        end = window.checked_end(asked.expires_at, clock.now(), settings)
        return {"expires_at": end.isoformat()} | purpose
    groups = len(claims.wanted_groups(allocation.wanted))
    if asked.group >= groups:
        raise Invalid(f"The claim has {groups} groups, numbered from 0; there is no group {asked.group}.")
    return {"gpus": asked.gpus, "group": asked.group} | purpose


def _needed(
    tx: Session, actor: Actor, tenant: Tenant, allocation: Allocation, change: AllocationChange
) -> Approval | None:
    """An earlier end needs nobody's approval."""
    if change.kind is Kind.EXTEND and end_of(change) <= service.begun(allocation.expires_at):
        return None
    return approvals.needed(tx, actor, tenant, _models(tx, allocation, change))


def _models(tx: Session, allocation: Allocation, change: AllocationChange) -> list[str | None]:
    """The models that the change is about: those held or reserved, or what the group asks for."""
    if change.kind is Kind.GROW:
        return [claims.wanted_groups(allocation.wanted)[change.asked["group"]].model]
    held = sa.select(col(Hold.model)).where(
        col(Hold.allocation_id) == allocation.id, col(Hold.ended_at).is_(None)
    )
    booked = sa.select(col(Reservation.model)).where(
        col(Reservation.allocation_id) == allocation.id, col(Reservation.closed_at).is_(None)
    )
    return [*tx.execute(held.union(booked)).scalars()]


def _request(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    change: AllocationChange,
    approver: Approval,
) -> None:
    open_ones = _open(allocation.id).where(col(AllocationChange.kind) == change.kind)
    waiting = tx.execute(open_ones).scalars().first()
    if waiting is not None:
        raise Exists(
            f"A request to {change.kind} it waits already, since {waiting.requested_at:%Y-%m-%dT%H:%M:%SZ}; "
            "withdraw that one first.",
            change=str(waiting.id),
        )
    change.asked = change.asked | {"approver": approver.value}
    tx.add(change)
    tx.flush()
    audit.record(
        tx,
        actor,
        "allocation.change_requested",
        allocation.id,
        after=_told(change),
        reason=purpose_of(change),
    )
    text = f"{actor.name} asks to {change.kind} an allocation in {tenant.slug}{_sentence(change)}"
    kind = "allocation.change_requested"
    approvals.tell_deciders(tx, tenant, approver, kind, change.id, allocation.id, text, actor)


def _open(allocation_id: UUID) -> sa.Select[AllocationChange]:
    return sa.select(AllocationChange).where(
        col(AllocationChange.allocation_id) == allocation_id,
        col(AllocationChange.state) == REQUESTED,
    )


def _told(change: AllocationChange) -> dict[str, Any]:
    return {"change": str(change.id), "kind": change.kind, "asked": change.asked}


def _sentence(change: AllocationChange) -> str:
    what = (
        f" to {change.asked['expires_at']}"
        if change.kind is Kind.EXTEND
        else f" by {gpus(change.asked['gpus'])}"
    )
    return what + (f": {change.asked['purpose']}" if "purpose" in change.asked else ".")


def purpose_of(change: AllocationChange) -> str | None:
    return change.asked.get("purpose")


def end_of(change: AllocationChange) -> datetime:
    return datetime.fromisoformat(change.asked["expires_at"])


def approve(
    tx: Session,
    actor: Actor,
    allocation_id: UUID,
    change_id: UUID,
    settings: Settings,
    *,
    reason: str | None = None,
) -> AllocationChange:
    """Make it now. Raises Forbidden, WrongState, and whatever making it raises; then it goes on waiting."""
    tenant, allocation, change = _to_decide(tx, actor, allocation_id, change_id)
    advance(allocation.state, EVENTS[change.kind])
    decisions.check_holder(tx, tenant, allocation)
    _decide(tx, actor, allocation, change, ChangeState.DONE, reason)
    growth.make(tx, actor, tenant, allocation, change, settings)
    return change


def deny(tx: Session, actor: Actor, allocation_id: UUID, change_id: UUID, *, reason: str) -> AllocationChange:
    _, allocation, change = _to_decide(tx, actor, allocation_id, change_id)
    _decide(tx, actor, allocation, change, ChangeState.DENIED, reason)
    return change


def cancel(tx: Session, actor: Actor, allocation_id: UUID, change_id: UUID) -> AllocationChange:
    """Withdraw it. Withdrawing twice changes nothing. Raises WrongState when it was decided."""
    _, allocation = service.lock(tx, actor, allocation_id)
    change = _locked(tx, allocation, change_id)
    if change.state is not ChangeState.CANCELLED:
        _check_open(change)
        _end(tx, actor, allocation, change, ChangeState.CANCELLED, None)
    return change


def _to_decide(
    tx: Session, actor: Actor, allocation_id: UUID, change_id: UUID
) -> tuple[Tenant, Allocation, AllocationChange]:
    tenant, allocation = approvals.lock(tx, actor, allocation_id)
    change = _locked(tx, allocation, change_id)
    _check_open(change)
    asked = Approval(change.asked["approver"])
    now = approvals.level(tx, tenant, _models(tx, allocation, change))
    approvals.check_decider(actor, tenant, change.requested_by_id, approvals.strictest(asked, now))
    return tenant, allocation, change


def get(tx: Session, allocation: Allocation, change_id: UUID) -> AllocationChange:
    found = tx.get(AllocationChange, change_id)
    if found is None or found.allocation_id != allocation.id:
        raise NotFound(f"Allocation {allocation.id} has no change {change_id}.")
    return found


def _locked(tx: Session, allocation: Allocation, change_id: UUID) -> AllocationChange:
    """The allocation's lock comes first, and every decision takes that."""
    found = get(tx, allocation, change_id)
    tx.refresh(found, with_for_update=True)
    return found


def version(change: AllocationChange) -> str:
    return etags.version(change)


def check(tx: Session, actor: Actor, allocation_id: UUID, change_id: UUID) -> None:
    """Go on only if the change is as the request's `If-Match` says."""
    etags.check(tx, lambda: version(_locked(tx, service.lock(tx, actor, allocation_id)[1], change_id)))


def _check_open(change: AllocationChange) -> None:
    if change.state is not ChangeState.REQUESTED:
        by = f" by {change.decided_by}" if change.decided_by else ""
        raise WrongState(f"Change {change.id} is {change.state}{by} already.", state=change.state)


def _decide(
    tx: Session,
    actor: Actor,
    allocation: Allocation,
    change: AllocationChange,
    state: ChangeState,
    reason: str | None,
) -> None:
    _end(tx, actor, allocation, change, state, reason)
    verdict = "approved" if state is ChangeState.DONE else "denied"
    text = decisions.because(f"{actor.name} has {verdict} that you {change.kind} an allocation", reason)
    decisions.tell_requester(tx, change, allocation, f"change_{verdict}", text)


def _end(
    tx: Session,
    actor: Actor,
    allocation: Allocation,
    change: AllocationChange,
    state: ChangeState,
    reason: str | None,
) -> None:
    change.state, change.reason = state, reason
    change.decided_by, change.decided_by_id, change.decided_at = actor.name, actor.user_id, clock.now()
    tx.flush()
    verb = "approved" if state is ChangeState.DONE else state.value
    audit.record(tx, actor, f"allocation.change_{verb}", allocation.id, after=_told(change), reason=reason)


def left_over(tx: Session) -> list[UUID]:
    """Allocations that are over while a change of theirs waits."""
    over = (
        sa.select(col(AllocationChange.allocation_id))
        .join(Allocation, col(Allocation.id) == col(AllocationChange.allocation_id))
        .where(col(AllocationChange.state) == REQUESTED, col(Allocation.state).not_in(HELD))
        .distinct()
    )
    return list(tx.execute(over.limit(500)).scalars())


def drop_all(tx: Session, actor: Actor, allocation: Allocation, reason: str) -> None:
    """Withdraw every open change of a locked allocation."""
    for change in list(tx.execute(_open(allocation.id)).scalars()):
        _end(tx, actor, allocation, change, ChangeState.CANCELLED, reason)


def drop_left_over(tx: Session, actor: Actor, allocation_id: UUID) -> None:
    _, allocation = service.lock(tx, actor, allocation_id)
    if allocation.state not in HELD:
        drop_all(tx, actor, allocation, f"the allocation is {allocation.state}")
