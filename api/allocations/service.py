"""Use cases of the ledger: claim, release, extend, expire. Each is one transaction of the caller's."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.lifecycle import Event, State, advance
from api.allocations.models import Allocation, ClaimRequest, HeldGpu, Hold
from api.core import audit, clock
from api.core.access import Actor
from api.core.db import insert_together, table
from api.core.errors import Conflict, Invalid, NotFound
from api.core.ids import new_id
from api.fleet import placement
from api.fleet.placement import Taken, Wanted
from api.settings import Settings
from api.workspaces import service as workspaces
from api.workspaces.models import ALL_MODELS, Scope
from api.workspaces.service import Tenant

ALLOCATIONS, HOLDS = table(Allocation), table(Hold)
TICK = timedelta(microseconds=1)


class QuotaExceeded(Conflict):
    code, title = "quota-exceeded", "The workspace's quota does not allow this"

    def __init__(
        self, *, workspace: str, scope: Scope, model: str | None, limit: int, used: int, asked: int
    ) -> None:
        of = f" of {model}" if model else ""
        who = {
            Scope.WORKSPACE: workspace,
            Scope.MEMBER: f"You in {workspace}",
            Scope.ORGANISATION: f"The organisation of {workspace}",
        }[scope]
        verbs = ("may hold", "hold") if scope is Scope.MEMBER else ("may hold", "holds")
        super().__init__(
            f"{who} {verbs[0]} {limit} GPUs{of} and {verbs[1]} {used}; {asked} more were asked for. "
            "Release some or ask an administrator for more.",
            workspace=workspace,
            scope=scope,
            model=model,
            limit=limit,
            used=used,
            asked=asked,
        )


def claim(
    tx: Session, actor: Actor, asked: ClaimRequest, settings: Settings
) -> tuple[Allocation, str, list[HeldGpu]]:
    """Hold GPUs, all or none: the allocation, the workspace's slug, the GPUs.

    Raises QuotaExceeded, CapacityExceeded, Invalid (an end in the past or too far off).
    """
    tenant = workspaces.lock_tenant(tx, actor, asked.workspace)
    now = clock.now()
    expires_at = _end(asked, now, settings)
    _check_quota(tenant, Counter({ALL_MODELS: asked.gpus}))
    allocation_id = new_id()
    taken, started_at = placement.take(tx, actor, _wanted(asked), allocation_id, now)
    _check_quota(tenant, Counter(gpu.model for gpu in taken) + Counter({ALL_MODELS: len(taken)}))
    allocation = Allocation(
        id=allocation_id,
        workspace_id=tenant.id,
        requested_by_id=actor.user_id,
        requested_by=actor.name,
        wanted=_wanted(asked).describe(),
        created_at=now,
        started_at=started_at,
        expires_at=expires_at,
        ends_at=expires_at,
    )
    after = {"workspace": tenant.slug, "gpus": [gpu.uuid for gpu in taken]}
    _insert(tx, allocation, taken, audit.row(actor, "allocation.claimed", allocation.id, after=after))
    return allocation, tenant.slug, [_held(gpu) for gpu in taken]


def _insert(tx: Session, allocation: Allocation, taken: list[Taken], event: dict[str, Any]) -> None:
    holds = [
        {
            "id": new_id(),
            "allocation_id": allocation.id,
            "workspace_id": allocation.workspace_id,
            "user_id": allocation.requested_by_id,
            "gpu_id": gpu.gpu_id,
            "host_id": gpu.host_id,
            "model": gpu.model,
            "started_at": allocation.started_at,
        }
        for gpu in taken
    ]
    insert_together(tx, (ALLOCATIONS, [allocation.model_dump()]), (HOLDS, holds), (audit.EVENTS, [event]))


def _wanted(asked: ClaimRequest) -> Wanted:
    return Wanted(
        count=asked.gpus,
        model=asked.model,
        memory_mib=asked.memory_mib,
        region=asked.region,
        labels=tuple(sorted(asked.labels.items())),
        same_host=asked.same_host,
        nvlink=asked.nvlink,
        exclusive_host=asked.exclusive_host,
    )


def _held(gpu: Taken) -> HeldGpu:
    return HeldGpu(
        gpu_id=gpu.gpu_id,
        uuid=gpu.uuid,
        model=gpu.model,
        memory_mib=gpu.memory_mib,
        index=gpu.index,
        host_id=gpu.host_id,
        host=gpu.host,
    )


def _check_quota(tenant: Tenant, asked: Counter[str]) -> None:
    for limit in tenant.limits:
        number = asked[limit.model]
        if number and limit.hard is not None and limit.used + number > limit.hard:
            raise QuotaExceeded(
                workspace=tenant.slug,
                scope=limit.scope,
                model=limit.model or None,
                limit=limit.hard,
                used=limit.used,
                asked=number,
            )


def _end(asked: ClaimRequest, now: datetime, settings: Settings) -> datetime:
    seconds = asked.duration_seconds or settings.allocation_lifetime
    return checked_end(asked.expires_at or now + timedelta(seconds=seconds), now, settings)


def checked_end(end: datetime, now: datetime, settings: Settings) -> datetime:
    furthest = now + timedelta(seconds=settings.allocation_lifetime_limit)
    if end <= now:
        raise Invalid("The end lies in the past.", expires_at=end.isoformat())
    if end > furthest:
        raise Invalid(
            f"The end may be no later than {furthest:%Y-%m-%dT%H:%M:%SZ}.", latest=furthest.isoformat()
        )
    return end


def get(tx: Session, actor: Actor, allocation_id: UUID) -> Allocation:
    """One that the actor's workspaces do not own is not found."""
    allocation = tx.execute(visible(actor).where(col(Allocation.id) == allocation_id)).scalar_one_or_none()
    if allocation is None:
        raise NotFound(f"There is no allocation {allocation_id} that you may see.")
    return allocation


