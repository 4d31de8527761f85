"""The events of a recorded reclaim, as two hundred hosts would send them: all kept, memory flat."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.core.access import Actor
from api.core.db import Database
from api.core.ids import new_id
from api.core.operations import service
from api.core.operations.execution import Executor, Outcome, Reporter
from api.core.operations.lifecycle import Event
from api.core.operations.models import Operation, OperationEvent
from api.fleet.playbooks import PLAYBOOKS
from api.fleet.runner import _Watcher
from tests.support.ledger import SYSTEM

# of one lab host that a tenant with root had used, without the arguments
EVENTS = json.loads((Path(__file__).parent / "recordings" / "reclaim-events.json").read_text())
HOSTS = 200
SETTLED = 160  # hosts after which memory is watched: watching makes every host many times dearer
GROWTH = 1 << 18  # bytes, over the other forty


class Replay:
    """A handler that is told what ansible-runner told."""

    def prepare(self, tx: Any, operation: Operation) -> str:
        return operation.subject

    def act(self, work: str, reporter: Reporter) -> Outcome:
        watcher = _Watcher(PLAYBOOKS["reclaim"], reporter)
        for event in json.loads(json.dumps(EVENTS)):
            watcher(event)
        assert watcher.report is not None
        return Outcome(Event.SUCCEED, result={"stats": watcher.stats})

    def apply(self, tx: Any, actor: Actor, operation: Operation, outcome: Outcome) -> None:
        pass


def used() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# the memory is the process's own, whatever the database
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_events_of_two_hundred_hosts_are_kept_and_none_stays_in_memory(database: Database) -> None:
    executor = Executor(database, {"test.replay": Replay()}, "w1", attempts=3)
    try:
        early = 0
        for number in range(HOSTS):
            if number == SETTLED:
                tracemalloc.start()
            with database.transaction() as tx:
                operation = service.create(
                    tx, SYSTEM, "test.replay", subject_id=new_id(), subject=f"h{number}"
                )
                service.dispatch(tx, operation)
                operation_id = operation.id
            executor.run(operation_id)
            if number == SETTLED:
                early = used()  # this host's own caches are traced now
        assert used() - early < GROWTH
    finally:
        tracemalloc.stop()
    with database.snapshot() as tx:
        kept = tx.execute(sa.select(sa.func.count()).select_from(OperationEvent)).scalar_one()
        states = set(tx.execute(sa.select(Operation.state)).scalars())
    lines = sum(
        event["event"] in ("runner_on_ok", "runner_on_skipped")
        and "validate_argument_spec" not in event["event_data"].get("task_action", "")
        for event in EVENTS
    )
    assert kept == HOSTS * lines
    assert {str(state) for state in states} == {"succeeded"}
