"""Background work of the fleet: each kind of operation runs one playbook against one host."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import clock
from api.core.access import Actor, system
from api.core.crypto import SecretBox
from api.core.errors import Problem
from api.core.operations import service as operations
from api.core.operations.execution import Handler, Outcome, Reporter
from api.core.operations.lifecycle import Event, State
from api.core.operations.models import Operation
from api.fleet import health, playbooks, proofs, reimage, runner, service
from api.fleet.lifecycle import State as HostState
from api.fleet.models import Host, ReclaimPolicy
from api.settings import Settings

log = logging.getLogger("ironyard.health")
BY_HAND = "ansible-playbook:"
GIVE_WAY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PlaybookHandler:
    """Runs a playbook and moves its host by what came of it."""

    playbook: playbooks.Playbook
    settings: Settings
    box: SecretBox

    def prepare(self, tx: Session, operation: Operation) -> runner.Target:
        host = service.get(tx, operation.subject_id)
        anew = bool(operation.arguments.get("trust_new_host_key"))
        return runner.Target(
            operation_id=operation.id,
            host_id=host.id,
            name=host.name,
            address=host.address,
            port=host.port,
            user=host.ssh_user,
            key=self.box.open(host.sealed_key) if host.sealed_key else None,
            key_file=host.key_reference,
            host_keys=[] if anew else playbooks.known_keys(host, operation),
            variables=play_variables(host, None if anew else proofs.manifest_of(tx, host.id))
            | health.variables(tx, host, operation),
            index=None if anew else proofs.index_of(tx, host.id),
        )

    def act(self, work: runner.Target, reporter: Reporter) -> Outcome:
        settings = self.settings
        timeouts = {service.RECLAIM: settings.reclaim_timeout, service.HEALTH: settings.health_timeout}
        timeout = timeouts.get(self.playbook.kind, settings.enroll_timeout)
        return self._outcome(self._play(self.playbook, work, reporter, timeout), reporter)

    def _play(
        self, playbook: playbooks.Playbook, work: runner.Target, reporter: Reporter, timeout: int
    ) -> playbooks.Run:
        return runner.run(
            playbook,
            work,
            reporter,
            playbooks=self.settings.playbooks_dir.resolve(),
            timeout=timeout,
            ssh_timeout=self.settings.ssh_timeout,
        )

    def _outcome(self, run: playbooks.Run, reporter: Reporter) -> Outcome:
        interrupted = reporter.stopping.is_set() and not reporter.cancelled.is_set()
        return Outcome(
            run.event,
            run.reason,
            playbooks.outcome_document(run),
            interrupted=interrupted or reporter.lost.is_set(),
            carried=run,
        )

    def apply(self, tx: Session, actor: Actor, operation: Operation, outcome: Outcome) -> None:
        run = outcome.carried or playbooks.Run(outcome.event)
        run = replace(run, event=outcome.event, reason=outcome.reason)
        playbooks.conclude(tx, actor, operation, run)


@dataclass(frozen=True, slots=True)
class ReclaimHandler(PlaybookHandler):
    """Cleans a host, or has it installed anew where that is its policy."""

    def prepare(self, tx: Session, operation: Operation) -> runner.Target | reimage.Work:  # type: ignore[override]
        target = PlaybookHandler.prepare(self, tx, operation)
        host = service.get(tx, operation.subject_id)
        if host.reclaim_policy is not ReclaimPolicy.REIMAGE:
            return target
        forgotten = target.variables | {"ironyard_manifest": None}
        return reimage.Work(
            replace(target, host_keys=[], index=None, variables=forgotten),
            self.settings.reimage_command,
            self.settings.reimage_timeout,
            self.settings.ssh_timeout,
            target.host_keys,
            service.gpu_uuids(tx, host.id),
        )

    def act(self, work: runner.Target | reimage.Work, reporter: Reporter) -> Outcome:
        if isinstance(work, runner.Target):
            return PlaybookHandler.act(self, work, reporter)

        def play(playbook: playbooks.Playbook, target: runner.Target) -> playbooks.Run:
            return self._play(playbook, target, reporter, self.settings.enroll_timeout)

        return self._outcome(reimage.run(work, reporter, play), reporter)


@dataclass(frozen=True, slots=True)
class HealthHandler(PlaybookHandler):
    """A check that runs tests ends itself when somebody begins to use the host."""

    def act(self, work: runner.Target, reporter: Reporter) -> Outcome:
        if work.variables["health_level"] == 0:
            return PlaybookHandler.act(self, work, reporter)
        done = threading.Event()
        watch = threading.Thread(target=_give_way, args=(work.host_id, reporter, done), daemon=True)
        watch.start()
        try:
            return PlaybookHandler.act(self, work, reporter)
        finally:
            done.set()
            watch.join()


def _give_way(host_id: UUID, reporter: Reporter, done: threading.Event) -> None:
    while not done.wait(GIVE_WAY_SECONDS):
        try:
            with reporter.database.snapshot() as tx:
                lent = service.get(tx, host_id).state is HostState.ALLOCATED
        except SQLAlchemyError:
            log.exception("whether %s is lent cannot be read; trying again", host_id)
            continue
        if lent:
            reporter.cancelled.set()
            return


def play_variables(host: Host, manifest: dict[str, Any] | None) -> dict[str, object]:
    """The host variables of the plays; the inventory plugin gives the same ones by hand."""
    return {
        "ironyard_host_id": str(host.id),
        "ironyard_host_name": host.name,
        "ironyard_state": str(host.state),
        "ironyard_region": host.region,
        "ironyard_labels": host.labels,
        "ironyard_manifest": manifest,
    }


def handlers(settings: Settings) -> dict[str, Handler]:
    box = SecretBox(settings.encryption_key)
    special: dict[str, type[PlaybookHandler]] = {
        service.HEALTH: HealthHandler,
        service.RECLAIM: ReclaimHandler,
    }
    return {
        playbook.kind: special.get(playbook.kind, PlaybookHandler)(playbook, settings, box)
        for playbook in playbooks.PLAYBOOKS.values()
    }


def fail_silent_runs(tx: Session, *, silence: float) -> int:
    """End runs by hand whose `ansible-playbook` has not been heard of for `silence` seconds."""
    silent = tx.execute(
        sa.select(Operation)
        .where(
            col(Operation.state) == State.RUNNING,
            col(Operation.worker).startswith(BY_HAND),
            col(Operation.heartbeat_at) < clock.now() - timedelta(seconds=silence),
        )
        .with_for_update(skip_locked=True)
    ).scalars()
    count = 0
    for operation in silent:
        finish_by_hand(
            tx,
            system(),
            operation,
            playbooks.Run(Event.FAIL, f"ansible-playbook was not heard of for {silence:.0f} seconds."),
        )
        count += 1
    return count


def finish_by_hand(tx: Session, actor: Actor, operation: Operation, run: playbooks.Run) -> None:
    """End a run by hand the way the worker ends its own: what cannot be applied is a failure."""
    try:
        with tx.begin_nested():
            _finish(tx, actor, operation, run)
    except Problem as problem:
        tx.refresh(operation)
        _finish(tx, actor, operation, replace(run, event=Event.FAIL, reason=problem.detail))


def _finish(tx: Session, actor: Actor, operation: Operation, run: playbooks.Run) -> None:
    document = playbooks.outcome_document(run)
    operations.finish(tx, actor, operation, run.event, reason=run.reason, outcome=document)
    tx.flush()
    playbooks.conclude(tx, actor, operation, run)