def visible(actor: Actor) -> sa.Select[Allocation]:
    statement = sa.select(Allocation)
    if actor.operates:
        return statement
    return statement.where(col(Allocation.workspace_id).in_(workspaces.visible_ids(actor)))


def release(tx: Session, actor: Actor, allocation_id: UUID) -> Allocation:
    """End it now. Releasing what has ended changes nothing."""
    allocation = _lock(tx, actor, allocation_id)
    if allocation.state is State.ACTIVE:
        _finish(tx, actor, allocation, Event.RELEASE)
    return allocation


def expire(tx: Session, actor: Actor, allocation_id: UUID) -> bool:
    """End it if its time is over; False when somebody ended or extended it meanwhile."""
    allocation = _lock(tx, actor, allocation_id)
    if allocation.state is not State.ACTIVE or allocation.expires_at > clock.now():
        return False
    _finish(tx, actor, allocation, Event.EXPIRE)
    return True


def overdue(tx: Session) -> list[UUID]:
    statement = sa.select(col(Allocation.id)).where(
        col(Allocation.state) == State.ACTIVE, col(Allocation.expires_at) <= clock.now()
    )
    return list(tx.execute(statement.order_by(col(Allocation.expires_at)).limit(500)).scalars())


def extend(tx: Session, actor: Actor, allocation_id: UUID, end: datetime, settings: Settings) -> Allocation:
    allocation = _lock(tx, actor, allocation_id)
    advance(allocation.state, Event.EXTEND)
    before = allocation.expires_at
    allocation.expires_at = checked_end(end, clock.now(), settings)
    audit.record(
        tx,
        actor,
        "allocation.extended",
        allocation.id,
        before={"expires_at": before.isoformat()},
        after={"expires_at": allocation.expires_at.isoformat()},
    )
    return allocation


def _lock(tx: Session, actor: Actor, allocation_id: UUID) -> Allocation:
    """Quota first, then GPUs, then the host: every change of the ledger locks in that order."""
    allocation = get(tx, actor, allocation_id)
    workspaces.lock_tenant(tx, actor, allocation.workspace_id)
    tx.refresh(allocation, with_for_update=True)
    return allocation


def _finish(tx: Session, actor: Actor, allocation: Allocation, event: Event) -> None:
    ended = max(clock.now(), allocation.started_at + TICK)
    allocation.state = advance(allocation.state, event)
    allocation.ended_at = ended
    tx.flush()
    placement.give_back(
        tx, actor, allocation.id, ended, reason=f"allocation {allocation.id} {allocation.state}"
    )
    tx.execute(
        sa.update(HOLDS)
        .where(HOLDS.c.allocation_id == allocation.id, HOLDS.c.ended_at.is_(None))
        .values(ended_at=ended)
    )
    audit.record(tx, actor, f"allocation.{allocation.state}", allocation.id, before={"state": State.ACTIVE})
