"""Where hosts, GPUs and holds contradict each other. The database forbids most of it; this looks anyway."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.lifecycle import State
from api.allocations.models import Allocation, Hold
from api.fleet.lifecycle import State as HostState
from api.fleet.models import Gpu, Host
from api.monitoring.models import Action, Kind, Policy, Seen, Sighting
from api.settings import Settings

OPEN_HOLD = col(Hold.ended_at).is_(None)
SHOWN = 64  # holds in a finding's evidence


def look(tx: Session, settings: Settings) -> Seen:
    policy = Policy(settings.leak_policy_host)
    return Seen([*_hosts(tx, policy), *_marked_gpus(tx, policy), *_holds(tx)])


def _hosts(tx: Session, policy: Policy) -> list[Sighting]:
    """Hosts that are allocated although nothing of them is held: nobody pays, and nobody may have them."""
    held = sa.exists().where(col(Hold.host_id) == col(Host.id), OPEN_HOLD)
    statement = sa.select(col(Host.id), col(Host.name), col(Host.state_since)).where(
        col(Host.state) == HostState.ALLOCATED, ~held
    )
    return [
        Sighting(
            kind=Kind.HOST_WITHOUT_HOLD,
            subject_id=row.id,
            subject=row.name,
            detail=f"{row.name} is allocated and no allocation holds any of its GPUs.",
            evidence={"state": HostState.ALLOCATED, "since": row.state_since.isoformat(), "open_holds": 0},
            action=Action.RECLAIM_HOST,
            policy=policy,
            host_id=row.id,
        )
        for row in tx.execute(statement.order_by(col(Host.id)))
    ]


def _marked_gpus(tx: Session, policy: Policy) -> list[Sighting]:
    """GPUs that are marked as held, without a hold."""
    held = sa.exists().where(col(Hold.gpu_id) == col(Gpu.id), OPEN_HOLD)
    statement = (
        sa.select(col(Gpu.id), col(Gpu.uuid), col(Gpu.host_id), col(Gpu.held_by), col(Host.name))
        .join(Host, col(Host.id) == col(Gpu.host_id))
        .where(col(Gpu.held_by).is_not(None), col(Gpu.removed_at).is_(None), ~held)
    )
    return [
        Sighting(
            kind=Kind.HOST_WITHOUT_HOLD,
            subject_id=row.id,
            subject=f"{row.uuid} of {row.name}",
            detail=f"{row.uuid} of {row.name} is marked as held by {row.held_by}, which has no hold of it.",
            evidence={"held_by": str(row.held_by), "open_holds": 0},
            action=Action.FREE_GPUS,
            policy=policy,
            host_id=row.host_id,
            allocation_id=row.held_by,
        )
        for row in tx.execute(statement.order_by(col(Gpu.id)))
    ]


def _holds(tx: Session) -> list[Sighting]:
    """Allocations that pay for what they cannot use, and holds whose allocation has ended."""
    wrong: dict[UUID, list[Any]] = defaultdict(list)
    for row in tx.execute(_contradictions()):
        wrong[row.id].append(row)
    empty = [_contradiction(row, []) for row in tx.execute(_empty())]
    return [_contradiction(rows[0], rows) for rows in wrong.values()] + empty


ALLOCATION = (
    col(Allocation.id),
    col(Allocation.state),
    col(Allocation.workspace_id),
    col(Allocation.requested_by),
)


def _contradictions() -> Any:
    same = sa.and_(col(Gpu.held_by) == col(Hold.allocation_id), col(Gpu.host_id) == col(Hold.host_id))
    sound = sa.and_(
        col(Allocation.state) == State.ACTIVE,
        sa.func.coalesce(same, sa.false()),
        col(Gpu.removed_at).is_(None),
        col(Host.state) == HostState.ALLOCATED,
    )
    return (
        sa.select(
            *ALLOCATION,
            col(Hold.host_id),
            *(col(Gpu.uuid), col(Gpu.held_by), col(Gpu.removed_at), col(Gpu.host_id).label("gpu_host_id")),
            *(col(Host.name), col(Host.state).label("host_state")),
        )
        .select_from(Hold)
        .join(Allocation, col(Allocation.id) == col(Hold.allocation_id))
        .join(Gpu, col(Gpu.id) == col(Hold.gpu_id))
        .join(Host, col(Host.id) == col(Hold.host_id))
        .where(OPEN_HOLD, ~sound)
        .order_by(col(Allocation.id), col(Hold.id))
    )


def _empty() -> Any:
    """Active allocations that hold nothing."""
    held = sa.exists().where(col(Hold.allocation_id) == col(Allocation.id), OPEN_HOLD)
    statement = sa.select(*ALLOCATION).where(col(Allocation.state) == State.ACTIVE, ~held)
    return statement.order_by(col(Allocation.id))


def _why(row: Any) -> str:
    if row.state is not State.ACTIVE:
        return f"its allocation is {row.state}"
    if row.removed_at is not None:
        return "the GPU has left the fleet"
    if row.gpu_host_id != row.host_id:
        return "the GPU is on another host now"
    if row.held_by != row.id:
        return f"the GPU is marked as held by {row.held_by or 'nobody'}"
    return f"the host is {row.host_state}"


def _contradiction(row: Any, wrong: list[Any]) -> Sighting:
    reasons = sorted({_why(one) for one in wrong}) or ["it is active and holds nothing"]
    what = f"{len(wrong)} holds of allocation {row.id}" if wrong else f"Allocation {row.id}"
    holds = [{"gpu": one.uuid, "host": one.name, "why": _why(one)} for one in wrong]
    return Sighting(
        kind=Kind.HOLD_WITHOUT_HOST,
        subject_id=row.id,
        subject=f"allocation {row.id}",
        detail=f"{what}: {'; '.join(reasons)}.",
        evidence={"state": row.state, "holds": holds[:SHOWN], "number": len(holds)},
        action=Action.RELEASE_ALLOCATION if row.state is State.ACTIVE else Action.LOOK,
        owner=row.requested_by,
        host_id=wrong[0].host_id if wrong else None,
        allocation_id=row.id,
        workspace_id=row.workspace_id,
    )
