"""Workspaces that change in somebody else's name, or several at once; who decides in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.access import Actor
from api.core.db import table
from api.core.errors import Forbidden, NotFound
from api.workspaces import service
from api.workspaces.models import MAY_CLAIM, Membership, Workspace, WorkspaceRole
from api.workspaces.service import Tenant

DECIDES = (WorkspaceRole.OWNER, WorkspaceRole.ADMIN)


@cache
def _several() -> sa.Select[Any]:
    return service.tenants_where(table(Workspace).c.id.in_(sa.bindparam("workspaces", expanding=True)))


def lock_tenants(
    tx: Session, actor: Actor, workspace_ids: Collection[UUID], holder_id: UUID | None
) -> dict[UUID, Tenant]:
    """Workspaces in which the actor may act, with the limits of the member `holder_id` in each.

    All their quotas are locked in one statement, in the order of their ids, so that two changes of the same
    workspaces never wait for each other. `role` is the actor's. Raises NotFound, Forbidden.
    """
    roles = _roles(tx, workspace_ids, actor.user_id)
    found: dict[UUID, list[Any]] = defaultdict(list)
    for row in tx.execute(_several(), {"workspaces": list(workspace_ids), "user_id": holder_id}):
        found[row.id].append(row)
    tenants = {
        key: replace(service.tenant_of(rows), role=roles.get(key)) for key, rows in sorted(found.items())
    }
    for workspace_id in workspace_ids:
        _may_act(actor, tenants.get(workspace_id), workspace_id)
    return tenants


def _may_act(actor: Actor, tenant: Tenant | None, workspace_id: UUID) -> None:
    if tenant is None or (tenant.role is None and not actor.operates):
        raise NotFound(f"There is no workspace {workspace_id} that you may see.")
    if tenant.role not in MAY_CLAIM and not actor.operates:
        raise Forbidden(f"Your role in {tenant.slug} is {tenant.role}; this needs member, admin or owner.")


def _roles(tx: Session, workspace_ids: Collection[UUID], user_id: UUID | None) -> dict[UUID, WorkspaceRole]:
    if user_id is None:
        return {}
    own = sa.select(Membership).where(
        col(Membership.workspace_id).in_(workspace_ids), col(Membership.user_id) == user_id
    )
    return {row.workspace_id: row.role for row in tx.execute(own).scalars()}


def role_of(tx: Session, workspace_id: UUID, user_id: UUID | None) -> WorkspaceRole | None:
    """None: not a member."""
    return _roles(tx, [workspace_id], user_id).get(workspace_id)


def deciders(tx: Session, workspace_id: UUID) -> list[UUID]:
    """The users who decide in the workspace: its owners and admins."""
    own = sa.select(col(Membership.user_id)).where(
        col(Membership.workspace_id) == workspace_id, col(Membership.role).in_(DECIDES)
    )
    return list(tx.execute(own.order_by(col(Membership.user_id))).scalars())


def decided_by(actor: Actor) -> sa.Select[UUID]:
    """The workspaces in which the actor decides."""
    return sa.select(col(Membership.workspace_id)).where(
        col(Membership.user_id) == actor.user_id, col(Membership.role).in_(DECIDES)
    )
