"""The queue: who waits for GPUs, in which order, and who may be served before them.

A claim that goes first must not hold up one that waits for capacity: with it granted, each that comes before
it could still begin as early as without it, by the known ends. (EASY backfill, for more than the first.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import backfill, claims, demands, preemption, shares
from api.allocations.backfill import WaitsFor
from api.allocations.lifecycle import Event, State, advance
from api.allocations.limits import QuotaExceeded, check_quota
from api.allocations.models import Allocation
from api.allocations.window import Window
from api.core import audit, clock
from api.core.access import Actor
from api.core.errors import Conflict, Forbidden
from api.fleet.placement import CapacityExceeded
from api.fleet.pool import SOON, Demand, Pool
from api.workspaces.models import WorkspaceRole

if TYPE_CHECKING:
    from api.allocations.claims import Claimed
    from api.settings import Settings
    from api.workspaces.service import Tenant

PRIVILEGED = frozenset({WorkspaceRole.OWNER, WorkspaceRole.ADMIN})


REASONS = {
    CapacityExceeded.code: WaitsFor.CAPACITY,
    QuotaExceeded.code: WaitsFor.QUOTA,
    "budget-exceeded": WaitsFor.BUDGET,
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """One in the line; `share` is what its workspace used lately, in GPU-seconds."""

    allocation: Allocation
    position: int
    share: int


def check_priority(actor: Actor, tenant: Tenant, priority: int) -> None:
    if priority > 0 and tenant.role not in PRIVILEGED and not actor.operates:
        raise Forbidden(
            f"A priority above 0 needs owner or admin of {tenant.slug}; you are {tenant.role}. "
            f"Ask with priority 0 or below, or ask one of them.",
            priority=priority,
        )


def line(tx: Session, settings: Settings) -> list[Waiting]:
    """All that wait, in the order in which they are served.

    Those for which others are being ended come first, since these were ended for nobody else. Then priority
    decides, then which workspace has used less lately, then age.
    """
    rows = list(tx.execute(sa.select(Allocation).where(col(Allocation.state) == State.QUEUED)).scalars())
    now = clock.now()
    since = now - timedelta(seconds=settings.fair_share_window)
    used = shares.used(tx, {row.workspace_id for row in rows}, since, now) if rows else {}
    rows.sort(key=lambda row: (not owed(row), -row.priority, used[row.workspace_id], row.created_at, row.id))
    return [Waiting(row, position, used[row.workspace_id]) for position, row in enumerate(rows, 1)]


def owed(allocation: Allocation) -> bool:
    """Whether preemptible allocations are, or were, ended for it."""
    return bool((allocation.why or {}).get("yielding"))


def place(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    span: Window,
    settings: Settings,
    *,
    wait: bool,
) -> Claimed:
    """Grant it if that holds up nobody who waits; else, with `wait`, queue it. Not for a later window.

    Raises QuotaExceeded and CapacityExceeded where it does not wait, or would wait in vain.
    """
    heads = backfill.before(tx, allocation, settings)
    try:
        if not wait and not heads:
            return claims.grant(tx, actor, tenant, allocation, span, settings)
        return considerate(tx, actor, tenant, allocation, span, heads, settings)
    except (QuotaExceeded, CapacityExceeded) as short:
        if not wait:
            raise preemption.told(tx, short, allocation, settings) from None
        demand = demands.of(allocation, settings)
        pool = demands.pool(tx, [demand], clock.now(), settings)
        _refuse_in_vain(short, tenant, demand, pool)
        return enqueue(tx, actor, tenant, allocation, short, pool.start(demand), settings)


def considerate(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    span: Window,
    heads: Sequence[backfill.Head],
    settings: Settings,
) -> Claimed:
    """Grant it unless that holds up one of `heads`; a refusal leaves no trace.

    Raises QuotaExceeded and CapacityExceeded; the latter says `ahead`, how many come first, when there are
    GPUs and taking them would hold up one of these.
    """
    kept = allocation.model_dump()
    try:
        with backfill.considerately(tx, allocation, span, heads, settings) as hosts:
            made = claims.grant(tx, actor, tenant, allocation, span, settings)
            hosts.update(gpu.host_id for gpu in made.gpus)
    except Conflict:
        if not sa.inspect(allocation).persistent:
            for name, value in kept.items():
                setattr(allocation, name, value)
        raise
    return made


def _refuse_in_vain(short: Conflict, tenant: Tenant, demand: Demand, pool: Pool) -> None:
    """Raises what is short where no release can help: the quotas or the fleet are too small."""
    unused = tuple(replace(limit, used=0) for limit in tenant.limits)
    check_quota(replace(tenant, limits=unused), demands.gpus(demand))
    if not pool.ever(demand):
        if isinstance(short, CapacityExceeded):
            short.detail += " The fleet has too few: waiting would not help."
            raise short
        raise CapacityExceeded("The fleet has too few GPUs that match: waiting would not help.")


def enqueue(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    short: Conflict,
    start: datetime | None,
    settings: Settings,
) -> Claimed:
    """Queue a claim that is new, or approved now; `start`: when it can be granted, as far as is known."""
    if sa.inspect(allocation).persistent:
        allocation.state = advance(allocation.state, Event.QUEUE)
    else:
        allocation.state = State.QUEUED
        tx.add(allocation)
    if allocation.duration_seconds is not None:
        allocation.expires_at = allocation.ends_at = None
    allocation.why = {}
    tx.flush()
    position = next(one.position for one in line(tx, settings) if one.allocation.id == allocation.id)
    allocation.why = note(allocation, short, position, start)
    tx.flush()
    after = {"workspace": tenant.slug, "priority": allocation.priority} | allocation.why
    audit.record(tx, actor, "allocation.queued", allocation.id, after=after)
    return claims.Claimed(allocation, tenant.slug, [])


def note(
    allocation: Allocation, short: Conflict | None, position: int, start: datetime | None
) -> dict[str, Any]:
    """Why it waits, as its `why` says; `short` is None where only the forecast says that GPUs are missing."""
    kept = allocation.why or {}
    turn = short is not None and "ahead" in short.facts
    reason = REASONS.get(short.code, short.code) if short else WaitsFor.CAPACITY
    made = {
        "waits_for": WaitsFor.TURN if turn else reason,
        "position": position,
        "enough_at": start.isoformat() if start and start > clock.now() + SOON else None,
        "detail": short.detail
        if short and reason != WaitsFor.CAPACITY
        else _detail(allocation, start, turn=turn),
    }
    if reason == WaitsFor.CAPACITY and kept.get("yielding"):
        made["yielding"] = kept["yielding"]
    return made


def _detail(allocation: Allocation, start: datetime | None, *, turn: bool) -> str:
    if turn:
        return "There are GPUs for it, and claims before it would be held up."
    asked = f"{allocation.wanted['gpus']} GPUs as asked for are not free together"
    if start is None:
        return f"{asked}, and no known end leads there."
    if start <= clock.now() + SOON:
        return f"{asked}; they are expected any moment."
    return f"{asked}; by the known ends they are at {start:%Y-%m-%dT%H:%M:%SZ}."
