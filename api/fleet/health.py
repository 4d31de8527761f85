"""Use cases of health: take in what a check says, decide who may be lent, ask for checks, call them off."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock
from api.core.access import Actor
from api.core.errors import Invalid, WrongState
from api.core.operations import service as operations
from api.core.operations.lifecycle import OPEN
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.models import Operation
from api.core.pagination import Paging, fetch
from api.fleet import service
from api.fleet.health_models import (
    FAILING,
    Action,
    CheckResult,
    HealthCheck,
    HealthCheckRead,
    HealthReport,
    InventoryHealth,
    Verdict,
    worst,
)
from api.fleet.lifecycle import LENDABLE, Event, State
from api.fleet.models import Gpu, Health, Host, HostPeriod

if TYPE_CHECKING:
    from api.fleet.playbooks import Run
    from api.settings import Settings

STEP = "health"
LEVEL = 1  # of checks on the schedule
RETRY = 300  # seconds until a check that could not run is tried again
HEALTH = {Verdict.CRITICAL: Health.FAILED, Verdict.UNKNOWN: Health.UNKNOWN}
LAST = sa.func.coalesce(col(Host.health_checked_at), col(Host.state_since))


def absorb(tx: Session, operation: Operation, document: dict[str, Any] | None) -> list[CheckResult]:
    """Keep what a check of the operation's host said, GPU by GPU; what keeps the whole host from being lent.

    Raises Invalid when the document is none: without verdicts nothing is known, and that is no pass.
    """
    report = _read(document)
    host = service.lock(tx, operation.subject_id)
    own = sa.select(Gpu).where(col(Gpu.host_id) == host.id, col(Gpu.removed_at).is_(None))
    gpus = list(tx.execute(own).scalars())
    now = clock.now()
    for gpu in gpus:
        _absorb_gpu(gpu, [one for one in report.checks if one.scope == gpu.uuid], report.level, now)
    faults = host_faults(report.checks, {gpu.uuid for gpu in gpus})
    host.health_verdict, host.health_current = report.verdict, not faults
    host.health_checked_at = host.health_tried_at = now
    host.gpus_reset_at = max(filter(None, (host.gpus_reset_at, report.reset_at)), default=None)
    _remember(tx, operation, report, now)
    tx.flush()
    return faults


def _read(document: dict[str, Any] | None) -> HealthReport:
    try:
        return HealthReport.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        what = (
            "No verdicts on the GPUs' health were handed over"
            if document is None
            else f"{where}: {first['msg']}"
        )
        raise Invalid(f"The health report cannot be used: {what}.") from error


def _absorb_gpu(gpu: Gpu, checks: list[CheckResult], level: int, now: datetime) -> None:
    """A GPU that a thorough check found sick is not well because a slighter one found nothing."""
    verdict = worst(checks)
    was_sick = gpu.health is not Health.OK and gpu.health_level is not None
    if was_sick and verdict not in FAILING and level < (gpu.health_level or 0):
        return
    told = [one for one in checks if one.verdict is verdict]
    gpu.health, gpu.health_verdict = HEALTH.get(verdict, Health.OK), verdict
    gpu.health_action = next((one.action for one in told), Action.NONE)
    gpu.health_reasons = [f"{one.name}: {one.detail}" for one in checks if one.fails]
    if not checks:
        gpu.health_reasons = [f"{STEP}: {_unmentioned(gpu.uuid).detail}"]
    before = gpu.health_level or 0 if was_sick else 0
    gpu.health_level = max(level, before) if verdict in FAILING else None
    gpu.health_checked_at = now


def host_faults(checks: list[CheckResult], gpus: set[str]) -> list[CheckResult]:
    """What keeps the whole host from being lent.

    Faults of the host itself and of GPUs that it does not know; those of its GPUs where none of them is well.
    """
    failed = [one for one in checks if one.fails]
    silent = gpus - {one.scope for one in checks}
    if gpus and {one.scope for one in failed} | silent >= gpus:
        return failed + [_unmentioned(uuid) for uuid in sorted(silent)]
    return [one for one in failed if one.scope not in gpus]


def _unmentioned(uuid: str) -> CheckResult:
    return CheckResult(
        name=STEP,
        verdict=Verdict.UNKNOWN,
        scope=uuid,
        action=Action.NONE,
        detail="the check does not name it",
    )


def _remember(tx: Session, operation: Operation, report: HealthReport, now: datetime) -> None:
    loud = [one for one in report.checks if one.verdict is not Verdict.PASS]
    tx.add(
        HealthCheck(
            host_id=operation.subject_id,
            operation_id=operation.id,
            kind=operation.kind,
            level=report.level,
            verdict=report.verdict,
            passed=len(report.checks) - len(loud),
            checks=[one.model_dump(mode="json") for one in loud],
            at=now,
        )
    )


def conclude(tx: Session, actor: Actor, operation: Operation, run: Run) -> None:
    """What a check of its own means for its host; one that was called off means nothing.

    A fault of the host takes an idle one to maintenance. One that could not run leaves the host idle and
    unlent until one can.
    """
    if run.event is OperationEvent.CANCEL:
        return
    document = run.report.health if run.report else None
    if document is None and run.event is not OperationEvent.SUCCEED:
        _unchecked(tx, operation, run.reason or "no reason given")
        return
    faults = absorb(tx, operation, document)
    host = service.lock(tx, operation.subject_id)
    if faults and host.state is State.IDLE:
        reason = "; ".join(str(one) for one in faults[:5])
        service.fire(tx, actor, host.id, Event.MAINTAIN, reason=reason, step=STEP)
    else:
        service.reschedule(tx, host)


def _unchecked(tx: Session, operation: Operation, reason: str) -> None:
    host = service.lock(tx, operation.subject_id)
    host.health_verdict, host.health_current = Verdict.UNKNOWN, False
    host.health_tried_at = clock.now()
    tx.add(
        HealthCheck(
            host_id=host.id,
            operation_id=operation.id,
            kind=operation.kind,
            verdict=Verdict.UNKNOWN,
            reason=reason,
            at=host.health_tried_at,
        )
    )
    tx.flush()
    service.reschedule(tx, host)


def request(tx: Session, actor: Actor, host_id: UUID, level: int) -> Operation:
    """Start a check. One that lent GPUs would notice (any level but 0) needs a host that nobody holds."""
    host = service.lock(tx, host_id)
    if host.state not in {State.IDLE, State.ALLOCATED, State.MAINTENANCE}:
        raise WrongState(
            f"A host that is {host.state} cannot be checked; wait until it is idle.", state=host.state
        )
    if level > 0:
        service.refuse_held(tx, host)
    return service.start(tx, actor, host, service.HEALTH, level=level)


def variables(tx: Session, host: Host, operation: Operation) -> dict[str, object]:
    """What the plays that check health need to know; the inventory plugin gives the same by hand."""
    known = known_of(tx, [host])[host.id]
    told: dict[str, object] = {
        "ironyard_health_since": known.since,
        "ironyard_gpus_reset_at": known.gpus_reset_at,
        "ironyard_gpus_held": known.gpus_held,
    }
    if operation.kind == service.HEALTH:
        told["health_level"] = operation.arguments.get("level", LEVEL)
    return told


def known_of(tx: Session, hosts: Sequence[Host]) -> dict[UUID, InventoryHealth]:
    """When each host was lent last, when its GPUs were reset, and which of them are held now."""
    ids = [host.id for host in hosts]
    lent = (
        sa.select(col(HostPeriod.host_id), sa.func.max(col(HostPeriod.started_at)).label("began"))
        .where(col(HostPeriod.host_id).in_(ids), col(HostPeriod.state) == State.ALLOCATED)
        .group_by(col(HostPeriod.host_id))
    )
    began = {row.host_id: row.began for row in tx.execute(lent)}
    held: dict[UUID, list[str]] = {host_id: [] for host_id in ids}
    of_tenants = sa.select(col(Gpu.host_id), col(Gpu.uuid)).where(
        col(Gpu.host_id).in_(ids), col(Gpu.held_by).is_not(None)
    )
    for row in tx.execute(of_tenants.order_by(col(Gpu.index))):
        held[row.host_id].append(row.uuid)
    return {
        host.id: InventoryHealth(
            since=began.get(host.id, host.created_at).timestamp(),
            gpus_reset_at=host.gpus_reset_at,
            gpus_held=held[host.id],
        )
        for host in hosts
    }


def due(tx: Session, settings: Settings) -> list[UUID]:
    """Idle hosts whose health was not looked at for the interval, no more than may be checked at once."""
    if settings.health_interval <= 0:
        return []
    running = sa.select(sa.func.count()).where(
        col(Operation.kind) == service.HEALTH, col(Operation.state).in_(OPEN)
    )
    room = settings.health_at_once - tx.execute(running).scalar_one()
    now = clock.now()
    tried = sa.func.coalesce(col(Host.health_tried_at), col(Host.state_since))
    again = timedelta(seconds=min(RETRY, settings.health_interval))
    busy = sa.select(col(Operation.subject_id)).where(col(Operation.state).in_(OPEN))
    statement = sa.select(col(Host.id)).where(
        col(Host.state) == State.IDLE,
        sa.or_(
            tried < now - timedelta(seconds=settings.health_interval),
            sa.and_(col(Host.health_current).is_(False), tried < now - again),
        ),
        col(Host.id).not_in(busy),
    )
    return list(tx.execute(statement.order_by(tried).limit(max(0, room))).scalars())


def check_if_idle(tx: Session, actor: Actor, host_id: UUID) -> bool:
    """Start a check that was due a moment ago, if it may still be made."""
    if service.lock(tx, host_id).state is not State.IDLE:
        return False
    try:
        request(tx, actor, host_id, LEVEL)
    except operations.OperationOpen:  # somebody was faster
        return False
    return True


def stale(tx: Session, settings: Settings) -> list[UUID]:
    """Hosts that are lent although their last check is older than allowed."""
    if settings.health_max_age <= 0:
        return []
    limit = clock.now() - timedelta(seconds=settings.health_max_age)
    statement = sa.select(col(Host.id)).where(
        col(Host.state).in_(LENDABLE), col(Host.health_current), limit > LAST
    )
    return list(tx.execute(statement.order_by(col(Host.id))).scalars())


def set_aside(tx: Session, actor: Actor, host_id: UUID, settings: Settings) -> None:
    """Lend nothing more of a host whose check is still too old, until the next; what is held stays held."""
    host = service.lock(tx, host_id)
    if host_id not in stale(tx, settings):
        return
    host.health_current = False
    tx.flush()
    service.reschedule(tx, host)
    audit.record(tx, actor, "host.health_stale", host.id, reason="Its last health check is too old.")


def history(tx: Session, pages: Paging, host_id: UUID) -> tuple[list[HealthCheckRead], str | None]:
    """The checks of a host, newest first."""
    service.get(tx, host_id)
    statement = sa.select(HealthCheck).where(col(HealthCheck.host_id) == host_id)
    rows, following = fetch(tx, statement, col(HealthCheck.id), pages, newest_first=True)
    return [HealthCheckRead.model_validate(row) for row in rows], following
