"""PostgreSQL goes down hard under load and comes back: what was acknowledged is there, and nothing twice."""

from __future__ import annotations

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.bench.claims import Caller
from tests.bench.load import request
from tests.bench.stage import stage
from tests.support.postgres import PostgresServer, server_programs
from tests.support.server import api_server

CLIENTS, HOSTS = 8, 60
DURABLE = ("-c", "fsync=on", "-c", "synchronous_commit=on")
BEFORE, AFTER = 40, 60  # acknowledged claims before the first restart, and after each
PATIENCE = 60  # seconds in which a claim must succeed


@dataclass
class Claimant:
    """A client that asks again, with the same key, until its claim is acknowledged."""

    caller: Caller
    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: set[int] = field(default_factory=set)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            key = uuid.uuid4().hex
            self.acknowledged[key] = self.claim(key)

    def claim(self, key: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.caller.key}", "idempotency-key": key}
        asked = request("POST", "/api/v1/allocations", headers, self.body())
        end = time.monotonic() + PATIENCE
        while True:
            status, body = self.caller.wire.ask(asked)
            self.statuses.add(status)
            if status == 201:
                answer: dict[str, Any] = json.loads(body)
                return answer
            assert status == 503, body.decode()
            assert time.monotonic() < end, (
                f"no claim for {PATIENCE} seconds; the last answer: {body.decode()}"
            )
            time.sleep(0.05)

    def body(self) -> bytes:
        return self.caller.one.partition(b"\r\n\r\n")[2]


def wait_for(claimants: list[Claimant], many: int, running: list[Any]) -> None:
    end = time.monotonic() + PATIENCE
    while sum(len(one.acknowledged) for one in claimants) < many:
        assert time.monotonic() < end, "too few claims were acknowledged"
        for one in running:
            if one.done():
                one.result()
        time.sleep(0.02)


def claimed_under_restarts(server: PostgresServer, claimants: list[Claimant], restarts: int) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(one.run, stop) for one in claimants]
        try:
            wait_for(claimants, BEFORE, running)
            for _ in range(restarts):
                server.restart()
                reached = sum(len(one.acknowledged) for one in claimants)
                wait_for(claimants, reached + AFTER, running)
        finally:
            stop.set()
        for one in running:
            one.result()


@pytest.mark.postgres
def test_acknowledged_claims_outlive_restarts() -> None:
    if server_programs() is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    with (
        stage("postgresql", clients=CLIENTS, hosts=HOSTS, server_options=DURABLE) as made,
        api_server(Path(made.directory), made.url, processes=2) as url,
        ExitStack() as closed,
    ):
        assert made.postgres is not None
        claimants = [Claimant(Caller(url, key, f"w{number}")) for number, key in enumerate(made.keys)]
        for one in claimants:
            closed.callback(one.caller.close)
        claimed_under_restarts(made.postgres, claimants, 2)
        told = [answer for one in claimants for answer in one.acknowledged.values()]
        assert len({answer["id"] for answer in told}) == len(told), "two keys, one allocation"
        assert len(told) >= BEFORE + 2 * AFTER
        with psycopg.connect(made.url) as ledger:
            is_there_once(ledger, {answer["id"]: answer["gpus"][0]["uuid"] for answer in told})
            keeps_its_promises(ledger)
        repeats(claimants)


def is_there_once(ledger: psycopg.Connection[Any], told: dict[str, str]) -> None:
    """Each claim that was acknowledged, with the GPU that the client was told of, and no other."""
    kept = ledger.execute(
        "SELECT a.id::text, g.uuid FROM allocations a JOIN holds h ON h.allocation_id = a.id"
        " JOIN gpus g ON g.id = h.gpu_id WHERE a.state = 'active' AND h.ended_at IS NULL"
    ).fetchall()
    assert sorted(kept) == sorted(told.items())
    assert ledger.execute("SELECT count(*) FROM allocations").fetchone() == (len(told),)
    events = (
        "SELECT count(*), count(DISTINCT subject_id) FROM audit_events WHERE action = 'allocation.claimed'"
    )
    assert ledger.execute(events).fetchone() == (len(told), len(told))


def keeps_its_promises(ledger: psycopg.Connection[Any]) -> None:
    twice = "SELECT gpu_id FROM holds WHERE ended_at IS NULL GROUP BY gpu_id HAVING count(*) > 1"
    assert ledger.execute(twice).fetchall() == []
    astray = (
        "SELECT g.id FROM gpus g FULL JOIN (SELECT * FROM holds WHERE ended_at IS NULL) h ON h.gpu_id = g.id"
        " WHERE h.allocation_id IS DISTINCT FROM g.held_by"
    )
    assert ledger.execute(astray).fetchall() == []
    miscounted = (
        "SELECT q.scope_id, q.used FROM quotas q WHERE q.resource = 'gpus' AND q.scope = 'workspace'"
        " AND q.used <> (SELECT count(*) FROM holds h WHERE h.workspace_id = q.scope_id"
        " AND h.ended_at IS NULL AND q.model IN ('', h.model))"
    )
    assert ledger.execute(miscounted).fetchall() == []


def repeats(claimants: list[Claimant]) -> None:
    """A key that is asked for again, long after, still names the same allocation."""
    for one in claimants:
        key, answer = next(iter(one.acknowledged.items()))
        assert one.claim(key)["id"] == answer["id"]
