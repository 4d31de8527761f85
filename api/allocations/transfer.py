"""Handing what is held to another workspace: from one moment on it counts, and is paid for, there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations import approvals, changes, service, spending, usage
from api.allocations.lifecycle import Event, advance
from api.allocations.limits import check_quota
from api.allocations.models import Allocation, Hold
from api.allocations.service import TICK
from api.allocations.window import Window
from api.core import audit, clock, notices
from api.core.access import Actor
from api.core.db import table
from api.core.errors import Conflict, Invalid
from api.core.ids import new_id
from api.core.operations import syncs
from api.workspaces import service as workspaces
from api.workspaces import tenants
from api.workspaces.models import ALL_MODELS, MAY_CLAIM
from api.workspaces.service import Tenant

HOLDS = table(Hold)


class ApprovalRequired(Conflict):
    code, title = "approval-required", "Somebody else has to do this"


@dataclass(frozen=True, slots=True)
class Handover:
    """All of it locked. `keeps`: whoever the allocation belongs to may claim in the other workspace too."""

    allocation: Allocation
    giving: Tenant
    taking: Tenant
    holder_id: UUID | None
    keeps: bool


def lock(tx: Session, actor: Actor, allocation_id: UUID, workspace: str) -> Handover:
    """Raises NotFound, Forbidden, Invalid for the workspace that has it already."""
    allocation = service.get(tx, actor, allocation_id)
    giving, taking = allocation.workspace_id, workspaces.get(tx, actor, workspace).id
    if taking == giving:
        raise Invalid(f"Allocation {allocation_id} is in {workspace} already.")
    keeps = tenants.role_of(tx, taking, allocation.requested_by_id) in MAY_CLAIM
    holder_id = allocation.requested_by_id if keeps else actor.user_id
    both = tenants.lock_tenants(tx, actor, [giving, taking], holder_id)
    tx.refresh(allocation, with_for_update=True)
    service.check_owner(both[giving], allocation)
    return Handover(allocation, both[giving], both[taking], holder_id, keeps)


def transfer(tx: Session, actor: Actor, allocation_id: UUID, workspace: str, *, reason: str) -> Allocation:
    """The same GPUs, held by the same allocation, in another workspace where the actor may claim as well.

    Raises what `lock` raises, WrongState unless it is active, ApprovalRequired where the other workspace or a
    model needs somebody else's word, QuotaExceeded, BudgetExceeded, NoRate.
    """
    hand = lock(tx, actor, allocation_id, workspace)
    allocation, giving, taking = hand.allocation, hand.giving, hand.taking
    allocation.state = advance(allocation.state, Event.TRANSFER)
    open_holds = _open_holds(tx, allocation.id)
    _check_approval(tx, actor, taking, open_holds)
    with spending.tracked(tx, taking, allocation), spending.tracked(tx, giving, allocation):
        at = max(clock.now(), *(hold.started_at + TICK for hold in open_holds))
        _close(tx, allocation, at)
        without = tenants.lock_tenants(tx, actor, [giving.id, taking.id], hand.holder_id)[taking.id]
        _check_quota(tx, without, allocation, open_holds, hand.holder_id, at)
        changes.drop_all(tx, actor, allocation, f"it was handed to {taking.slug}")
        _hand_over(tx, actor, hand)
        tx.execute(sa.insert(HOLDS), [_again(hold, taking, hand.holder_id, at) for hold in open_holds])
    syncs.changed(tx, actor)
    _tell(tx, actor, allocation, giving, taking, reason)
    return allocation


def _check_quota(
    tx: Session,
    taking: Tenant,
    allocation: Allocation,
    open_holds: list[Any],
    holder_id: UUID | None,
    at: datetime,
) -> None:
    """As for a claim of these GPUs now; what the workspace has reserved stays possible."""
    ends_at = service.begun(allocation.ends_at)
    span = Window(at, service.begun(allocation.expires_at), ends_at, ends_at)
    limits = usage.now(tx, taking, holder_id, span, allocation.id)
    models = Counter(hold.model for hold in open_holds)
    check_quota(limits, models + Counter({ALL_MODELS: len(open_holds)}), later=limits is not taking)


def _open_holds(tx: Session, allocation_id: UUID) -> list[Any]:
    own = sa.select(HOLDS).where(HOLDS.c.allocation_id == allocation_id, HOLDS.c.ended_at.is_(None))
    return list(tx.execute(own.order_by(HOLDS.c.id)))


def _check_approval(tx: Session, actor: Actor, taking: Tenant, open_holds: list[Any]) -> None:
    approver = approvals.needed(tx, actor, taking, {hold.model for hold in open_holds})
    if approver is not None:
        raise ApprovalRequired(
            f"GPUs come into {taking.slug} only with approval; ask "
            + ("an operator" if approver == "operator" else f"an owner of {taking.slug} or an operator")
            + " to transfer it.",
            approver=approver,
        )


def _close(tx: Session, allocation: Allocation, at: datetime) -> None:
    tx.flush()
    tx.execute(
        sa.update(HOLDS)
        .where(HOLDS.c.allocation_id == allocation.id, HOLDS.c.ended_at.is_(None))
        .values(ended_at=at)
    )


def _hand_over(tx: Session, actor: Actor, hand: Handover) -> None:
    hand.allocation.workspace_id = hand.taking.id
    if not hand.keeps:
        hand.allocation.requested_by_id, hand.allocation.requested_by = hand.holder_id, actor.name
    tx.flush()


def _again(hold: Any, taking: Tenant, holder_id: UUID | None, at: datetime) -> dict[str, Any]:
    """The GPU goes on being held, at the same price."""
    return {
        "id": new_id(),
        "allocation_id": hold.allocation_id,
        "workspace_id": taking.id,
        "user_id": holder_id,
        "gpu_id": hold.gpu_id,
        "host_id": hold.host_id,
        "model": hold.model,
        "rate": hold.rate,
        "started_at": at,
    }


def _tell(
    tx: Session, actor: Actor, allocation: Allocation, giving: Tenant, taking: Tenant, reason: str
) -> None:
    audit.record(
        tx,
        actor,
        "allocation.transferred",
        allocation.id,
        before={"workspace": giving.slug},
        after={"workspace": taking.slug, "requested_by": allocation.requested_by},
        reason=reason,
    )
    ways = ((giving, "allocation.handed_over", "away to"), (taking, "allocation.taken_over", "over from"))
    for (tenant, action, _), other in zip(ways, (taking, giving), strict=True):
        what = {"allocation": str(allocation.id), "other": other.slug}
        audit.record(tx, actor, action, tenant.id, after=what, reason=reason)
    number = new_id()
    for (tenant, _, way), other in zip(ways, (taking, giving), strict=True):
        notices.tell(
            tx,
            "allocation.transferred",
            f"allocation.transferred:{number}:{tenant.id}",
            allocation.id,
            f"{actor.name} has handed an allocation {way} {other.slug}: {reason}",
            workspace_id=tenant.id,
        )
