"""What a workspace, its organisation and a member hold or have reserved over a time, against their quotas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.models import Allocation, Hold, Reservation
from api.allocations.window import Window
from api.core.columns import UtcDateTime
from api.core.db import table
from api.workspaces.models import Scope, Workspace
from api.workspaces.service import Limit, Tenant

ALLOCATIONS, HOLDS, RESERVATIONS = table(Allocation), table(Hold), table(Reservation)


@dataclass(frozen=True, slots=True)
class _Use:
    """So many GPUs of a model in `[starts_at, ends_at)`, of a member of a workspace."""

    workspace_id: UUID
    user_id: UUID | None
    model: str
    starts_at: datetime
    ends_at: datetime
    gpus: int


def later(tx: Session, tenant: Tenant, user_id: UUID | None, span: Window, besides: UUID) -> Tenant:
    """The tenant with what counts at the fullest moment of a window that has not begun.

    Holds count until their planned end. The reservations of the allocation `besides` do not count.
    """
    return _later(tx, tenant, user_id, span, _booked(tx, tenant, span, besides))


def longer(tx: Session, tenant: Tenant, user_id: UUID | None, span: Window, besides: UUID) -> Tenant | None:
    """As `later`, for the time by which an allocation would last longer; None when nothing is reserved then.

    It does not count itself, since its planned end is where that time begins.
    """
    booked = _booked(tx, tenant, span, besides)
    return _later(tx, tenant, user_id, span, booked) if booked else None


def _later(tx: Session, tenant: Tenant, user_id: UUID | None, span: Window, booked: Sequence[_Use]) -> Tenant:
    uses = [*booked, *_held(tx, tenant, span.starts_at)]
    return _at_the_fullest(tenant, user_id, _moments(span, booked), uses)


def now(tx: Session, tenant: Tenant, user_id: UUID | None, span: Window, besides: UUID) -> Tenant:
    """The tenant with what counts at the fullest moment of a window that begins now.

    That is what it holds, unless something is reserved in that window; then it is at least that.
    """
    booked = _booked(tx, tenant, span, besides)
    if not booked:
        return tenant
    begins = [use for use in booked if use.starts_at <= span.starts_at]
    at_once = _at_the_fullest(tenant, user_id, [span.starts_at], begins)
    fullest = _later(tx, tenant, user_id, span, booked)
    limits = tuple(
        replace(held, used=max(held.used + first.used, all_of_it.used))
        for held, first, all_of_it in zip(tenant.limits, at_once.limits, fullest.limits, strict=True)
    )
    return replace(tenant, limits=limits)


def _moments(span: Window, uses: Iterable[_Use]) -> list[datetime]:
    """Use grows only where the window or a reservation begins."""
    return [span.starts_at, *{use.starts_at for use in uses if use.starts_at > span.starts_at}]


def _at_the_fullest(
    tenant: Tenant, user_id: UUID | None, moments: Iterable[datetime], uses: Iterable[_Use]
) -> Tenant:
    def most(limit: Limit) -> int:
        own = [use for use in uses if _counts(use, limit, tenant, user_id)]
        return max(sum(u.gpus for u in own if u.starts_at <= at < u.ends_at) for at in moments)

    return replace(tenant, limits=tuple(replace(limit, used=most(limit)) for limit in tenant.limits))


def _counts(use: _Use, limit: Limit, tenant: Tenant, user_id: UUID | None) -> bool:
    if limit.model and use.model != limit.model:
        return False
    if limit.scope is Scope.ORGANISATION:
        return True
    own = use.workspace_id == tenant.id
    return own and (limit.scope is Scope.WORKSPACE or use.user_id == user_id)


def _whole(tenant: Tenant) -> bool:
    """Whether all of the organisation counts, since it has a limit."""
    return any(limit.scope is Scope.ORGANISATION and limit.hard is not None for limit in tenant.limits)


def _whose(column: sa.ColumnElement[Any], *, whole: bool) -> sa.ColumnElement[bool]:
    if not whole:
        return column == sa.bindparam("tenant", type_=sa.Uuid())
    same = col(Workspace.organisation_id) == sa.bindparam("organisation", type_=sa.Uuid())
    return column.in_(sa.select(col(Workspace.id)).where(same))


@cache
def _overlapping(*, whole: bool) -> sa.Select[Any]:
    """Built once, since every claim that is not the simplest asks it."""
    own = RESERVATIONS.c
    key = (own.workspace_id, own.user_id, own.model, own.starts_at, own.ends_at)
    return (
        sa.select(*key, sa.func.count())
        .where(_whose(own.workspace_id, whole=whole), own.closed_at.is_(None))
        .where(own.allocation_id != sa.bindparam("besides", type_=sa.Uuid()))
        .where(own.starts_at < sa.bindparam("end", type_=UtcDateTime()))
        .where(own.ends_at > sa.bindparam("begin", type_=UtcDateTime()))
        .group_by(*key)
    )


def _booked(tx: Session, tenant: Tenant, span: Window, besides: UUID) -> list[_Use]:
    given = {
        "tenant": tenant.id,
        "organisation": tenant.organisation_id,
        "besides": besides,
        "begin": span.starts_at,
        "end": span.ends_at,
    }
    return [_Use(*row) for row in tx.execute(_overlapping(whole=_whole(tenant)), given)]


def _held(tx: Session, tenant: Tenant, at: datetime) -> list[_Use]:
    key = (HOLDS.c.workspace_id, HOLDS.c.user_id, HOLDS.c.model, ALLOCATIONS.c.ends_at)
    statement = (
        sa.select(*key, sa.func.count())
        .join(ALLOCATIONS, ALLOCATIONS.c.id == HOLDS.c.allocation_id)
        .where(_whose(HOLDS.c.workspace_id, whole=_whole(tenant)), HOLDS.c.ended_at.is_(None))
        .where(ALLOCATIONS.c.ends_at > at)
        .group_by(*key)
    )
    given = {"tenant": tenant.id, "organisation": tenant.organisation_id}
    return [
        _Use(workspace_id, user_id, model, at, ends_at, gpus)
        for workspace_id, user_id, model, ends_at, gpus in tx.execute(statement, given)
    ]
