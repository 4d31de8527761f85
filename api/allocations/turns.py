"""Going through the queue: whoever's turn it is and whom nothing keeps waiting is granted."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import demands, preemption, service, waiting
from api.allocations.backfill import Head, WaitsFor
from api.allocations.lifecycle import Event, State
from api.allocations.limits import QuotaExceeded, check_quota
from api.allocations.models import Allocation
from api.allocations.waiting import Waiting
from api.core import clock, notices
from api.core.access import Actor
from api.core.db import Database
from api.core.errors import Conflict
from api.fleet.pool import Demand
from api.identity import service as identity
from api.workspaces import tenants
from api.workspaces.models import MAY_CLAIM
from api.workspaces.service import Tenant

if TYPE_CHECKING:
    from api.settings import Settings

log = logging.getLogger("ironyard.queue")


@dataclass(frozen=True, slots=True)
class Seen:
    """One in the line as a pass found it; `start` is the earliest that the known ends allow."""

    id: UUID
    kind: tuple[Any, ...]  # alike: what keeps one of them waiting keeps the others too
    demand: Demand
    position: int
    start: datetime | None
    stale: bool
    try_now: bool
    may_preempt: bool


def serve(database: Database, actor: Actor, settings: Settings) -> None:
    """One pass: what was to yield yields, then everybody in line is looked at, each in its own transaction.

    Several may do this at once: each claim is granted under its lock, while it still waits.
    """
    run = database.run
    for allocation_id in run(demands.pending, reading=True):
        run(partial(preemption.settle, actor=actor, allocation_id=allocation_id))
    look = partial(survey, settings=settings)
    line, outdated = deque(run(look, reading=True)), False
    ahead: list[Head] = []
    looked_at: dict[tuple[Any, ...], str | None] = {}
    while line:
        seen = line.popleft()
        reason = looked_at.get(seen.kind)
        if reason is None or (reason != WaitsFor.QUOTA and (seen.stale or seen.may_preempt)):
            try:
                reason = run(partial(turn, actor=actor, seen=seen, ahead=tuple(ahead), settings=settings))
            except Exception:  # those behind it must not wait for a mistake
                log.exception("the turn of allocation %s failed; trying again", seen.id)
                continue
        looked_at[seen.kind] = reason
        outdated = outdated or reason is None
        if reason == WaitsFor.CAPACITY:
            ahead.append(Head(seen.demand, seen.start))
            if seen.try_now and outdated:  # what was granted leaves too little: who else could begin?
                fresh = {one.id: one for one in run(look, reading=True)}
                line, outdated = deque(fresh[one.id] for one in line if one.id in fresh), False


def survey(tx: Session, settings: Settings) -> list[Seen]:
    """The line, and who of it could begin now; nothing is locked."""
    line = waiting.line(tx, settings)
    if not line:
        return []
    now = clock.now()
    needs = {one.allocation.id: demands.of(one.allocation, settings) for one in line}
    pool = demands.pool(tx, list(needs.values()), now, settings)
    starts = {demand: pool.start(demand) for demand in set(needs.values())}
    yielders = preemption.anyone(tx)
    return [_seen(one, needs[one.allocation.id], starts, now, yielders=yielders) for one in line]


def _seen(
    one: Waiting,
    demand: Demand,
    starts: dict[Demand, datetime | None],
    now: datetime,
    *,
    yielders: bool,
) -> Seen:
    allocation, start = one.allocation, starts[demand]
    over = allocation.expires_at is not None and allocation.expires_at <= now
    # Several groups can be placed in ways that the forecast does not think of.
    try_now = over or (start is not None and start <= now) or (start is None and len(demand.groups) > 1)
    return Seen(
        id=allocation.id,
        kind=(allocation.workspace_id, allocation.requested_by_id, demand, allocation.preemptible),
        demand=demand,
        position=one.position,
        start=start,
        stale=waiting.note(allocation, None, one.position, start) != allocation.why,
        try_now=try_now,
        may_preempt=yielders and not allocation.preemptible,
    )


def turn(tx: Session, actor: Actor, seen: Seen, ahead: Sequence[Head], settings: Settings) -> str | None:
    """Grant it, or note why it goes on waiting: what for; None when it does not wait any more."""
    found = _lock(tx, actor, seen)
    if found is None:
        return None
    tenant, allocation = found
    if _ended(tx, actor, allocation):
        return None
    short = _short_of_quota(tenant, seen.demand)
    if short is None and seen.try_now:
        short = _grant(tx, actor, tenant, allocation, ahead, settings)
        if short is None:
            return None
    noted = waiting.note(allocation, short, seen.position, seen.start)
    if noted != allocation.why:
        allocation.why = noted
        tx.flush()
    if noted["waits_for"] == WaitsFor.CAPACITY:
        preemption.plan(tx, actor, allocation, [head.demand for head in ahead], settings)
    return str(noted["waits_for"])


def _lock(tx: Session, actor: Actor, seen: Seen) -> tuple[Tenant, Allocation] | None:
    """The claim, if it still waits, with the limits of whoever asked for it."""
    own = sa.select(Allocation).where(col(Allocation.id) == seen.id, col(Allocation.state) == State.QUEUED)
    allocation = tx.execute(own).scalar_one_or_none()
    if allocation is None:
        return None
    workspace_id = allocation.workspace_id
    tenant = tenants.lock_tenants(tx, actor, [workspace_id], allocation.requested_by_id)[workspace_id]
    tx.refresh(allocation, with_for_update=True)
    if allocation.state is not State.QUEUED or allocation.workspace_id != workspace_id:
        return None
    return tenant, allocation


def _ended(tx: Session, actor: Actor, allocation: Allocation) -> bool:
    """Whether its waiting is over for good, and then end it."""
    if allocation.expires_at is not None and allocation.expires_at <= clock.now():
        service.withdraw(tx, actor, allocation, Event.EXPIRE, reason="its time passed while it waited")
    elif not _may_still_claim(tx, allocation):
        reason = "whoever asked for it may not claim in this workspace any more"
        service.withdraw(tx, actor, allocation, Event.CANCEL, reason=reason)
    else:
        return False
    text = f"Allocation {allocation.id} does not wait any more: {allocation.reason}."
    _tell(tx, allocation, "allocation.withdrawn", text)
    return True


def _may_still_claim(tx: Session, allocation: Allocation) -> bool:
    if allocation.requested_by_id is None:
        return True
    user = identity.get_user(tx, allocation.requested_by_id)
    role = tenants.role_of(tx, allocation.workspace_id, user.id)
    operates = Actor(user.email, user.role, user.id).operates
    return user.active and (operates or role in MAY_CLAIM)


def _short_of_quota(tenant: Tenant, demand: Demand) -> Conflict | None:
    """What waits for its quota takes part in nothing: nobody waits or yields for it."""
    try:
        check_quota(tenant, demands.gpus(demand))
    except QuotaExceeded as short:
        return short
    return None


def _grant(
    tx: Session,
    actor: Actor,
    tenant: Tenant,
    allocation: Allocation,
    ahead: Sequence[Head],
    settings: Settings,
) -> Conflict | None:
    """None when it is granted; else what is short."""
    own = demands.of(allocation, settings)
    span = demands.span(allocation, clock.now(), settings)
    heads = [head for head in ahead if head.demand.competes(own)]
    try:
        waiting.considerate(tx, actor, tenant, allocation, span, heads, settings)
    except Conflict as short:
        return short
    _tell(tx, allocation, "allocation.granted", f"Allocation {allocation.id} has its GPUs.")
    return None


def _tell(tx: Session, allocation: Allocation, kind: str, text: str, **facts: Any) -> None:
    notices.tell(
        tx,
        kind,
        f"{kind}:{allocation.id}",
        allocation.id,
        text,
        workspace_id=allocation.workspace_id,
        user_id=allocation.requested_by_id,
        **facts,
    )
