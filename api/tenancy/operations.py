"""Background work of tenancy: bring the cluster of a Pulumi stack in line with the ledger."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from api.core.access import Actor
from api.core.db import Database
from api.core.operations import syncs, workers
from api.core.operations.execution import Handler, Outcome, Reporter
from api.core.operations.lifecycle import Event
from api.core.operations.models import Operation
from api.settings import ROOT, Settings
from api.tenancy import queries, runner, service


@dataclass(frozen=True, slots=True)
class TenancyHandler:
    """Reads the ledger in one moment, then lets Pulumi make the cluster so."""

    settings: Settings
    database: Database

    def prepare(self, tx: Session, operation: Operation) -> runner.Job:
        settings = self.settings
        stack = operation.subject
        named = settings.tenancy_config
        return runner.Job(
            stack=stack,
            backend=settings.tenancy_backend or _own_backend(settings),
            passphrase=settings.tenancy_key,
            config=named or str(ROOT / "stacks" / "tenancy" / f"Pulumi.{stack}.yaml"),
            config_required=bool(named),
            kubeconfig=settings.tenancy_kubeconfig,
            registry_password=settings.tenancy_registry_password.get_secret_value(),
            refresh=bool(operation.arguments.get("refresh")),
            again=operation.attempt > 1,
            dead_machines=sorted(workers.dead_machines(tx) - {platform.node()}),
        )

    def act(self, work: runner.Job, reporter: Reporter) -> Outcome:
        if work.stack != self.settings.tenancy_stack:
            return Outcome(Event.FAIL, f"This worker's IRONYARD_TENANCY_STACK is not {work.stack}.")
        reporter.step("read", 2)
        with self.database.snapshot() as tx:
            queries.freeze(tx)
            snapshot = queries.tenancy(tx)
        return runner.run(
            work, snapshot.model_dump(mode="json"), reporter, timeout=self.settings.tenancy_timeout
        )

    def apply(self, tx: Session, actor: Actor, operation: Operation, outcome: Outcome) -> None:  # noqa: ARG002
        syncs.follow_up(tx, actor, operation)


def _own_backend(settings: Settings) -> str:
    folder = settings.data_dir.resolve() / "pulumi"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.as_uri()


def handlers(settings: Settings, database: Database) -> dict[str, Handler]:
    made: dict[str, Any] = {service.KIND: TenancyHandler(settings, database)}
    return made
