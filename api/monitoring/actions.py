"""Doing what a finding asks for: under the locks of what it changes, and only if it is still so."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import service as allocations
from api.allocations.lifecycle import State as AllocationState
from api.allocations.models import Hold
from api.core import clock
from api.core.access import Actor
from api.core.errors import Conflict
from api.core.operations import service as operations
from api.fleet import placement
from api.fleet import service as fleet
from api.fleet.lifecycle import Event, State
from api.fleet.models import Gpu
from api.monitoring import idle, lifecycle, service
from api.monitoring.lifecycle import advance
from api.monitoring.models import Action, Finding, Sighting

STEP = "leaks"


class NothingToDo(Conflict):
    code, title = "finding-needs-a-person", "The platform can do nothing about this finding by itself"


class Changed(Conflict):
    code, title = "finding-outdated", "What was found is no longer so"


def act(tx: Session, actor: Actor, finding: Finding, reason: str, *, seen: Sighting | None = None) -> None:
    """Do it, for a locked finding. `seen`: it has to be as that says, which was measured a moment ago.

    Raises NothingToDo, Changed, WrongState and what the services raise that do it.
    """
    advance(finding.state, lifecycle.Event.ACT)
    why = f"{reason} ({finding.kind}, finding {finding.id})"
    if finding.action is Action.RELEASE_ALLOCATION and finding.allocation_id:
        _release(tx, actor, finding.allocation_id, why, seen)
    elif finding.action is Action.FREE_GPUS and finding.allocation_id:
        _free(tx, actor, finding.allocation_id, why)
    elif finding.action is Action.RECLAIM_HOST and finding.host_id:
        _reclaim(tx, actor, finding.host_id, why)
    elif finding.action is Action.TAKE_OUT_HOST and finding.host_id:
        fleet.fire(tx, actor, finding.host_id, Event.FAILED, reason=why, step=STEP)
    elif finding.action is Action.CANCEL_OPERATION:
        operations.request_cancel(tx, actor, finding.subject_id)
    else:
        raise NothingToDo(f"Look at it and decide: {finding.detail}", action=finding.action)
    service.acted(tx, actor, finding, reason)


def act_now(tx: Session, actor: Actor, finding_id: UUID, reason: str) -> Finding:
    """Do what a finding asks for because an operator says so, warned or not. Raises as `act` does."""
    finding = service.lock(tx, finding_id)
    act(tx, actor, finding, reason)
    return finding


def _release(tx: Session, actor: Actor, allocation_id: UUID, why: str, seen: Sighting | None) -> None:
    _, allocation = allocations.lock(tx, actor, allocation_id)
    if allocation.state is not AllocationState.ACTIVE:
        raise Changed(f"The allocation is {allocation.state}.", state=allocation.state)
    if seen is not None and not idle.still_held(tx, allocation_id, seen.gpus):
        raise Changed("The allocation holds other GPUs than those that were measured.")
    allocations.release(tx, actor, allocation_id, reason=why)


def _free(tx: Session, actor: Actor, holder: UUID, why: str) -> None:
    """Take the mark off GPUs that are marked as held and are not."""
    marked = sa.select(col(Gpu.id)).where(col(Gpu.held_by) == holder)
    held = sa.select(col(Hold.id)).where(col(Hold.gpu_id).in_(marked), col(Hold.ended_at).is_(None))
    if tx.execute(held.limit(1)).first() is not None:
        raise Changed(f"A GPU that is marked as held by {holder} has a hold.")
    placement.give_back(tx, actor, holder, clock.now(), reason=why)


def _reclaim(tx: Session, actor: Actor, host_id: UUID, why: str) -> None:
    fleet.end_checks(tx, actor, host_id, reason=why)
    host = fleet.lock(tx, host_id)
    fleet.refuse_held(tx, host)
    held = sa.select(col(Hold.id)).where(col(Hold.host_id) == host_id, col(Hold.ended_at).is_(None))
    if tx.execute(held.limit(1)).first() is not None:
        raise Changed(f"A GPU of {host.name} is held.")
    if host.state is State.ALLOCATED:
        fleet.fire(tx, actor, host_id, Event.RELEASE, reason=why)
    else:
        fleet.request(tx, actor, host_id, Event.RECLAIM, fleet.RECLAIM, reason=why)
