"""Claims: all that was asked for, or nothing. Each is one transaction of the caller's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations import approvals, backfill, booking, limits, spending, usage, waiting, window
from api.allocations.lifecycle import Event, State, advance
from api.allocations.limits import check_quota
from api.allocations.models import Allocation, ClaimRequest, GroupRequest, HeldGpu, Hold, Placement
from api.allocations.offers import Bound, honoured
from api.allocations.window import Window
from api.core import audit, clock
from api.core.access import Actor
from api.core.db import insert_together, table
from api.core.ids import new_id
from api.fleet import placement, windows
from api.fleet.placement import Taken, Wanted
from api.providers import rates
from api.settings import Settings
from api.workspaces import service as workspaces
from api.workspaces.models import ALL_MODELS
from api.workspaces.service import Tenant

ALLOCATIONS, HOLDS = table(Allocation), table(Hold)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim led to; `gpus` is empty while it holds nothing yet, `warnings` tell of soft limits."""

    allocation: Allocation
    workspace: str
    gpus: list[HeldGpu]
    warnings: list[str] = field(default_factory=list)


def claim(
    tx: Session, actor: Actor, asked: ClaimRequest, settings: Settings, *, offer: Bound | None = None
) -> Claimed:
    """Hold GPUs, all or none; at the price of the offer, where it took one.

    Raises QuotaExceeded, CapacityExceeded, Invalid (an end in the past or too far off).
    """
    tenant = workspaces.lock_tenant(tx, actor, asked.workspace)
    now = clock.now()
    span = window.of(asked, now, settings)
    waiting.check_priority(actor, tenant, asked.priority)
    allocation = Allocation(
        id=new_id(),
        workspace_id=tenant.id,
        requested_by_id=actor.user_id,
        requested_by=actor.name,
        wanted=describe(asked) | ({"offer": offer.kept} if offer else {}),
        created_at=now,
        not_before=span.starts_at if span.later else None,
        duration_seconds=asked.duration_seconds
        or (None if asked.expires_at else settings.allocation_lifetime),
        expires_at=span.expires_at,
        ends_at=span.ends_at,
        priority=asked.priority,
        preemptible=asked.preemptible,
    )
    approver = approvals.needed(tx, actor, tenant, approvals.models_of(allocation.wanted))
    if approver is not None:
        return Claimed(
            approvals.request(tx, actor, tenant, allocation, asked, span, approver), tenant.slug, []
        )
    return begin(tx, actor, tenant, allocation, span, settings, wait=asked.wait)


def begin(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    span: Window,
    settings: Settings,
    *,
    wait: bool,
) -> Claimed:
    """What follows on a claim that nobody has to approve (any more).

    Raises QuotaExceeded, CapacityExceeded, and for a later window ReservationConflict.
    """
    if span.later:
        return _reserve(tx, actor, tenant, allocation, span, settings)
    return waiting.place(tx, actor, tenant, allocation, span, settings, wait=wait)


def _reserve(
    tx: Session, actor: Actor, tenant: Tenant, allocation: Allocation, span: Window, settings: Settings
) -> Claimed:
    """Set GPUs aside, unless that holds up a claim that waits. The answer's GPUs are not held yet."""
    groups = wanted_groups(allocation.wanted)
    heads = backfill.before(tx, allocation, settings)
    with backfill.considerately(tx, allocation, span, heads, settings) as hosts:
        with spending.tracked(tx, tenant, allocation) as warnings:
            chosen = booking.reserve(tx, actor, tenant, allocation, span, groups, settings)
        hosts.update(gpu.host_id for gpu in chosen)
    return Claimed(allocation, tenant.slug, [], warnings)


