"""Limits at any one time, of organisations, workspaces and members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock, notices
from api.core.access import Actor
from api.core.db import is_sqlite, table
from api.core.errors import Conflict
from api.core.operations import syncs
from api.workspaces.models import (
    ALL_MODELS,
    LimitsSet,
    Membership,
    Quota,
    Resource,
    Scope,
    Workspace,
)
from api.workspaces.scopes import Scoped

QUOTAS = table(Quota)
UNITS = {Resource.GPUS: "GPUs", Resource.STORAGE: "GiB of storage", Resource.ENVIRONMENTS: "environments"}
Key = tuple[Resource, str]


class QuotaExceeded(Conflict):
    code, title = "quota-exceeded", "A quota does not allow this"

    def __init__(
        self,
        *,
        workspace: str,
        scope: Scope,
        model: str | None,
        limit: int,
        used: int,
        asked: int,
        later: bool = False,
        resource: Resource = Resource.GPUS,
    ) -> None:
        what = f"{limit} {UNITS[resource]}{f' of {model}' if model else ''}"
        whose = {
            Scope.WORKSPACE: f"{workspace} may hold {what}",
            Scope.MEMBER: f"You may hold {what} in {workspace}",
            Scope.ORGANISATION: f"The organisation of {workspace} may hold {what}",
        }[scope]
        uses = f"{used} are held or reserved at that time" if later else f"{used} are held"
        super().__init__(
            f"{whose}, and {uses}; {asked} more were asked for. "
            "Release some or ask an administrator for more.",
            workspace=workspace,
            scope=scope,
            resource=resource,
            model=model,
            limit=limit,
            used=used,
            asked=asked,
        )


def of(tx: Session, scoped: Scoped) -> list[Quota]:
    """Its rows in the order GPUs (all, then by model), storage, environments."""
    rows = tx.execute(sa.select(Quota).where(col(Quota.scope_id) == scoped.id)).scalars()
    order = list(Resource)
    return sorted(rows, key=lambda row: (order.index(row.resource), row.model))


def limited(rows: Sequence[Quota]) -> list[Quota]:
    """Without those that only count what is used."""
    return [row for row in rows if _always(row) or row.hard_limit is not None or row.soft_limit is not None]


def _always(row: Quota) -> bool:
    return row.scope is Scope.WORKSPACE and row.resource is Resource.GPUS and row.model == ALL_MODELS


def set_limits(tx: Session, actor: Actor, scoped: Scoped, asked: LimitsSet) -> list[Quota]:
    """Replace all limits of a scope. What is used beyond them ends nothing; it only blocks what is new.

    The scope is locked, so that the counting of a new row sees every hold.
    """
    present = {(row.resource, row.model): row for row in of(tx, scoped)}
    before = _told(present.values())
    wanted = _wanted(asked)
    for key in wanted.keys() | present.keys():
        _set(tx, scoped, key, present.get(key), *wanted.get(key, (None, None)))
    tx.flush()
    tx.expire_all()  # a trigger has counted what a new row's model holds
    rows = of(tx, scoped)
    audit.record(tx, actor, "quota.changed", scoped.audited, before=before, after=_told(rows))
    if scoped.scope is Scope.WORKSPACE:
        syncs.changed(tx, actor)
    return rows


def _set(
    tx: Session, scoped: Scoped, key: Key, row: Quota | None, hard: int | None, soft: int | None
) -> None:
    resource, model = key
    unlimited = hard is None and soft is None
    if row is not None and unlimited and resource is Resource.GPUS and not _always(row):
        tx.delete(row)
    elif row is not None:
        row.hard_limit, row.soft_limit = hard, soft
    elif not unlimited:
        tx.add(
            Quota(
                scope_id=scoped.id,
                resource=resource,
                model=model,
                scope=scoped.scope,
                workspace_id=scoped.workspace_id,
                hard_limit=hard,
                soft_limit=soft,
            )
        )


def _wanted(asked: LimitsSet) -> dict[Key, tuple[int | None, int | None]]:
    """Hard and soft limit by resource and model."""
    models = {
        (Resource.GPUS, model): (asked.models.get(model), asked.soft.models.get(model))
        for model in asked.models.keys() | asked.soft.models.keys()
    }
    return models | {
        (Resource.GPUS, ALL_MODELS): (asked.gpus, asked.soft.gpus),
        (Resource.STORAGE, ALL_MODELS): (asked.storage_gib, asked.soft.storage_gib),
        (Resource.ENVIRONMENTS, ALL_MODELS): (asked.environments, asked.soft.environments),
    }


def _told(rows: Any) -> dict[str, Any]:
    """The limits as the audit trail keeps them: by model, `all` or the resource."""
    return {
        row.model or ("all" if row.resource is Resource.GPUS else row.resource.value): (
            row.hard_limit if row.soft_limit is None else {"hard": row.hard_limit, "soft": row.soft_limit}
        )
        for row in limited(list(rows))
    }


def use(tx: Session, workspace_id: UUID, user_id: UUID | None, resource: Resource, delta: int) -> list[str]:
    """Count `delta` more (or less) GiB or environments of a member; warnings of soft limits that it crossed.

    They count for the workspace, its organisation and the member, whether those have limits or not; the
    database refuses an overrun. GPUs are counted where they are held. A membership that has begun anew is not
    charged for what an earlier one used, and gives back no more than it used. Raises QuotaExceeded.
    """
    if resource is Resource.GPUS:
        raise ValueError("GPUs are counted by their holds")
    workspace = tx.get_one(Workspace, workspace_id)
    scopes = _scopes(tx, workspace, user_id)
    _count_from_zero(tx, workspace_id, scopes, resource)
    warnings = []
    for scope, scope_id in sorted(scopes.items(), key=lambda pair: str(pair[1])):
        row = _charge(tx, scope, scope_id, resource, delta)
        if row is None:
            raise _exceeded(tx, workspace, scope, scope_id, resource, delta)
        if delta > 0 and row.soft_limit is not None and row.used > row.soft_limit:
            warnings.append(_beyond_soft(tx, workspace, user_id, row, delta))
    return warnings


def _scopes(tx: Session, workspace: Workspace, user_id: UUID | None) -> dict[Scope, UUID]:
    found = {Scope.ORGANISATION: workspace.organisation_id, Scope.WORKSPACE: workspace.id}
    member = tx.get(Membership, (workspace.id, user_id)) if user_id is not None else None
    return found | ({Scope.MEMBER: member.id} if member is not None else {})


def _count_from_zero(tx: Session, workspace_id: UUID, scopes: dict[Scope, UUID], resource: Resource) -> None:
    rows = [
        {
            "scope_id": scope_id,
            "resource": resource,
            "model": ALL_MODELS,
            "scope": scope,
            "workspace_id": None if scope is Scope.ORGANISATION else workspace_id,
            "used": 0,
            "budgeted": False,
        }
        for scope, scope_id in scopes.items()
    ]
    insert = sqlite.insert if is_sqlite(tx) else postgresql.insert
    tx.execute(insert(QUOTAS).on_conflict_do_nothing(), rows)


def _charge(tx: Session, scope: Scope, scope_id: UUID, resource: Resource, delta: int) -> Any:
    """The row as it is then; None where it would be overrun."""
    used = QUOTAS.c.used + delta
    own = _row(scope_id, resource)
    if delta > 0:
        own = sa.and_(own, sa.or_(QUOTAS.c.hard_limit.is_(None), used <= QUOTAS.c.hard_limit))
    if scope is Scope.MEMBER:
        used = sa.case((used < 0, 0), else_=used)
    return tx.execute(sa.update(QUOTAS).where(own).values(used=used).returning(*QUOTAS.c)).one_or_none()


def _row(scope_id: UUID, resource: Resource) -> sa.ColumnElement[bool]:
    own = QUOTAS.c
    return sa.and_(own.scope_id == scope_id, own.resource == resource, own.model == ALL_MODELS)


def _exceeded(
    tx: Session, workspace: Workspace, scope: Scope, scope_id: UUID, resource: Resource, asked: int
) -> QuotaExceeded:
    row = tx.execute(sa.select(QUOTAS).where(_row(scope_id, resource))).one()
    return QuotaExceeded(
        workspace=workspace.slug,
        scope=scope,
        model=None,
        limit=row.hard_limit,
        used=row.used,
        asked=asked,
        resource=resource,
    )


def _beyond_soft(tx: Session, workspace: Workspace, user_id: UUID | None, row: Any, delta: int) -> str:
    text = (
        f"{workspace.slug} ({row.scope}) uses {row.used} {UNITS[row.resource]}, more than the soft limit of "
        f"{row.soft_limit}."
    )
    if row.used - delta <= row.soft_limit:
        moment = clock.now().isoformat()
        notices.tell(
            tx,
            "quota.soft_limit_crossed",
            f"quota:{row.scope_id}:{row.resource}:{moment}",
            row.scope_id,
            text,
            workspace_id=None if row.scope is Scope.ORGANISATION else workspace.id,
            user_id=user_id if row.scope is Scope.MEMBER else None,
            scope=row.scope,
            resource=row.resource,
            soft_limit=row.soft_limit,
            used=row.used,
        )
    return text
