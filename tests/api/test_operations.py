"""Operations: claim, act, guarded apply; recovery of what a dead worker left."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from api.core.access import Actor
from api.core.db import Database
from api.core.ids import new_id
from api.core.operations import service, workers
from api.core.operations.execution import Executor, Outcome, Reporter
from api.core.operations.lifecycle import Event, State
from api.core.operations.models import LogLine, Operation, OperationEvent, Worker
from tests.conftest import Client
from tests.support.ledger import SYSTEM


@dataclass
class Handler:
    """Does what the test tells it to, and remembers."""

    outcome: Outcome = field(default_factory=lambda: Outcome(Event.SUCCEED, result={"n": 1}))
    during: Any = None
    applied: list[Event] = field(default_factory=list)
    refuses: list[Event] = field(default_factory=list)

    def prepare(self, tx: Any, operation: Operation) -> str:
        return operation.subject

    def act(self, work: str, reporter: Reporter) -> Outcome:
        reporter.step("working", 50)
        reporter.line(LogLine(message=f"on {work}"))
        if self.during:
            self.during(reporter)
        return self.outcome

    def apply(self, tx: Any, actor: Actor, operation: Operation, outcome: Outcome) -> None:
        if outcome.event in self.refuses:
            raise ValueError("cannot be applied")
        self.applied.append(outcome.event)


def start(database: Database) -> UUID:
    with database.transaction() as tx:
        operation = service.create(tx, SYSTEM, "test.kind", subject_id=new_id(), subject="thing")
        service.dispatch(tx, operation)
        return operation.id


def look(database: Database, operation_id: UUID) -> Operation:
    with database.snapshot() as tx:
        return tx.get_one(Operation, operation_id)


def executor(database: Database, handler: Handler, worker: str = "w1") -> Executor:
    return Executor(database, {"test.kind": handler}, worker, attempts=3)


def test_an_operation_runs_once_and_keeps_its_log(database: Database) -> None:
    handler, operation_id = Handler(), start(database)
    executor(database, handler).run(operation_id)
    done = look(database, operation_id)
    assert (done.state, done.step, done.progress, done.attempt) == (State.SUCCEEDED, "working", 100, 1)
    assert done.outcome == {"n": 1}
    with database.snapshot() as tx:
        assert [row.message for row in tx.execute(sa.select(OperationEvent)).scalars()] == ["on thing"]
    executor(database, handler).run(operation_id)
    assert handler.applied == [Event.SUCCEED]


def test_an_exception_reaches_the_operation(database: Database) -> None:
    def explode(_: Reporter) -> None:
        raise OSError("the runner is broken")

    handler, operation_id = Handler(during=explode), start(database)
    executor(database, handler).run(operation_id)
    done = look(database, operation_id)
    assert (done.state, done.reason) == (State.FAILED, "OSError: the runner is broken")
    assert handler.applied == [Event.FAIL]


def test_an_outcome_that_cannot_be_applied_is_a_failure(database: Database) -> None:
    handler, operation_id = Handler(refuses=[Event.SUCCEED]), start(database)
    executor(database, handler).run(operation_id)
    done = look(database, operation_id)
    assert (done.state, done.reason) == (State.FAILED, "ValueError: cannot be applied")
    assert handler.applied == [Event.FAIL]


def test_a_result_is_dropped_when_the_claim_is_lost(database: Database) -> None:
    operation_id = start(database)
    second = Handler(outcome=Outcome(Event.SUCCEED, result={"by": "second"}))

    def taken_over(_: Reporter) -> None:
        executor(database, second, "w2").run(operation_id)

    first = Handler(during=taken_over, outcome=Outcome(Event.SUCCEED, result={"by": "first"}))
    executor(database, first, "w1").run(operation_id)
    done = look(database, operation_id)
    assert (done.outcome, done.worker, done.attempt) == ({"by": "second"}, "w2", 2)
    assert first.applied == []


def test_a_run_that_lost_its_claim_is_told_to_stop(database: Database) -> None:
    operation_id, told = start(database), threading.Event()

    def watch(reporter: Reporter) -> None:
        with database.transaction() as tx:
            service.claim(tx, operation_id, "w2")
        if reporter.lost.wait(10) and reporter.should_stop():
            told.set()

    executor(database, Handler(during=watch)).run(operation_id)
    assert told.is_set()


def test_cancel_stops_the_run(client: Client, database: Database) -> None:
    operation_id = start(database)

    def cancelled(reporter: Reporter) -> None:
        client.ok("POST", f"/api/v1/operations/{operation_id}/cancel", 202)
        assert reporter.cancelled.wait(10)

    handler = Handler(during=cancelled, outcome=Outcome(Event.CANCEL, "stopped"))
    executor(database, handler).run(operation_id)
    assert look(database, operation_id).state is State.CANCELLED
    client.problem("POST", f"/api/v1/operations/{operation_id}/cancel", 409, "wrong-state")


def test_cancel_before_the_start_never_acts(client: Client, database: Database) -> None:
    operation_id = start(database)
    client.ok("POST", f"/api/v1/operations/{operation_id}/cancel", 202)
    handler = Handler(during=lambda _: pytest.fail("it acted"))
    executor(database, handler).run(operation_id)
    assert look(database, operation_id).state is State.CANCELLED


def test_a_stopping_worker_gives_its_operation_back(database: Database) -> None:
    operation_id = start(database)
    stopping = executor(database, Handler(outcome=Outcome(Event.FAIL, "cut short", interrupted=True)))
    stopping.run(operation_id)
    waiting = look(database, operation_id)
    assert (waiting.state, waiting.worker, waiting.attempt) == (State.QUEUED, None, 0)
    executor(database, Handler(), "w2").run(operation_id)
    assert look(database, operation_id).state is State.SUCCEEDED


def test_work_that_keeps_killing_workers_is_given_up(database: Database) -> None:
    operation_id = start(database)
    for number in range(3):
        with database.transaction() as tx:
            service.claim(tx, operation_id, f"dead-{number}")
    handler = Handler(during=lambda _: pytest.fail("it acted"))
    executor(database, handler, "w4").run(operation_id)
    done = look(database, operation_id)
    assert done.state is State.FAILED
    assert "lost 3 times" in (done.reason or "")


def test_one_open_operation_a_subject(database: Database) -> None:
    subject = new_id()
    with database.transaction() as tx:
        service.create(tx, SYSTEM, "a", subject_id=subject, subject="thing")
    with pytest.raises(service.OperationOpen), database.transaction() as tx:
        service.create(tx, SYSTEM, "b", subject_id=subject, subject="thing")


def test_a_rollback_takes_the_enqueued_work_back(database: Database) -> None:
    with database.transaction() as tx:
        operation = service.create(tx, SYSTEM, "test.kind", subject_id=new_id(), subject="thing")
        service.dispatch(tx, operation)
        tx.rollback()
    queue = "workflow_status" if database.engine.dialect.name == "sqlite" else "dbos.workflow_status"
    with database.snapshot() as tx:
        assert tx.execute(sa.text(f"SELECT count(*) FROM {queue}")).scalar_one() == 0
        assert tx.execute(sa.select(Operation)).first() is None


def test_dead_workers_are_told_from_living_ones(database: Database) -> None:
    with database.transaction() as tx:
        here = workers.register(tx)
        tx.add(Worker(id="gone", machine=here.machine, pid=2**22 + 1))
        tx.add(Worker(id="elsewhere", machine="another-machine", pid=1))
        tx.flush()
        assert workers.dead(tx, silence=60) == ["gone"]
        assert set(workers.dead(tx, silence=-1)) == {here.id, "gone", "elsewhere"}
        assert workers.alive(tx, silence=60) == 3
        workers.recovered(tx, "gone", here.id)
        workers.stopped(tx, "elsewhere")
        assert workers.dead(tx, silence=60) == []


def test_members_see_only_what_they_asked_for(client: Client, database: Database) -> None:
    operation_id = start(database)
    member = client.as_new("member")
    assert member.ok("GET", "/api/v1/operations")["items"] == []
    member.problem("GET", f"/api/v1/operations/{operation_id}", 404, "not-found")
    for part in ("events", "log"):
        member.problem("GET", f"/api/v1/operations/{operation_id}/{part}", 404, "not-found")
    member.problem("POST", f"/api/v1/operations/{operation_id}/cancel", 404, "not-found")
