"""Operations as they go: server-sent events that can be taken up again, and how long they will take."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from api.core import clock
from api.core.db import Database
from api.core.operations import live, service
from api.core.operations import router as operations_router
from api.core.operations.lifecycle import Event, State
from api.core.operations.models import LogLine, Operation
from tests.api.test_operations import start
from tests.conftest import Client
from tests.support import ledger
from tests.support.ledger import SYSTEM

PATH = "/api/v1/operations"


def events(client: Client, operation_id: Any, after: int | None = None) -> list[dict[str, Any]]:
    """Everything that a stream says until it ends; the test client reads it to its end."""
    headers = {"Last-Event-ID": str(after)} if after is not None else {}
    answer = client.get(f"{PATH}/{operation_id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return list(parsed(answer.text))


def parsed(text: str) -> Iterator[dict[str, Any]]:
    for found in parsed_any(text):
        yield found | {"id": int(found["id"])}


def parsed_any(text: str) -> Iterator[dict[str, Any]]:
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            yield {**fields, "data": json.loads(fields["data"])}


def claimed(database: Database) -> UUID:
    operation_id = start(database)
    with database.transaction() as tx:
        service.claim(tx, operation_id, "w1")
    return operation_id


def say(database: Database, operation_id: UUID, *messages: str, step: str | None = None) -> None:
    with database.transaction() as tx:
        operation = service.lock(tx, operation_id)
        operation.step = step or operation.step
        service.log(tx, operation_id, [LogLine(step=step, task=text, status="ok") for text in messages])


def end(database: Database, operation_id: UUID, event: Event = Event.SUCCEED) -> None:
    with database.transaction() as tx:
        service.finish(tx, SYSTEM, service.lock(tx, operation_id), event, reason="over")


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def test_a_stream_tells_lines_progress_and_the_end(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id = claimed(database)
    say(database, operation_id, "one", "two", step="fence")
    seen = {"fence": threading.Event(), "kill": threading.Event()}
    standing = operations_router._standing

    def watched(app: Any, operation: Operation) -> Any:
        now = standing(app, operation)
        seen[now.step].set()
        return now

    monkeypatch.setattr(operations_router, "_standing", watched)

    def go_on() -> None:
        assert seen["fence"].wait(60)
        say(database, operation_id, "three", step="kill")
        assert seen["kill"].wait(60)
        end(database, operation_id)

    with meanwhile(go_on):
        told = events(client, operation_id)
    assert [e["data"]["task"] for e in told if e["event"] == "line"] == ["one", "two", "three"]
    assert {e["data"]["host"] for e in told if e["event"] == "line"} == {"thing"}
    steps = [e["data"]["step"] for e in told if e["event"] == "progress"]
    assert steps == ["fence", "kill"]
    assert (told[-1]["event"], told[-1]["data"]["state"]) == ("end", "succeeded")
    ids = [e["id"] for e in told]
    assert ids == sorted(ids)


def test_a_stream_is_taken_up_where_it_broke(client: Client, database: Database) -> None:
    operation_id = claimed(database)
    say(database, operation_id, *"abcd")
    end(database, operation_id)
    whole = [e for e in events(client, operation_id) if e["event"] == "line"]
    assert [e["data"]["task"] for e in whole] == list("abcd")
    for seen in range(4):
        rest = events(client, operation_id, after=whole[seen]["id"])
        assert [e["data"]["task"] for e in rest if e["event"] == "line"] == list("abcd")[seen + 1 :]
        assert rest[-1]["event"] == "end"
    client.problem(
        "GET", f"{PATH}/{operation_id}/events", 422, "invalid-request", headers={"Last-Event-ID": "x"}
    )


def test_a_long_log_comes_whole(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BATCH", 7)
    operation_id = claimed(database)
    names = [str(number) for number in range(25)]
    say(database, operation_id, *names)
    end(database, operation_id, Event.FAIL)
    told = events(client, operation_id)
    assert [e["data"]["task"] for e in told if e["event"] == "line"] == names
    assert (told[-1]["event"], told[-1]["data"]["reason"]) == ("end", "over")


def test_listeners_share_one_poll_and_the_last_one_ends_it(
    client: Client, app: FastAPI, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [claimed(database) for _ in range(5)]
    read, polls = live._read, []

    def counting(tx: Any, listeners: list[Any]) -> Any:
        polls.append(len(listeners))
        return read(tx, listeners)

    monkeypatch.setattr(live, "_read", counting)
    found: list[list[dict[str, Any]]] = []
    threads = [threading.Thread(target=lambda i=i: found.append(events(client, i))) for i in ids]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    for operation_id in ids:
        end(database, operation_id)
    for thread in threads:
        thread.join()
    assert max(polls) == 5
    assert all(told[-1]["event"] == "end" for told in found)
    deadline = time.monotonic() + 20
    while app.state.feed._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stream_ends_in_time(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_router, "STREAM_SECONDS", -1.0)
    told = events(client, claimed(database))
    assert [e["event"] for e in told] == ["progress"]


def test_an_estimate_follows_earlier_runs(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a")
    steps = [
        {"name": name, "seconds": seconds} for name, seconds in (("fence", 1), ("kill", 2), ("wipe", 30))
    ]
    for _ in range(2):
        client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
        ledger.finish(database, host, ledger.report("reclaim", steps=steps))
    earlier = sa.update(Operation).where(Operation.kind == "host.reclaim")
    with database.transaction() as tx:
        tx.execute(earlier.values(ended_at=clock.now(), started_at=clock.now() - timedelta(seconds=40)))
    operation_id = client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)["id"]
    queued = client.ok("GET", f"{PATH}/{operation_id}")
    assert 39 < queued["eta_seconds"] < 41
    with database.transaction() as tx:
        service.claim(tx, UUID(operation_id), "w1")
        tx.flush()
        service.lock(tx, UUID(operation_id)).started_at = clock.now() - timedelta(seconds=25)
    assert 10 < client.ok("GET", f"{PATH}/{operation_id}")["eta_seconds"] < 16
    with database.transaction() as tx:
        late = service.lock(tx, UUID(operation_id))
        late.step, late.started_at = "kill", clock.now() - timedelta(seconds=600)
    assert client.ok("GET", PATH)["items"][0]["eta_seconds"] == 30
    ledger.finish(database, host, ledger.report("reclaim"))
    assert client.ok("GET", f"{PATH}/{operation_id}")["eta_seconds"] is None


def test_without_earlier_runs_there_is_no_estimate(client: Client, database: Database) -> None:
    operation_id = start(database)
    assert client.ok("GET", f"{PATH}/{operation_id}")["eta_seconds"] is None
    assert client.ok("GET", PATH)["items"][0]["state"] == State.QUEUED
