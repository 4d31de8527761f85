"""The playbooks by which hosts change, and what a run of one does to a host.

A run by the worker and a run by hand (reported by the callback plugin) both end in `conclude`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import clock
from api.core.access import Actor
from api.core.errors import Conflict, Invalid
from api.core.operations import service as operations
from api.core.operations import syncs
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.models import Operation
from api.fleet import draining, health, proofs, service
from api.fleet.lifecycle import TRANSITIONS, Event
from api.fleet.models import Gpu, Host, ReclaimPolicy
from api.fleet.reports import GpuFacts, HostFacts, PlayReport

INSTALLING = (
    "repositories",
    "account",
    "docker",
    "driver",
    "fabric_manager",
    "toolkit",
    "dcgm",
    "dcgm_exporter",
    "node_exporter",
)


@dataclass(frozen=True, slots=True)
class Playbook:
    """`begins`, `ends`: the host's events at the start and on success; None leaves its state alone."""

    name: str
    kind: str
    begins: Event | None
    ends: Event | None
    steps: tuple[str, ...]

    def progress(self, step: str) -> int:
        """Percent done when `step` begins."""
        return 100 * self.steps.index(step) // len(self.steps) if step in self.steps else 0


PLAYBOOKS = {
    playbook.name: playbook
    for playbook in (
        Playbook(
            "enroll",
            service.ENROLL,
            Event.ENROLL,
            Event.ENROLLED,
            ("preflight", *INSTALLING, "discover", "harden", "manifest", "health", "report"),
        ),
        Playbook("verify", service.VERIFY, Event.CHECK, Event.VERIFIED, ("preflight", "verify", "report")),
        Playbook(
            "reclaim",
            service.RECLAIM,
            Event.RECLAIM,
            Event.VERIFIED,
            ("fence", "kill", "wipe", "identity", "gpu", "verify", "report"),
        ),
        Playbook("health", service.HEALTH, None, None, ("preflight", "health", "report")),
        Playbook("retire", service.RETIRE, Event.RETIRE, None, ("fence", "unmanage", "report")),
    )
}
BY_KIND = {playbook.kind: playbook for playbook in PLAYBOOKS.values()}


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a playbook on one host."""

    event: OperationEvent
    reason: str | None = None
    step: str | None = None
    report: PlayReport | None = None
    stats: dict[str, int] = field(default_factory=dict)
    host_keys: list[str] = field(default_factory=list)
    method: str = proofs.CLEANED


def begin(
    tx: Session, actor: Actor, playbook: Playbook, host_ids: list[UUID], controller: str
) -> list[Operation]:
    """Start runs by hand, all hosts or none. Each host moves as it would for a run by the worker."""
    return [_begin_one(tx, actor, playbook, host_id, controller) for host_id in sorted(set(host_ids))]


def _begin_one(tx: Session, actor: Actor, playbook: Playbook, host_id: UUID, controller: str) -> Operation:
    service.end_checks(tx, actor, host_id, reason=f"ansible-playbook by {controller}")
    host = service.lock(tx, host_id)
    service.refuse_held(tx, host)
    if playbook.kind == service.RECLAIM and host.reclaim_policy is ReclaimPolicy.REIMAGE:
        raise Conflict(f"{host.name} is to be reimaged, which only a worker does: `ironyard host reclaim`.")
    if playbook.begins is not None:
        host = service.fire(tx, actor, host_id, playbook.begins, reason=f"ansible-playbook by {controller}")
    operation = operations.create(
        tx, actor, playbook.kind, subject_id=host.id, subject=host.name, arguments={"controller": controller}
    )
    operations.claim(tx, operation.id, f"ansible-playbook:{controller}")
    return operation


def conclude(tx: Session, actor: Actor, operation: Operation, run: Run) -> None:
    """Write what a finished run means for its host.

    Raises Invalid or Conflict when what it reports cannot be right.
    """
    if operation.kind == service.HEALTH:
        health.conclude(tx, actor, operation, run)
    elif run.event is OperationEvent.SUCCEED:
        _succeed(tx, actor, operation, run)
    else:
        _fail(tx, actor, operation, run)
    if operation.kind == service.RECLAIM:
        tx.flush()
        host = service.get(tx, operation.subject_id)
        proofs.write_record(tx, host, operation, run.report, method=run.method)


def _succeed(tx: Session, actor: Actor, operation: Operation, run: Run) -> None:
    playbook = BY_KIND[operation.kind]
    host = service.lock(tx, operation.subject_id)
    report = run.report
    if report is None or not report.ok:
        raise Invalid("The playbook ended well but handed over no report, so nothing is proven.")
    anew = run.method == proofs.REIMAGED
    expected = "verify" if anew else playbook.name
    if report.playbook != expected:
        raise Invalid(f"This is the report of {report.playbook}, not of {expected}.")
    host.host_keys = report.host_keys or run.host_keys or host.host_keys
    if playbook.name == "enroll" or anew:
        _absorb(tx, host, report)
        syncs.changed(tx, actor)
    tx.flush()
    _absorb_health(tx, operation, playbook, report)
    if playbook.ends is not None:
        service.fire(tx, actor, host.id, playbook.ends)
        draining.settle(tx, actor, host.id)


def _absorb_health(tx: Session, operation: Operation, playbook: Playbook, report: PlayReport) -> None:
    """What makes a host lendable has to say that its GPUs are well; enroll may leave that to what follows."""
    if playbook.ends is not Event.VERIFIED and report.health is None:
        return
    faults = health.absorb(tx, operation, report.health)
    if faults:
        told = "; ".join(str(one) for one in faults[:5])
        raise Invalid(f"The playbook ended well although the host's health is not: {told}.")


def _fail(tx: Session, actor: Actor, operation: Operation, run: Run) -> None:
    host = service.lock(tx, operation.subject_id)
    if run.report is not None and run.report.host_keys:
        host.host_keys = run.report.host_keys
    else:
        host.host_keys = known_keys(host, operation) or run.host_keys
    tx.flush()
    if run.report is not None and run.report.health is not None:
        with suppress(Invalid):
            health.absorb(tx, operation, run.report.health)
    if (host.state, Event.FAILED) in TRANSITIONS:
        step = run.step or operation.step or "start"
        service.fire(tx, actor, host.id, Event.FAILED, reason=run.reason, step=step)


def _absorb(tx: Session, host: Host, report: PlayReport) -> None:
    try:
        facts = HostFacts.model_validate(report.facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise Invalid(f"The facts of {host.name} cannot be right: {where}: {first['msg']}.") from error
    if report.manifest is None:
        raise Invalid(f"Enroll of {host.name} recorded no manifest, so it could never be proven clean.")
    host.facts = report.facts
    proofs.keep_manifest(tx, host, report.manifest, report.index)
    _absorb_gpus(tx, host, facts.gpus)


def _absorb_gpus(tx: Session, host: Host, found: list[GpuFacts]) -> None:
    wanted = {facts.uuid: facts for facts in found}
    if len(wanted) != len(found):
        raise Invalid(f"{host.name} reports the same GPU UUID twice.")
    rows = tx.execute(
        sa.select(Gpu).where(col(Gpu.uuid).in_(wanted), col(Gpu.removed_at).is_(None))
    ).scalars()
    elsewhere = next((row for row in rows if row.host_id != host.id), None)
    if elsewhere is not None:
        raise Conflict(
            f"GPU {elsewhere.uuid} belongs to another host already.", host_id=str(elsewhere.host_id)
        )
    present = tx.execute(sa.select(Gpu).where(col(Gpu.host_id) == host.id, col(Gpu.removed_at).is_(None)))
    now = clock.now()
    for gpu in present.scalars():
        facts = wanted.pop(gpu.uuid, None)
        if facts is None:
            gpu.removed_at, gpu.schedulable = now, False
        else:
            gpu.sqlmodel_update(facts.model_dump(), update={"region": host.region})
    for facts in wanted.values():
        tx.add(
            Gpu(host_id=host.id, region=host.region, enrolled_at=now, free_since=now, **facts.model_dump())
        )


def known_keys(host: Host, operation: Operation) -> list[str]:
    """The host's keys, and those that a run cut short had announced and may have put in their place."""
    announced: list[str] = operation.arguments.get("announced_host_keys", [])
    return list(dict.fromkeys([*host.host_keys, *announced]))


def outcome_document(run: Run) -> dict[str, Any]:
    """What the operation keeps of a run: the report without what the host itself keeps."""
    kept = run.report.model_dump(exclude={"facts", "manifest", "index", "health"}) if run.report else None
    if kept is not None:
        kept["steps"] = [
            {name: told for name, told in step.items() if name != "paths"} for step in kept["steps"]
        ]
    return {"stats": run.stats, "report": kept}
