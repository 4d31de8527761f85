"""How a worker runs an operation: claim; act with no transaction open; apply if the claim is still ours."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from api.core import clock
from api.core.access import Actor, system
from api.core.db import Database
from api.core.errors import Problem
from api.core.operations import service
from api.core.operations.lifecycle import Event
from api.core.operations.models import LogLine, Operation

log = logging.getLogger("ironyard.operations")
FLUSH_SECONDS = 0.5
PATIENCE = 120.0  # seconds to wait for the database rather than lose what a run has done
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the act.

    `result` is what the operation keeps; `carried` only reaches `apply`. `interrupted`: the worker is
    stopping, the operation goes back to the queue.
    """

    event: Event
    reason: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    carried: Any = None


class Handler(Protocol):
    """One kind of operation. Only `act` may touch the network, and it may be run again after a crash."""

    def prepare(self, tx: Session, operation: Operation) -> Any: ...

    def act(self, work: Any, reporter: Reporter) -> Outcome: ...

    def apply(self, tx: Session, actor: Actor, operation: Operation, outcome: Outcome) -> None:
        """Write what follows. An exception here makes the operation fail with its text."""
        ...


class Reporter:
    """Takes log lines from any thread and writes them in batches; tells whether to stop."""

    def __init__(self, database: Database, claim: service.Claim, stopping: threading.Event) -> None:
        self.database = database
        self.claim = claim
        self.stopping = stopping
        self.lost = threading.Event()
        self.cancelled = threading.Event()
        self._lines: queue.SimpleQueue[LogLine] = queue.SimpleQueue()
        self._step: tuple[str, int] | None = None
        self._notes: dict[str, Any] = {}
        self._wake = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"report-{claim.operation_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._wake.set()
        self._thread.join()
        self._flush()

    def step(self, name: str, progress: int) -> None:
        self._step = (name, progress)

    def line(self, line: LogLine) -> None:
        self._lines.put(line)

    def note(self, name: str, value: Any) -> None:
        """Keep a fact with the operation's arguments at once: whoever runs it after a crash will need it."""
        self._notes = self._notes | {name: value}
        self._wake.set()

    def should_stop(self) -> bool:
        return self.cancelled.is_set() or self.lost.is_set() or self.stopping.is_set()

    def _work(self) -> None:
        while not self._done.is_set():
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            try:
                self._flush()
            except Exception:
                log.exception("the log of %s could not be written; trying again", self.claim.operation_id)

    def _flush(self) -> None:
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        try:
            write = partial(self._write, lines=lines)
            self.database.run(write, repeatable=True, patience=PATIENCE)
        except Exception:
            for line in lines:
                self._lines.put(line)
            raise

    def _write(self, tx: Session, lines: list[LogLine]) -> None:
        operation = service.still_ours(tx, self.claim)
        if operation is None:
            self.lost.set()
            return
        operation.heartbeat_at = clock.now()
        if self._step:
            operation.step, operation.progress = self._step
        if self._notes:
            operation.arguments = operation.arguments | self._notes
        service.log(tx, operation.id, lines)
        if operation.cancel_requested:
            self.cancelled.set()


class Executor:
    """Runs operations by their kind's handler."""

    def __init__(
        self, database: Database, handlers: Mapping[str, Handler], worker: str, *, attempts: int
    ) -> None:
        self.database = database
        self.handlers = handlers
        self.worker = worker
        self.attempts = attempts
        self.stopping = threading.Event()
        self.actor = system(worker)

    def _run(self, work: Callable[[Session], T]) -> T:
        """Each step looks first whether the claim is still ours, so that a second run finds a first one."""
        return self.database.run(work, repeatable=True, patience=PATIENCE)

    def run(self, operation_id: UUID) -> None:
        claim = self._run(partial(service.claim, operation_id=operation_id, worker=self.worker))
        if claim is None:
            return
        outcome = self._act(claim)
        if outcome.event is Event.SUCCEED or not outcome.interrupted:
            self._apply(claim, outcome)
        else:
            self._run(partial(self._give_back, claim=claim))

    def _act(self, claim: service.Claim) -> Outcome:
        if claim.attempt > self.attempts:
            return Outcome(Event.FAIL, f"The worker was lost {self.attempts} times while this ran.")
        handler = self.handlers.get(claim.kind)
        if handler is None:
            return Outcome(Event.FAIL, f"No handler is registered for {claim.kind}.")
        try:
            work = self._run(partial(self._prepare, claim=claim, handler=handler))
            if isinstance(work, Outcome):
                return work
            with Reporter(self.database, claim, self.stopping) as reporter:
                return handler.act(work, reporter)
        except Exception as error:
            log.exception("%s %s failed", claim.kind, claim.operation_id)
            return Outcome(Event.FAIL, f"{type(error).__name__}: {error}")

    def _prepare(self, tx: Session, claim: service.Claim, handler: Handler) -> Any:
        operation = service.still_ours(tx, claim)
        if operation is None:
            return Outcome(Event.FAIL, "The claim was lost.", interrupted=True)
        if operation.cancel_requested:
            return Outcome(Event.CANCEL, "Cancelled before it began.")
        return handler.prepare(tx, operation)

    def _apply(self, claim: service.Claim, outcome: Outcome) -> None:
        try:
            self._run(partial(self._write, claim=claim, outcome=outcome))
        except Exception as error:
            log.exception("the outcome of %s could not be applied", claim.operation_id)
            reason = str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
            failed = replace(outcome, event=Event.FAIL, reason=reason)
            self._run(partial(self._write, claim=claim, outcome=failed))

    def _write(self, tx: Session, claim: service.Claim, outcome: Outcome) -> None:
        operation = service.still_ours(tx, claim)
        if operation is None:
            log.warning("%s was taken over; its outcome here is dropped", claim.operation_id)
            return
        service.finish(
            tx, self.actor, operation, outcome.event, reason=outcome.reason, outcome=outcome.result
        )
        tx.flush()
        handler = self.handlers.get(claim.kind)
        if handler is not None:
            handler.apply(tx, self.actor, operation, outcome)

    def _give_back(self, tx: Session, claim: service.Claim) -> None:
        operation = service.still_ours(tx, claim)
        if operation is None:
            return
        operation.attempt -= 1  # a planned stop is not a lost worker
        line = LogLine(message="The worker is stopping; this starts again elsewhere.")
        service.log(tx, operation.id, [line])
        service.requeue(tx, operation)
