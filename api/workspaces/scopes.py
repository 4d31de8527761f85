"""What a quota or a budget is for: an organisation, a workspace or a member; who may set its limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from api.core.access import Actor, Permission
from api.core.errors import Forbidden, NotFound
from api.workspaces import organisations, service, tenants
from api.workspaces.models import Membership, Organisation, Scope, Workspace

UTC = "UTC"


@dataclass(frozen=True, slots=True)
class Scoped:
    """One such scope, and the workspaces whose GPUs count in it."""

    scope: Scope
    id: UUID
    name: str
    zone: str
    since: datetime
    workspaces: frozenset[UUID]
    user_id: UUID | None = None

    @property
    def workspace_id(self) -> UUID | None:
        """The workspace that it is, or is in."""
        return None if self.scope is Scope.ORGANISATION else next(iter(self.workspaces))

    @property
    def audited(self) -> UUID:
        """What the audit trail tells its changes of."""
        return self.workspace_id or self.id


def of_workspace(workspace: Workspace) -> Scoped:
    own = frozenset({workspace.id})
    zone, since = workspace.time_zone, workspace.created_at
    return Scoped(Scope.WORKSPACE, workspace.id, workspace.slug, zone, since, own)


def of_organisation(tx: Session, organisation: Organisation) -> Scoped:
    own = frozenset(organisations.workspaces(tx, organisation.id))
    since = organisation.created_at
    return Scoped(Scope.ORGANISATION, organisation.id, organisation.slug, UTC, since, own)


def of_member(tx: Session, actor: Actor, workspace: Workspace, user_id: UUID) -> Scoped:
    """Oneself, or anybody of a workspace that one runs. Raises NotFound, Forbidden."""
    if user_id != actor.user_id and not actor.operates:
        check_runs(tx, actor, workspace)
    member = tx.get(Membership, (workspace.id, user_id))
    if member is None:
        raise NotFound(f"User {user_id} is not a member of {workspace.slug}.")
    return replace(of_workspace(workspace), scope=Scope.MEMBER, id=member.id, user_id=user_id)


def check_runs(tx: Session, actor: Actor, workspace: Workspace) -> None:
    """Raises Forbidden for those who neither administer workspaces nor are owner or admin of this one."""
    if actor.may(Permission.WORKSPACES_ADMINISTER):
        return
    if tenants.role_of(tx, workspace.id, actor.user_id) not in tenants.DECIDES:
        raise Forbidden(f"Only owners and admins of {workspace.slug}, and administrators, may do this.")


def lock(tx: Session, scoped: Scoped) -> Scoped:
    """Locks out claims and releases in its workspaces; the scope as it is then.

    An organisation's row is locked first, as whoever adds a workspace to it does.
    """
    if scoped.scope is Scope.ORGANISATION:
        organisation = organisations.lock(tx, scoped.id)
        tx.expire_all()
        scoped = of_organisation(tx, organisation)
    service.lock_quotas(tx, {*scoped.workspaces, scoped.id})
    if scoped.scope is not Scope.ORGANISATION:
        zone = tx.get_one(Workspace, scoped.workspace_id).time_zone
        scoped = replace(scoped, zone=zone)
    return scoped
