"""Held but idle: allocations whose GPUs did next to nothing over the whole window."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.lifecycle import State
from api.allocations.models import Allocation, Hold
from api.fleet.models import Gpu
from api.monitoring.models import Action, Kind, Policy, Seen, Sighting
from api.monitoring.utilisation import Measured
from api.settings import Settings

IDLE, BUSY, UNKNOWN = "idle", "busy", "unknown"
SHOWN = 64  # GPUs in a finding's evidence
TOO_YOUNG = "It is held for less than the window."


@dataclass(frozen=True, slots=True)
class HeldGpu:
    gpu_id: UUID
    uuid: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """An active allocation and what it holds."""

    allocation_id: UUID
    workspace_id: UUID
    requested_by: str
    gpus: list[HeldGpu] = field(default_factory=list)


def held(tx: Session) -> list[Held]:
    statement = (
        sa.select(
            col(Allocation.id),
            col(Allocation.workspace_id),
            col(Allocation.requested_by),
            col(Hold.gpu_id),
            col(Gpu.uuid),
            col(Hold.started_at),
        )
        .join(Hold, col(Hold.allocation_id) == col(Allocation.id))
        .join(Gpu, col(Gpu.id) == col(Hold.gpu_id))
        .where(col(Allocation.state) == State.ACTIVE, col(Hold.ended_at).is_(None))
        .order_by(col(Allocation.id), col(Gpu.index))
    )
    found: dict[UUID, Held] = {}
    for row in tx.execute(statement):
        one = found.setdefault(row.id, Held(row.id, row.workspace_id, row.requested_by))
        one.gpus.append(HeldGpu(row.gpu_id, row.uuid, row.started_at))
    return list(found.values())


def still_held(tx: Session, allocation_id: UUID, gpus: frozenset[UUID]) -> bool:
    """Whether the allocation holds just these GPUs."""
    own = (col(Hold.allocation_id) == allocation_id, col(Hold.ended_at).is_(None))
    return frozenset(tx.execute(sa.select(col(Hold.gpu_id)).where(*own)).scalars()) == gpus


def measurable(held: list[Held], window: int, now: datetime) -> list[str]:
    """UUIDs of the GPUs that were held for the whole window: what they did is their holder's doing."""
    began = now - timedelta(seconds=window)
    return [gpu.uuid for one in held for gpu in one.gpus if gpu.since <= began]


def judge(held: list[Held], measured: Measured, settings: Settings) -> Seen:
    seen = Seen()
    for one in held:
        _judge(seen, one, measured, settings)
    return seen


def _judge(seen: Seen, one: Held, measured: Measured, settings: Settings) -> None:
    told = [_told(gpu.uuid, measured, settings) for gpu in one.gpus]
    by_state = {state: [gpu for gpu in told if gpu["state"] == state] for state in (IDLE, BUSY, UNKNOWN)}
    about = (Kind.IDLE_GPU, one.allocation_id)
    if by_state[IDLE]:
        seen.sightings.append(_sighting(one, by_state, measured, settings))
    elif by_state[BUSY]:
        most = max(gpu["most_percent"] for gpu in by_state[BUSY])
        seen.gone[about] = f"It is in use: {most:g} % at most in the last {measured.window} seconds."
    elif any(gpu["why"] != TOO_YOUNG for gpu in by_state[UNKNOWN]):
        seen.unknown[about] = next(gpu["why"] for gpu in by_state[UNKNOWN] if gpu["why"] != TOO_YOUNG)


def _told(uuid: str, measured: Measured, settings: Settings) -> dict[str, Any]:
    reading = measured.readings.get(uuid)
    if reading is None:
        return {"uuid": uuid, "state": UNKNOWN, "why": measured.unknown.get(uuid, TOO_YOUNG)}
    return {
        "uuid": uuid,
        "state": IDLE if reading.most < settings.leak_idle_percent else BUSY,
        "most_percent": round(reading.most, 2),
        "memory_most_mib": reading.memory_most,
        "samples": reading.samples,
    }


def _sighting(
    one: Held, by_state: dict[str, list[dict[str, Any]]], measured: Measured, settings: Settings
) -> Sighting:
    idle, all_of_it = by_state[IDLE], len(by_state[IDLE]) == len(one.gpus)
    most = max(gpu["most_percent"] for gpu in idle)
    counts = {state: len(gpus) for state, gpus in by_state.items()}
    return Sighting(
        kind=Kind.IDLE_GPU,
        subject_id=one.allocation_id,
        subject=f"allocation {one.allocation_id}",
        detail=f"{len(idle)} of {len(one.gpus)} GPUs did nothing in the last {measured.window} seconds: "
        f"{most:g} % at most, where less than {settings.leak_idle_percent:g} % is idle.",
        evidence=measured.evidence()
        | {"threshold_percent": settings.leak_idle_percent, "gpus": counts}
        | {"readings": [gpu for gpus in by_state.values() for gpu in gpus][:SHOWN]},
        action=Action.RELEASE_ALLOCATION if all_of_it else Action.LOOK,
        policy=Policy(settings.leak_policy_idle) if all_of_it else Policy.NOTIFY,
        owner=one.requested_by,
        allocation_id=one.allocation_id,
        workspace_id=one.workspace_id,
        gpus=frozenset(gpu.gpu_id for gpu in one.gpus),
        whole=not by_state[UNKNOWN] or bool(by_state[BUSY]),
    )
