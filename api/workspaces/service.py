"""Use cases of workspaces: create, see, members, quotas."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit
from api.core.access import Actor
from api.core.db import table
from api.core.errors import Exists, Forbidden, NotFound
from api.core.ids import as_uuid
from api.core.operations import syncs
from api.identity import service as identity
from api.workspaces import budgets, organisations
from api.workspaces.models import (
    ALL_MODELS,
    MAY_CLAIM,
    Approval,
    Budget,
    Membership,
    MembershipRead,
    Quota,
    Resource,
    Scope,
    Workspace,
    WorkspaceCreate,
    WorkspaceRole,
)


def create(tx: Session, actor: Actor, asked: WorkspaceCreate, *, default_quota: int) -> Workspace:
    """In the organisation that is named, or the first. Raises Exists, NotFound."""
    if tx.execute(sa.select(col(Workspace.id)).where(col(Workspace.slug) == asked.slug)).first():
        raise Exists(f"A workspace {asked.slug} exists already.")
    named = asked.organisation
    organisation = organisations.get(tx, actor, named) if named else organisations.first(tx)
    organisations.lock(tx, organisation.id)
    workspace = Workspace(
        slug=asked.slug, name=asked.name, organisation_id=organisation.id, time_zone=asked.time_zone
    )
    tx.add(workspace)
    tx.flush()
    limit = default_quota if asked.gpus is None else asked.gpus
    tx.add(_gpu_quota(workspace, limit))
    if actor.user_id is not None:
        tx.add(Membership(workspace_id=workspace.id, user_id=actor.user_id, role=WorkspaceRole.OWNER))
    tx.flush()
    budgets.flag(tx, [workspace.id])
    audit.record(tx, actor, "workspace.created", workspace.id, after={"slug": asked.slug, "gpus": limit})
    syncs.changed(tx, actor)
    return workspace


def visible(actor: Actor) -> sa.Select[Workspace]:
    """The workspaces that the actor may know of."""
    statement = sa.select(Workspace)
    if actor.operates:
        return statement
    return statement.where(col(Workspace.id).in_(visible_ids(actor)))


def visible_ids(actor: Actor) -> sa.Select[UUID]:
    return sa.select(col(Membership.workspace_id)).where(col(Membership.user_id) == actor.user_id)


def get(tx: Session, actor: Actor, workspace: UUID | str) -> Workspace:
    """By id or slug. One that the actor may not see is not found."""
    by_id = as_uuid(workspace)
    wanted = col(Workspace.id) == by_id if by_id else col(Workspace.slug) == workspace
    found = tx.execute(visible(actor).where(wanted)).scalar_one_or_none()
    if found is None:
        raise NotFound(f"There is no workspace {workspace} that you may see.")
    return found


def _gpu_quota(workspace: Workspace, limit: int) -> Quota:
    return Quota(
        scope_id=workspace.id,
        resource=Resource.GPUS,
        model=ALL_MODELS,
        scope=Scope.WORKSPACE,
        workspace_id=workspace.id,
        hard_limit=limit,
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """What a scope may hold of one model (empty: of all) and what it holds."""

    scope: Scope
    model: str
    hard: int | None
    soft: int | None
    used: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """A workspace about to change what it holds, its quotas of GPUs locked.

    `limits` are those of its organisation, its own and the acting member's. `role` is None for one who acts
    as an operator.
    """

    id: UUID
    slug: str
    organisation_id: UUID
    member_id: UUID | None
    role: WorkspaceRole | None
    approval: Approval
    time_zone: str
    budgeted: bool
    limits: tuple[Limit, ...]


@cache
def _tenant_by(column: str) -> sa.Select[Any]:
    return tenants_where(table(Workspace).c[column] == sa.bindparam("workspace"))


def tenants_where(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """A row for each quota of each workspace and of its member `user_id`; locks them in the order of ids."""
    own, quota, member = table(Workspace), table(Quota), table(Membership)
    mine = sa.and_(member.c.workspace_id == own.c.id, member.c.user_id == sa.bindparam("user_id"))
    scopes = (own.c.id, own.c.organisation_id, member.c.id)
    return (
        sa.select(
            own.c.id,
            own.c.slug,
            own.c.organisation_id,
            own.c.approval,
            own.c.time_zone,
            member.c.id.label("member_id"),
            member.c.role,
            quota.c.budgeted,
            quota.c.scope,
            quota.c.model,
            quota.c.hard_limit,
            quota.c.soft_limit,
            quota.c.used,
        )
        .select_from(own.outerjoin(member, mine))
        .join(quota, sa.and_(quota.c.scope_id.in_(scopes), quota.c.resource == Resource.GPUS))
        .where(condition)
        .order_by(quota.c.scope_id, quota.c.model)
        .with_for_update(of=quota)
    )


def lock_tenant(tx: Session, actor: Actor, workspace: UUID | str) -> Tenant:
    """The workspace, if the actor may hold GPUs in its name; claims and releases of one take turns."""
    by_id = as_uuid(workspace)
    named = {"workspace": by_id or workspace, "user_id": actor.user_id}
    rows = tx.execute(_tenant_by("id" if by_id else "slug"), named).all()
    if not rows or (rows[0].role is None and not actor.operates):
        raise NotFound(f"There is no workspace {workspace} that you may see.")
    first = rows[0]
    if first.role not in MAY_CLAIM and not actor.operates:
        raise Forbidden(f"Your role in {first.slug} is {first.role}; claiming needs member, admin or owner.")
    return tenant_of(rows)


def tenant_of(rows: Sequence[sa.Row[Any]]) -> Tenant:
    """Of the rows of one workspace."""
    first = rows[0]
    return Tenant(
        id=first.id,
        slug=first.slug,
        organisation_id=first.organisation_id,
        member_id=first.member_id,
        role=first.role,
        approval=first.approval,
        time_zone=first.time_zone,
        budgeted=any(row.budgeted for row in rows),
        limits=tuple(Limit(row.scope, row.model, row.hard_limit, row.soft_limit, row.used) for row in rows),
    )


def slugs(tx: Session, ids: set[UUID]) -> dict[UUID, str]:
    rows = tx.execute(sa.select(col(Workspace.id), col(Workspace.slug)).where(col(Workspace.id).in_(ids)))
    return {row.id: row.slug for row in rows}


def lock_quotas(tx: Session, scope_ids: Collection[UUID]) -> None:
    """Locks out claims and releases of these workspaces, as `lock_tenant` does and in the same order."""
    own = sa.and_(col(Quota.scope_id).in_(scope_ids), col(Quota.resource) == Resource.GPUS)
    order = (col(Quota.scope_id), col(Quota.model))
    tx.execute(sa.select(col(Quota.scope_id)).where(own).order_by(*order).with_for_update()).all()
    tx.expire_all()


def members(tx: Session, actor: Actor, workspace_id: UUID) -> list[MembershipRead]:
    workspace = get(tx, actor, workspace_id)
    own = sa.select(Membership).where(col(Membership.workspace_id) == workspace.id)
    rows = list(tx.execute(own.order_by(col(Membership.user_id))).scalars())
    emails = identity.emails(tx, {row.user_id for row in rows})
    return [MembershipRead(user_id=row.user_id, email=emails[row.user_id], role=row.role) for row in rows]


def member(tx: Session, actor: Actor, workspace_id: UUID, user_id: UUID) -> MembershipRead:
    workspace = get(tx, actor, workspace_id)
    membership = tx.get(Membership, (workspace.id, user_id))
    if membership is None:
        raise NotFound(f"User {user_id} is not a member of {workspace.slug}.")
    email = identity.get_user(tx, user_id).email
    return MembershipRead(user_id=user_id, email=email, role=membership.role)


def set_member(
    tx: Session, actor: Actor, workspace_id: UUID, user_id: UUID, role: WorkspaceRole
) -> MembershipRead:
    workspace, user = get(tx, actor, workspace_id), identity.get_user(tx, user_id)
    membership = tx.get(Membership, (workspace.id, user.id), with_for_update=True)
    before = {"role": membership.role} if membership else None
    if membership is None:
        tx.add(Membership(workspace_id=workspace.id, user_id=user.id, role=role))
    else:
        membership.role = role
    after = {"user": user.email, "role": role}
    audit.record(tx, actor, "workspace.member_set", workspace.id, before=before, after=after)
    syncs.changed(tx, actor)
    return MembershipRead(user_id=user.id, email=user.email, role=role)


def remove_member(tx: Session, actor: Actor, workspace_id: UUID, user_id: UUID) -> None:
    """Its quotas and budgets go with the membership; what the user holds stays with the workspace."""
    workspace = get(tx, actor, workspace_id)
    lock_quotas(tx, [workspace.id])
    membership = tx.get(Membership, (workspace.id, user_id), with_for_update=True)
    if membership is None:
        raise NotFound(f"User {user_id} is not a member of {workspace.slug}.")
    tx.execute(sa.delete(Quota).where(col(Quota.scope_id) == membership.id))
    tx.execute(sa.delete(Budget).where(col(Budget.scope_id) == membership.id))
    tx.delete(membership)
    budgets.flag(tx, [workspace.id])
    before = {"user_id": str(user_id), "role": membership.role}
    audit.record(tx, actor, "workspace.member_removed", workspace.id, before=before)
    syncs.changed(tx, actor)