def grant(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    span: Window,
    settings: Settings,
    *,
    reserved: Sequence[UUID] = (),
) -> Claimed:
    """Make an allocation active: new, one that waited, or one for which GPUs were `reserved`.

    The tenant is locked. Raises QuotaExceeded, CapacityExceeded.
    """
    now = usage.now(tx, tenant, allocation.requested_by_id, span, allocation.id)
    groups, later = wanted_groups(allocation.wanted), now is not tenant
    check_quota(now, Counter({ALL_MODELS: sum(group.count for group in groups)}), later=later)
    taken, started_at, why = _take(tx, actor, allocation, groups, span, reserved)
    asked = Counter(gpu.model for gpu in taken) + Counter({ALL_MODELS: len(taken)})
    check_quota(now, asked, later=later)
    priced = honoured(allocation.wanted, prices(tx, taken, started_at))
    if reserved:
        priced = spending.agreed(tx, allocation.id, taken, priced)
    waited = sa.inspect(allocation).persistent
    before = allocation.state if waited else None
    if waited:
        advance(allocation.state, Event.GRANT)
    allocation.state, allocation.started_at, allocation.why = State.ACTIVE, started_at, why
    allocation.expires_at, allocation.ends_at = span.expires_at, span.ends_at
    known = [rate for rate in priced if rate is not None]
    if known:
        allocation.price_per_hour, allocation.currency = sum(known, Decimal(0)), settings.currency
    event = audit.row(
        actor,
        "allocation.granted" if waited else "allocation.claimed",
        allocation.id,
        before={"state": before} if before else None,
        after={"workspace": tenant.slug, "gpus": [gpu.uuid for gpu in taken]},
    )
    rows = hold_rows(allocation, taken, priced, started_at)
    parts = [(HOLDS, rows), (audit.EVENTS, [event])]
    with spending.tracked(tx, tenant, allocation) as warnings:
        if waited:
            tx.flush()
        else:
            parts.insert(0, (ALLOCATIONS, [allocation.model_dump()]))
        insert_together(tx, *parts)
    told = limits.beyond_soft(tx, tenant, asked, allocation) + warnings
    return Claimed(allocation, tenant.slug, [held(gpu) for gpu in taken], told)


def _take(
    tx: Session,
    actor: Actor,
    allocation: Allocation,
    groups: Sequence[Wanted],
    span: Window,
    reserved: Sequence[UUID],
) -> tuple[list[Taken], datetime, dict[str, Any]]:
    """What was reserved; where that cannot be had, or nothing was, what placement finds."""
    holder, at, until = allocation.id, span.starts_at, span.free_at
    exactly = windows.take(tx, actor, reserved, holder, at, until=until) if reserved else None
    if exactly is not None:
        return exactly
    return placement.take(
        tx,
        actor,
        groups,
        holder,
        at,
        until=until,
        spread=allocation.wanted.get("placement") == Placement.SPREAD,
        separate=bool(allocation.wanted.get("separate_hosts")),
    )


def hold_rows(
    allocation: Allocation, taken: list[Taken], prices: list[Decimal | None], started_at: datetime
) -> list[dict[str, Any]]:
    return [
        {
            "id": new_id(),
            "allocation_id": allocation.id,
            "workspace_id": allocation.workspace_id,
            "user_id": allocation.requested_by_id,
            "gpu_id": gpu.gpu_id,
            "host_id": gpu.host_id,
            "model": gpu.model,
            "rate": rate,
            "started_at": started_at,
        }
        for gpu, rate in zip(taken, prices, strict=True)
    ]


def prices(tx: Session, taken: Sequence[Taken], at: datetime) -> list[Decimal | None]:
    known = rates.in_force(tx, at)
    return [rates.price(known, gpu.model, gpu.region) for gpu in taken]


def describe(asked: ClaimRequest) -> dict[str, Any]:
    """What was asked for, as the allocation keeps it."""
    groups = [_wanted(group).describe() for group in asked.all_groups()]
    kept = groups[0] if not asked.groups else {"gpus": sum(g["gpus"] for g in groups), "groups": groups}
    more = {
        "placement": asked.placement.value if asked.placement is Placement.SPREAD else None,
        "separate_hosts": asked.separate_hosts,
        "purpose": asked.purpose,
    }
    return kept | {name: value for name, value in more.items() if value}


def wanted_groups(kept: dict[str, Any]) -> list[Wanted]:
    """The groups of what `describe` kept."""
    return [
        Wanted(
            count=group["gpus"],
            model=group.get("model"),
            memory_mib=group.get("memory_mib"),
            region=group.get("region"),
            labels=tuple(sorted(group.get("labels", {}).items())),
            same_host=group.get("same_host", False),
            nvlink=group.get("nvlink", False),
            exclusive_host=group.get("exclusive_host", False),
            mig_profile=group.get("mig_profile"),
        )
        for group in kept.get("groups", [kept])
    ]


def _wanted(asked: GroupRequest) -> Wanted:
    return Wanted(
        count=asked.gpus,
        model=asked.model,
        memory_mib=asked.memory_mib,
        region=asked.region,
        labels=tuple(sorted(asked.labels.items())),
        same_host=asked.same_host,
        nvlink=asked.nvlink,
        exclusive_host=asked.exclusive_host,
        mig_profile=asked.mig_profile,
    )


def held(gpu: Taken) -> HeldGpu:
    return HeldGpu(
        gpu_id=gpu.gpu_id,
        uuid=gpu.uuid,
        model=gpu.model,
        memory_mib=gpu.memory_mib,
        index=gpu.index,
        host_id=gpu.host_id,
        host=gpu.host,
    )
