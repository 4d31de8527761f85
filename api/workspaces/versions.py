"""Versions of workspaces, members and quotas, and how each is locked before a change."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from api.core import etags
from api.workspaces import organisations, quotas, scopes
from api.workspaces.models import Membership, Quota, Workspace
from api.workspaces.scopes import Scoped


def of_workspace(workspace: Workspace) -> str:
    return etags.version(workspace)


def of_quotas(rows: Sequence[Quota]) -> str:
    """The limits; what is used of them moves by itself."""
    return etags.version(*quotas.limited(rows), aside={"used", "budgeted"})


def locked_quotas(tx: Session, scoped: Scoped) -> str:
    """What is always there is locked first; rows that others have added show in a second look only."""
    return of_quotas(quotas.of(tx, scopes.lock(tx, scoped)))


def locked_organisation(tx: Session, organisation_id: UUID) -> str:
    return organisations.version(organisations.lock(tx, organisation_id))


def of_member(membership: Membership) -> str:
    return etags.version(membership)


def locked_member(tx: Session, workspace_id: UUID, user_id: UUID) -> str | None:
    """None: not a member."""
    found = tx.get(Membership, (workspace_id, user_id), with_for_update=True)
    return of_member(found) if found is not None else None
