"""Changing a workspace: its name, approval, organisation and time zone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import budgeting
from api.allocations.models import Hold
from api.core import audit
from api.core.access import Actor
from api.core.errors import Conflict
from api.core.operations import syncs
from api.workspaces import budgets, organisations, quotas, scopes, service, versions
from api.workspaces.models import ALL_MODELS, Membership, Scope, Workspace, WorkspaceChange
from api.workspaces.scopes import Scoped


def locked_version(tx: Session, workspace_id: UUID) -> str:
    return versions.of_workspace(_lock(tx, workspace_id, None))


def change(tx: Session, actor: Actor, workspace_id: UUID, asked: WorkspaceChange) -> Workspace:
    """What is absent stays. Raises QuotaExceeded, BudgetExceeded and NoRate where a new organisation's limits
    do not allow what the workspace holds and has promised.
    """
    to = organisations.get(tx, actor, asked.organisation).id if asked.organisation else None
    workspace = _lock(tx, workspace_id, to)
    before = _told(workspace)
    workspace.name = asked.name or workspace.name
    workspace.approval = asked.approval or workspace.approval
    if to is not None and to != workspace.organisation_id:
        _move(tx, workspace, to)
    if asked.time_zone is not None and asked.time_zone != workspace.time_zone:
        workspace.time_zone = asked.time_zone
        tx.flush()
        budgeting.change_zone(tx, workspace, _scopes(tx, workspace))
    tx.flush()
    audit.record(tx, actor, "workspace.changed", workspace.id, before=before, after=_told(workspace))
    syncs.changed(tx, actor)
    return workspace


def _lock(tx: Session, workspace_id: UUID, to: UUID | None) -> Workspace:
    """Organisations first, then quotas, then the workspace. Raises Conflict when it was moved just then."""
    own = tx.get_one(Workspace, workspace_id).organisation_id
    both = sorted({own, to or own})
    if to is not None:
        for organisation_id in both:
            organisations.lock(tx, organisation_id)
    service.lock_quotas(tx, [workspace_id, *both])
    workspace = tx.get_one(
        Workspace, workspace_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if workspace.organisation_id != own:
        raise Conflict(f"Workspace {workspace.slug} was just moved; look again.")
    return workspace


def _move(tx: Session, workspace: Workspace, to: UUID) -> None:
    giving, taking = (
        scopes.of_organisation(tx, organisations.lock(tx, one)) for one in (workspace.organisation_id, to)
    )
    workspace.organisation_id = to
    tx.flush()
    quotas.move(tx, workspace, giving.id, taking.id, _held(tx, workspace.id))
    budgeting.move(tx, workspace.id, giving, taking)
    budgets.flag(tx, [workspace.id])


def _held(tx: Session, workspace_id: UUID) -> Counter[str]:
    """The GPUs that it holds, by model and (empty) all together."""
    mine = sa.and_(col(Hold.workspace_id) == workspace_id, col(Hold.ended_at).is_(None))
    models = Counter(tx.execute(sa.select(col(Hold.model)).where(mine)).scalars())
    return models + Counter({ALL_MODELS: models.total()})


def _scopes(tx: Session, workspace: Workspace) -> list[Scoped]:
    """The workspace's own and its members'."""
    whole = scopes.of_workspace(workspace)
    members = tx.execute(sa.select(Membership).where(col(Membership.workspace_id) == workspace.id)).scalars()
    return [whole, *(replace(whole, scope=Scope.MEMBER, id=one.id, user_id=one.user_id) for one in members)]


def _told(workspace: Workspace) -> dict[str, Any]:
    return {
        "name": workspace.name,
        "organisation": str(workspace.organisation_id),
        "approval": workspace.approval,
        "time_zone": workspace.time_zone,
    }
