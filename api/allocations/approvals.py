"""Who must agree to a claim or a change before anything is held, and the requests that wait for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import service, window
from api.allocations.approval_models import ApprovalRule
from api.allocations.lifecycle import State
from api.allocations.models import Allocation, ClaimRequest
from api.allocations.window import Window
from api.core import audit, etags, notices
from api.core.access import Actor
from api.core.errors import Forbidden, NotFound, WrongState
from api.core.texts import gpus
from api.settings import Settings
from api.workspaces import tenants
from api.workspaces.models import ALL_MODELS, Approval, WorkspaceRole
from api.workspaces.service import Tenant

RULES = uuid5(NAMESPACE_URL, "urn:ironyard:approval-rule")
STRICTNESS = (Approval.NONE, Approval.WORKSPACE, Approval.OPERATOR)


def level(tx: Session, tenant: Tenant, models: Iterable[str | None]) -> Approval:
    """The strictest of the workspace's and of the rules for these models.

    Where no model is named (None), GPUs of any model could be lent: then every rule counts.
    """
    known = {rule.model: rule.approver for rule in rules(tx)}
    found = [tenant.approval]
    for model in models if known else ():
        if model is None:
            found += known.values()
        else:
            found += [known[key] for key in (model, ALL_MODELS) if key in known]
    return strictest(*found)


def strictest(*approvers: Approval) -> Approval:
    return max(approvers, key=STRICTNESS.index)


def needed(tx: Session, actor: Actor, tenant: Tenant, models: Iterable[str | None]) -> Approval | None:
    """Who must agree first, or None. Whoever has the last word anyway need not ask.

    That is an operator or administrator; where the workspace decides for itself, its owners as well.
    """
    if actor.operates:
        return None
    found = level(tx, tenant, models)
    if found is Approval.WORKSPACE and tenant.role is WorkspaceRole.OWNER:
        return None
    return None if found is Approval.NONE else found


def models_of(wanted: dict[str, Any]) -> list[str | None]:
    """The model that each group of a claim names, as the allocation keeps them."""
    return [group.get("model") for group in wanted.get("groups", [wanted])]


def request(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    asked: ClaimRequest,
    span: Window,
    approver: Approval,
) -> Allocation:
    """Keep the claim for those who decide. Nothing is held; a length counts from the approval on."""
    allocation.state = State.REQUESTED
    allocation.why = {"waits_for": "approval", "approver": approver.value}
    if asked.wait:
        allocation.why["wait"] = True
    if asked.expires_at is None:
        allocation.duration_seconds = round((span.expires_at - span.starts_at).total_seconds())
        if not span.later:
            allocation.expires_at = allocation.ends_at = None
    tx.add(allocation)
    tx.flush()
    audit.record(
        tx,
        actor,
        "allocation.requested",
        allocation.id,
        after={"workspace": tenant.slug, "wanted": allocation.wanted, "approver": approver},
        reason=asked.purpose,
    )
    what = f"{gpus(gpus_of(allocation.wanted))} in {tenant.slug}"
    text = f"{actor.name} asks for {what}" + (f": {asked.purpose}" if asked.purpose else ".")
    tell_deciders(tx, tenant, approver, "allocation.requested", allocation.id, allocation.id, text, actor)
    return allocation


def lock(tx: Session, actor: Actor, allocation_id: UUID) -> tuple[Tenant, Allocation]:
    """As `service.lock`, but with the limits of the member whose allocation it is, not of the actor."""
    allocation = service.get(tx, actor, allocation_id)
    workspace_id = allocation.workspace_id
    tenant = tenants.lock_tenants(tx, actor, [workspace_id], allocation.requested_by_id)[workspace_id]
    tx.refresh(allocation, with_for_update=True)
    service.check_owner(tenant, allocation)
    return tenant, allocation


def gpus_of(wanted: dict[str, Any]) -> int:
    return int(wanted.get("gpus", 0))


def window_of(allocation: Allocation, now: datetime, settings: Settings) -> Window:
    """The window of a request that is approved now. Raises WrongState when it has passed."""
    later = allocation.not_before is not None and allocation.not_before > now
    starts_at = allocation.not_before if later and allocation.not_before else now
    end = allocation.expires_at
    if allocation.duration_seconds is not None:
        end = starts_at + timedelta(seconds=allocation.duration_seconds)
    assert end is not None  # a request without a length names its end
    if end <= now:
        raise WrongState(
            "The time that was asked for has passed; it has to be asked for again.",
            expires_at=end.isoformat(),
        )
    return window.between(starts_at, window.checked_end(end, starts_at, settings), settings, later=later)


def check_decider(actor: Actor, tenant: Tenant, requested_by_id: UUID | None, approver: Approval) -> None:
    """Raises Forbidden for whoever asked for it themselves, and for those whom the rules do not name."""
    if actor.user_id is not None and actor.user_id == requested_by_id:
        raise Forbidden(
            "You have asked for this yourself; somebody else decides about it.", approver=approver
        )
    if actor.operates:
        return
    if approver is Approval.OPERATOR:
        raise Forbidden("Only operators and administrators decide about this.", approver=approver)
    if tenant.role not in tenants.DECIDES:
        raise Forbidden(
            f"An owner or admin of {tenant.slug}, or an operator, decides about this.", approver=approver
        )


def tell_deciders(
    tx: Session,
    tenant: Tenant,
    approver: Approval,
    kind: str,
    key: UUID,
    allocation_id: UUID,
    text: str,
    asking: Actor,
) -> None:
    """One notice for each who may decide; for the operators where nobody of the workspace may."""
    own = tenants.deciders(tx, tenant.id) if approver is Approval.WORKSPACE else []
    told: list[UUID | None] = [user_id for user_id in own if user_id != asking.user_id]
    for user_id in told or [None]:
        notices.tell(
            tx,
            kind,
            f"{kind}:{key}:{user_id or 'operators'}",
            allocation_id,
            text,
            workspace_id=tenant.id if user_id else None,
            user_id=user_id,
            workspace=tenant.slug,
        )


def rules(tx: Session) -> list[ApprovalRule]:
    return list(tx.execute(sa.select(ApprovalRule).order_by(col(ApprovalRule.model))).scalars())


def rule(tx: Session, model: str) -> ApprovalRule:
    found = tx.get(ApprovalRule, model)
    if found is None:
        raise NotFound(f"There is no approval rule for {model or 'any model'}.")
    return found


def rule_version(found: ApprovalRule) -> str:
    return etags.version(found)


def locked_rule(tx: Session, model: str) -> str | None:
    """Its version; None where there is none."""
    found = tx.get(ApprovalRule, model, with_for_update=True)
    return rule_version(found) if found is not None else None


def set_rule(tx: Session, actor: Actor, model: str, approver: Approval) -> ApprovalRule:
    """Requests that wait already are decided by the stricter of what was and what is asked."""
    found = tx.get(ApprovalRule, model, with_for_update=True)
    before = {"approver": found.approver} if found else None
    if found is None:
        found = ApprovalRule(model=model, approver=approver)
        tx.add(found)
    found.approver = approver
    tx.flush()
    _audit_rule(tx, actor, "approval_rule.set", model, before, {"approver": approver})
    return found


def remove_rule(tx: Session, actor: Actor, model: str) -> None:
    found = tx.get(ApprovalRule, model, with_for_update=True) or rule(tx, model)
    tx.delete(found)
    tx.flush()
    _audit_rule(tx, actor, "approval_rule.removed", model, {"approver": found.approver}, None)


def _audit_rule(
    tx: Session,
    actor: Actor,
    action: str,
    model: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """A rule has no id of its own: its events are found by one that follows from the model."""
    named = {"model": model or "any"}
    audit.record(
        tx,
        actor,
        action,
        uuid5(RULES, model),
        before=named | before if before else None,
        after=named | after if after else None,
    )
