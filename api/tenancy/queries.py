"""Reads everything that a cluster follows, in six statements of one snapshot."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.models import Hold
from api.core.db import is_sqlite
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, Host
from api.identity.models import User
from api.tenancy.models import Tenancy, TenancyHost, TenancyMember, TenancyQuota, TenancyWorkspace
from api.workspaces.models import ALL_MODELS, Membership, Quota, Resource, Scope, Workspace


def freeze(tx: Session) -> None:
    """Make all statements of a transaction that has not begun yet see one and the same moment.

    A transaction of SQLite always does.
    """
    if not is_sqlite(tx):
        tx.connection(execution_options={"isolation_level": "REPEATABLE READ"})


def tenancy(tx: Session) -> Tenancy:
    """The ledger as a cluster follows it. `freeze` the transaction first for a consistent one."""
    return Tenancy(workspaces=_workspaces(tx), hosts=_hosts(tx))


def _workspaces(tx: Session) -> list[TenancyWorkspace]:
    members, quotas = _members(tx), _quotas(tx)
    rows = tx.execute(
        sa.select(col(Workspace.id), col(Workspace.slug), col(Workspace.name)).order_by(col(Workspace.slug))
    )
    return [
        TenancyWorkspace(
            id=row.id, slug=row.slug, name=row.name, members=members[row.id], quota=quotas[row.id]
        )
        for row in rows
    ]


def _members(tx: Session) -> dict[UUID, list[TenancyMember]]:
    statement = (
        sa.select(col(Membership.workspace_id), col(User.email), col(Membership.role))
        .join(User, col(User.id) == col(Membership.user_id))
        .where(col(User.active))
        .order_by(col(User.email))
    )
    found: dict[UUID, list[TenancyMember]] = defaultdict(list)
    for row in tx.execute(statement):
        found[row.workspace_id].append(TenancyMember(email=row.email, role=row.role))
    return found


def _quotas(tx: Session) -> dict[UUID, TenancyQuota]:
    statement = sa.select(col(Quota.workspace_id), col(Quota.model), col(Quota.hard_limit)).where(
        col(Quota.scope) == Scope.WORKSPACE,
        col(Quota.resource) == Resource.GPUS,
        col(Quota.hard_limit).is_not(None),
    )
    found: dict[UUID, TenancyQuota] = defaultdict(lambda: TenancyQuota(gpus=0, models={}))
    for row in tx.execute(statement.order_by(col(Quota.model))):
        if row.model == ALL_MODELS:
            found[row.workspace_id].gpus = row.hard_limit
        else:
            found[row.workspace_id].models[row.model] = row.hard_limit
    return found


def _hosts(tx: Session) -> list[TenancyHost]:
    gpus: dict[UUID, dict[str, int]] = defaultdict(dict)
    present = sa.select(col(Gpu.host_id), col(Gpu.model), sa.func.count()).where(
        col(Gpu.removed_at).is_(None)
    )
    for host_id, model, number in tx.execute(present.group_by(col(Gpu.host_id), col(Gpu.model))):
        gpus[host_id][model] = number
    holders: dict[UUID, set[str]] = defaultdict(set)
    held = (
        sa.select(col(Hold.host_id), col(Workspace.slug))
        .join(Workspace, col(Workspace.id) == col(Hold.workspace_id))
        .where(col(Hold.ended_at).is_(None))
    )
    for host_id, slug in tx.execute(held.distinct()):
        holders[host_id].add(slug)
    rows = tx.execute(
        sa.select(col(Host.id), col(Host.name), col(Host.state), col(Host.region))
        .where(col(Host.state) != State.RETIRED)
        .order_by(col(Host.name))
    )
    return [
        TenancyHost(
            name=row.name,
            state=row.state,
            region=row.region,
            models=sorted(gpus[row.id]),
            gpus=sum(gpus[row.id].values()),
            workspaces=sorted(holders[row.id]),
        )
        for row in rows
    ]
