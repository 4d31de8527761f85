"""Limits at any one time, of organisations, workspaces and members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import clock, notices
from api.core.db import is_sqlite, table
from api.core.errors import Conflict
from api.workspaces.limit_models import QuotaRead
from api.workspaces.models import (
    ALL_MODELS,
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
        are = "1 is" if used == 1 else f"{used} are"
        uses = f"{are} held or reserved at that time" if later else f"{are} held"
        super().__init__(
            f"{whose}, and {uses}; {asked} more {'was' if asked == 1 else 'were'} asked for. "
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
    return [row for row in rows if always(row) or row.hard_limit is not None or row.soft_limit is not None]


def always(row: Quota) -> bool:
    """Whether it is the row that every workspace has."""
    return row.scope is Scope.WORKSPACE and row.resource is Resource.GPUS and row.model == ALL_MODELS


def read(row: Quota) -> QuotaRead:
    gpus = row.resource is Resource.GPUS
    return QuotaRead(
        resource=row.resource,
        model=row.model or None,
        hard_limit=row.hard_limit,
        soft_limit=row.soft_limit,
        used=row.used,
        gpu_limit=row.hard_limit if gpus else None,
        gpus_held=row.used if gpus else None,
    )


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


def move(tx: Session, workspace: Workspace, giving: UUID, taking: UUID, held: Counter[str]) -> None:
    """Count with another organisation what a workspace uses; `held`: its GPUs by model (empty: all together).

    All three are locked. Raises QuotaExceeded.
    """
    used: dict[Key, int] = {(Resource.GPUS, model): gpus for model, gpus in held.items()}
    for row in tx.execute(sa.select(QUOTAS).where(QUOTAS.c.scope_id == workspace.id)):
        if row.resource is not Resource.GPUS and row.used:
            used[row.resource, ALL_MODELS] = row.used
            _count_from_zero(tx, workspace.id, {Scope.ORGANISATION: taking}, row.resource)
    for (resource, model), number in used.items():
        _charge(tx, Scope.ORGANISATION, giving, resource, -number, model)
        charged = _charge(tx, Scope.ORGANISATION, taking, resource, number, model)
        if charged is None and tx.execute(sa.select(QUOTAS).where(_row(taking, resource, model))).first():
            raise _exceeded(tx, workspace, Scope.ORGANISATION, taking, resource, number, model)


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


def _charge(
    tx: Session, scope: Scope, scope_id: UUID, resource: Resource, delta: int, model: str = ALL_MODELS
) -> Any:
    """The row as it is then; None where it would be overrun, or there is none."""
    used = QUOTAS.c.used + delta
    own = _row(scope_id, resource, model)
    if delta > 0:
        own = sa.and_(own, sa.or_(QUOTAS.c.hard_limit.is_(None), used <= QUOTAS.c.hard_limit))
    if scope is Scope.MEMBER:
        used = sa.case((used < 0, 0), else_=used)
    return tx.execute(sa.update(QUOTAS).where(own).values(used=used).returning(*QUOTAS.c)).one_or_none()


def _row(scope_id: UUID, resource: Resource, model: str = ALL_MODELS) -> sa.ColumnElement[bool]:
    own = QUOTAS.c
    return sa.and_(own.scope_id == scope_id, own.resource == resource, own.model == model)


def _exceeded(
    tx: Session,
    workspace: Workspace,
    scope: Scope,
    scope_id: UUID,
    resource: Resource,
    asked: int,
    model: str = ALL_MODELS,
) -> QuotaExceeded:
    row = tx.execute(sa.select(QUOTAS).where(_row(scope_id, resource, model))).one()
    return QuotaExceeded(
        workspace=workspace.slug,
        scope=scope,
        model=model or None,
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
