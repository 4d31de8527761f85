"""What runs or lies where nobody holds anything: by what SSH checks found, and by what DCGM measured.

A host that somebody holds whole is its holder's: whatever is on it is explained. On one that is held in part
the GPUs that nobody holds are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.operations.lifecycle import OPEN
from api.core.operations.lifecycle import State as OperationState
from api.core.operations.models import Operation
from api.fleet import service as fleet
from api.fleet.health_models import HealthCheck, Verdict
from api.fleet.lifecycle import LENDABLE, State
from api.fleet.models import Gpu, Host
from api.monitoring.models import Action, Kind, Policy, Seen, Sighting
from api.monitoring.stuck import AT_WORK
from api.monitoring.utilisation import Measured, Reading
from api.settings import Settings

WINDOW = 900  # seconds; less where the window of idle GPUs is
PROOFS = (fleet.VERIFY, fleet.RECLAIM)
STRANGERS = ("gpu-processes", "gpu-memory")  # health checks that find somebody, not something broken
OF_HEALTH = re.compile(rf"(CRITICAL|UNKNOWN) (?!{'|'.join(STRANGERS)} )\S+ of ")
NOT_CHECKED = " could not be checked"
SHOWN = 50  # lines in a finding's evidence


@dataclass(frozen=True, slots=True)
class FreeGpu:
    """One that nobody holds. `why_not`: why what it does now tells nothing."""

    gpu_id: UUID
    uuid: str
    host_id: UUID
    host: str
    host_idle: bool
    why_not: str | None


def window(settings: Settings) -> int:
    return min(WINDOW, settings.leak_window)


def free(tx: Session, settings: Settings, now: datetime) -> list[FreeGpu]:
    """The GPUs that nobody holds, of hosts that are not retired."""
    began = now - timedelta(seconds=window(settings))
    ours = sa.select(col(Operation.subject_id)).where(
        sa.or_(col(Operation.state).in_(OPEN), col(Operation.ended_at) > began)
    )
    busy = set(tx.execute(ours).scalars())
    own = (col(Gpu.id), col(Gpu.uuid), col(Gpu.host_id), col(Gpu.free_since), col(Host.name), col(Host.state))
    statement = (
        sa.select(*own)
        .join(Host, col(Host.id) == col(Gpu.host_id))
        .where(col(Gpu.held_by).is_(None), col(Gpu.removed_at).is_(None), col(Host.state) != State.RETIRED)
        .order_by(col(Gpu.id))
    )
    return [
        FreeGpu(
            row.id,
            row.uuid,
            row.host_id,
            row.name,
            row.state is State.IDLE,
            _why_not(row, began, at_work=row.host_id in busy),
        )
        for row in tx.execute(statement)
    ]


def _why_not(row: Any, began: datetime, *, at_work: bool) -> str | None:
    if row.state not in LENDABLE:
        return f"Its host is {row.state}."
    if at_work:
        return "The platform itself was at work on its host in the window."
    if row.free_since > began:
        return "It was held in the window."
    return None


def measurable(gpus: Iterable[FreeGpu]) -> list[str]:
    return [gpu.uuid for gpu in gpus if gpu.why_not is None]


def judge(gpus: Iterable[FreeGpu], measured: Measured, settings: Settings) -> Seen:
    seen = Seen()
    for gpu in gpus:
        about = (Kind.UNEXPLAINED, gpu.gpu_id)
        reading = measured.readings.get(gpu.uuid)
        if gpu.why_not is not None or reading is None:
            seen.unknown[about] = gpu.why_not or measured.unknown[gpu.uuid]
        elif _in_use(reading, settings):
            seen.sightings.append(_busy(gpu, reading, measured, settings))
        else:
            seen.gone[about] = f"The GPU was quiet for the last {measured.window} seconds."
    return seen


def _in_use(reading: Reading, settings: Settings) -> bool:
    return (
        reading.average >= settings.leak_idle_percent
        or (reading.memory_least or 0) >= settings.leak_memory_mib
    )


def _busy(gpu: FreeGpu, reading: Reading, measured: Measured, settings: Settings) -> Sighting:
    return Sighting(
        kind=Kind.UNEXPLAINED,
        subject_id=gpu.gpu_id,
        subject=f"{gpu.uuid} of {gpu.host}",
        detail=f"Nobody holds {gpu.uuid} of {gpu.host}, yet over the last {measured.window} seconds it did "
        f"{reading.average:.3g} % on average and had {reading.memory_least or 0:.0f} MiB in use throughout.",
        evidence=measured.evidence()
        | {
            "average_percent": round(reading.average, 2),
            "most_percent": round(reading.most, 2),
            "memory_least_mib": reading.memory_least,
            "samples": reading.samples,
            "threshold_percent": settings.leak_idle_percent,
            "threshold_mib": settings.leak_memory_mib,
        },
        host_id=gpu.host_id,
        **_by(settings, nobody_there=gpu.host_idle),
    )


def _by(settings: Settings, *, nobody_there: bool) -> dict[str, Any]:
    """Only a host that nobody holds can be reclaimed."""
    if not nobody_there:
        return {"action": Action.LOOK, "policy": Policy.NOTIFY}
    return {"action": Action.RECLAIM_HOST, "policy": Policy(settings.leak_policy_unexplained)}


def look(tx: Session, settings: Settings) -> Seen:
    """What the SSH checks of hosts found last: those that are out of service for it, and sick ones."""
    seen = Seen()
    statement = sa.select(Host).where(
        sa.or_(
            col(Host.state).in_((State.MAINTENANCE, *AT_WORK)),
            sa.and_(col(Host.state).in_(LENDABLE), col(Host.health_verdict) == Verdict.CRITICAL),
        )
    )
    for host in tx.execute(statement.order_by(col(Host.id))).scalars():
        _look_at(tx, seen, host, settings)
    return seen


def _look_at(tx: Session, seen: Seen, host: Host, settings: Settings) -> None:
    about = (Kind.UNEXPLAINED, host.id)
    if host.state in AT_WORK:
        seen.unknown[about] = f"The host is {host.state}."
        return
    operation, lines, unknown = _proof(tx, host) if host.state is State.MAINTENANCE else (None, [], None)
    strangers = _strangers(tx, host.id)
    found = [line for line in lines if NOT_CHECKED not in line and not OF_HEALTH.match(line)] + strangers
    if found:
        evidence = {"operation_id": str(operation.id) if operation else None, "number": len(found)}
        seen.sightings.append(_leftovers(host, found, evidence | {"found": found[:SHOWN]}, settings))
    elif unknown or lines:
        seen.unknown[about] = unknown or "The host could not be compared with its record."


def _proof(tx: Session, host: Host) -> tuple[Operation | None, list[str], str | None]:
    """The last comparison with the host's record: what it found, or why nothing is known of it."""
    statement = sa.select(Operation).where(
        col(Operation.subject_id) == host.id,
        col(Operation.kind).in_(PROOFS),
        col(Operation.state).not_in(OPEN),
    )
    last = tx.execute(statement.order_by(col(Operation.id).desc()).limit(1)).scalar_one_or_none()
    if last is None or last.state is OperationState.SUCCEEDED:
        return last, [], None
    report = (last.outcome or {}).get("report") or {}
    if not report.get("findings"):
        return last, [], f"The last {last.kind} of it could not tell."
    return last, [str(line) for line in report["findings"]], None


def _strangers(tx: Session, host_id: UUID) -> list[str]:
    """What the last health check that could run said of processes and memory on GPUs that nobody holds."""
    ran = (col(HealthCheck.host_id) == host_id, col(HealthCheck.level).is_not(None))
    statement = sa.select(HealthCheck).where(*ran).order_by(col(HealthCheck.id).desc()).limit(1)
    last = tx.execute(statement).scalar_one_or_none()
    checks = last.checks if last else []
    return [
        f"{one['name']} of {one['scope']}: {one['detail']}"
        for one in checks
        if one["name"] in STRANGERS and one["verdict"] == Verdict.CRITICAL
    ]


def _leftovers(host: Host, found: list[str], evidence: dict[str, Any], settings: Settings) -> Sighting:
    shown = "; ".join(found[:3])
    return Sighting(
        kind=Kind.UNEXPLAINED,
        subject_id=host.id,
        subject=host.name,
        detail=f"{len(found)} things on {host.name} are explained by no holder: {shown}"[:1000],
        evidence=evidence,
        host_id=host.id,
        **_by(settings, nobody_there=host.state is not State.ALLOCATED),
    )
