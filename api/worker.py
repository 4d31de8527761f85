"""The background process: runs operations, ends what has expired, picks up after dead workers."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from uuid import UUID

from sqlalchemy.orm import Session

from api.allocations import timekeeping, turns
from api.core import idempotency
from api.core.access import system
from api.core.db import Database, make_engine
from api.core.operations import background, workers
from api.core.operations.execution import Executor
from api.core.operations.service import QUEUE
from api.core.operations.syncs import SYNCS
from api.core.proof import SIGNER, Signer
from api.fleet import groups, health, runner
from api.fleet import operations as fleet
from api.monitoring import looks
from api.monitoring import runner as leaks
from api.settings import Settings
from api.tenancy import operations as tenancy
from api.tenancy import service as tenancy_service

log = logging.getLogger("ironyard.worker")
PATIENCE = 15  # seconds for running operations to give themselves back
TIDY_INTERVAL = 60.0  # seconds
SECRETS = (
    "IRONYARD_TOKEN_SECRET",
    "IRONYARD_ENCRYPTION_SECRET",
    "IRONYARD_PROOF_SECRET",
    "IRONYARD_DATABASE_URL",
    "IRONYARD_TENANCY_PASSPHRASE",
    "IRONYARD_TENANCY_REGISTRY_PASSWORD",
)


class WorkerProcess:
    """One worker: its identity, its executor and its periodic duties."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        engine = make_engine(settings)
        self.database = Database(
            engine,
            **{
                QUEUE: background.DbosDispatcher(engine),
                SYNCS: tenancy_service.followers(settings),
                SIGNER: Signer(settings.proof_key),
            },
        )
        with self.database.transaction() as tx:
            self.id = workers.register(tx).id
        handlers = fleet.handlers(settings) | tenancy.handlers(settings, self.database)
        self.executor = Executor(self.database, handlers, self.id, attempts=settings.operation_attempts)
        self.stop = threading.Event()

    def run(self) -> None:
        background.launch(self.settings, self.id, self.executor.run)
        log.info("%s takes operations", self.id)
        duties = [
            threading.Thread(target=self._every, args=(seconds, duty), name=duty.__name__, daemon=True)
            for seconds, duty in (
                (self.settings.worker_heartbeat, self.beat),
                (self.settings.worker_heartbeat * 2, self.recover),
                (self.settings.expiry_interval, self.keep_time),
                (self.settings.queue_interval, self.serve_queue),
                (self.settings.group_interval, self.advance_groups),
                (self.settings.worker_timeout, self.end_silent_runs),
                (self.settings.expiry_interval, self.look_after_health),
                (self.settings.tenancy_retry, self.catch_up),
                (TIDY_INTERVAL, self.forget_keys),
                (self.settings.leak_interval, self.find_leaks),
                (self.settings.expiry_interval, self.look_at_hosts),
            )
            if seconds > 0
        ]
        for duty in duties:
            duty.start()
        self.stop.wait()
        self._shut_down()

    def _every(self, seconds: float, duty: Callable[[], None]) -> None:
        while True:
            began = time.monotonic()
            try:
                duty()
            except Exception:
                log.exception("%s failed; trying again", duty.__name__)
            if self.stop.wait(max(0.1, seconds - (time.monotonic() - began))):
                return

    def beat(self) -> None:
        self.database.run(lambda tx: workers.beat(tx, self.id))

    def recover(self) -> None:
        dead = self.database.run(
            lambda tx: workers.dead(tx, silence=self.settings.worker_timeout), reading=True
        )
        for worker_id in dead:
            if worker_id == self.id:
                continue
            number = background.take_over(worker_id)
            runner.sweep(worker_id)
            self.database.run(partial(workers.recovered, worker_id=worker_id, by=self.id))
            log.warning("%s is dead; %d operations of its start again", worker_id, number)

    def advance_groups(self) -> None:
        for group_id in self.database.run(groups.running, reading=True):
            self.database.run(partial(_advance_group, group_id=group_id))

    def keep_time(self) -> None:
        timekeeping.keep(self.database, system(), self.settings)

    def serve_queue(self) -> None:
        turns.serve(self.database, system(self.id), self.settings)

    def end_silent_runs(self) -> None:
        self.database.run(partial(fleet.fail_silent_runs, silence=self.settings.external_run_timeout))

    def look_after_health(self) -> None:
        actor, settings, run = system(self.id), self.settings, self.database.run
        for host_id in run(partial(health.stale, settings=settings), reading=True):
            run(partial(health.set_aside, actor=actor, host_id=host_id, settings=settings))
        for host_id in run(partial(health.due, settings=settings), reading=True):
            run(partial(health.check_if_idle, actor=actor, host_id=host_id))

    def catch_up(self) -> None:
        catch_up = tenancy_service.catch_up
        self.database.run(partial(catch_up, actor=system(self.id), settings=self.settings))

    def forget_keys(self) -> None:
        lifetime = self.settings.idempotency_lifetime
        while self.database.run(partial(idempotency.any_outlived, lifetime=lifetime), reading=True):
            self.database.run(partial(idempotency.purge, lifetime=lifetime))

    def find_leaks(self) -> None:
        if self._leads():
            leaks.scan(self.database, self.settings)

    def look_at_hosts(self) -> None:
        if self._leads():
            due = self.database.run(partial(looks.due, settings=self.settings), reading=True)
            for host_id in due:
                self.database.run(partial(looks.look, actor=system(self.id), host_id=host_id))

    def _leads(self) -> bool:
        """Whether this is the worker that does what only one has to do."""
        silence = self.settings.worker_timeout
        return self.database.run(partial(workers.eldest, silence=silence), reading=True) == self.id

    def _shut_down(self) -> None:
        log.info("%s is stopping", self.id)
        self.executor.stopping.set()
        background.shut_down(PATIENCE)
        with self.database.transaction() as tx:
            workers.stopped(tx, self.id)
        self.database.engine.dispose()


def _advance_group(tx: Session, group_id: UUID) -> None:
    groups.advance(tx, groups.lock(tx, group_id))


def run(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT. Blocks; call it from the main thread."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Read now, then taken out of the environment that ansible-playbook inherits.
    settings.database, settings.signing_key, settings.encryption_key, settings.proof_key  # noqa: B018
    if settings.tenancy_stack:
        settings.tenancy_key  # noqa: B018
    for name in SECRETS:
        os.environ.pop(name, None)
    process = WorkerProcess(settings)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        process.stop.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    process.run()
