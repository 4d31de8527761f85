"""Versions of workspaces, members and quotas, and how each is locked before a change."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import etags
from api.workspaces import service
from api.workspaces.models import ALL_MODELS, Membership, Quota, Resource, Workspace


def of_workspace(workspace: Workspace) -> str:
    return etags.version(workspace)


def of_quotas(rows: Sequence[Quota]) -> str:
    """The limits; what is held against them moves by itself."""
    return etags.version(*rows, aside={"used"})


def locked_quotas(tx: Session, workspace_id: UUID) -> str:
    """One row is always there and is locked first; rows that others have added show in a second look only."""
    own = (col(Quota.scope_id) == workspace_id, col(Quota.resource) == Resource.GPUS)
    tx.execute(sa.select(Quota).where(*own, col(Quota.model) == ALL_MODELS).with_for_update()).one()
    tx.expire_all()
    return of_quotas(service.quotas(tx, workspace_id))


def of_member(membership: Membership) -> str:
    return etags.version(membership)


def locked_member(tx: Session, workspace_id: UUID, user_id: UUID) -> str | None:
    """None: not a member."""
    found = tx.get(Membership, (workspace_id, user_id), with_for_update=True)
    return of_member(found) if found is not None else None
