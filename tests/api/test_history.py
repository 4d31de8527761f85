"""How one host's time was spent, and what happened to it."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from api.core import clock
from api.core.db import Database, table
from api.core.operations.lifecycle import Event
from api.fleet.models import Gpu, Host, HostPeriod
from tests.conftest import Client
from tests.support import ledger

HOSTS = "/api/v1/hosts"


@pytest.fixture
def aged(client: Client, fleet: Any, database: Database) -> Any:
    """A host that has been idle for an hour, beside another one."""
    host = fleet("a", gpus=2)
    fleet("b", gpus=1)
    earlier = clock.now() - timedelta(hours=1)
    with database.transaction() as tx:
        tx.execute(sa.delete(table(HostPeriod)).where(table(HostPeriod).c.ended_at.is_not(None)))
        tx.execute(sa.update(table(HostPeriod)).values(started_at=earlier))
        tx.execute(sa.update(table(Host)).values(created_at=earlier, state_since=earlier))
        tx.execute(sa.update(table(Gpu)).values(enrolled_at=earlier))
    return host


def test_a_host_s_time_adds_up(client: Client, aged: Any, database: Database) -> None:
    lent = client.ok(
        "POST", "/api/v1/allocations", 201, json={"gpus": 1, "model": ledger.H100, "same_host": True}
    )
    used = client.ok("GET", f"{HOSTS}/{aged}/usage")
    assert used["host"] == "a"
    assert 3595 <= used["states"]["idle"] <= 3610
    whole = used["gpu_seconds"]
    assert whole["enrolled"] == sum(seconds for part, seconds in whole.items() if part != "enrolled")
    assert 7190 <= whole["enrolled"] <= 7300
    assert used["utilization"] == round(whole["allocated"] / whole["enrolled"], 4)
    assert len(used["gpus"]) == 2
    assert used["operations"] == {"host.enroll": {"succeeded": 1}, "host.reclaim": {"succeeded": 1}}
    assert lent["gpus"]


def test_a_window_is_cut_and_an_empty_one_refused(client: Client, aged: Any) -> None:
    now = clock.now()
    window = {
        "from": (now - timedelta(minutes=30)).isoformat(),
        "to": (now - timedelta(minutes=20)).isoformat(),
    }
    used = client.ok("GET", f"{HOSTS}/{aged}/usage", params=window)
    assert (used["states"], used["gpu_seconds"]["idle"], used["operations"]) == ({"idle": 600}, 1200, {})
    for wrong in (
        {"from": window["to"], "to": window["from"]},
        {"from": (now + timedelta(days=1)).isoformat(), "to": (now + timedelta(days=2)).isoformat()},
        {"from": "2001-01-01T00:00:00Z", "to": "2001-02-01T00:00:00Z"},
        {"from": "yesterday"},
    ):
        client.problem("GET", f"{HOSTS}/{aged}/usage", 422, "invalid-request", params=wrong)


def test_what_happened_to_a_host_is_one_list(client: Client, fleet: Any, database: Database) -> None:
    host, other = fleet("a", gpus=1), fleet("b", gpus=1)
    client.ok("POST", f"/api/v1/admin/machines/{host}/cordon", json={"reason": "fan 3"})
    client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    ledger.finish(database, host, event=Event.FAIL, reason="disk full", step="wipe")
    path = f"{HOSTS}/{host}/log"
    entries = client.ok("GET", path, params={"limit": 200})["items"]
    ids = [entry["id"] for entry in entries]
    assert ids == sorted(ids, reverse=True)
    by_source: dict[str, list[Any]] = defaultdict(list)
    for entry in entries:
        by_source[entry["source"]].append(entry)
    cordoned = next(entry for entry in by_source["audit"] if entry["what"] == "host.cordoned")
    assert (cordoned["by"], cordoned["reason"]) == ("admin@ironyard.local", "fan 3")
    newest = by_source["operation"][0]
    assert (newest["what"], newest["reason"], newest["detail"]["state"]) == (
        "host.reclaim",
        "disk full",
        "failed",
    )
    assert entries[0]["what"] == "host.failed"
    assert str(other) not in str(entries)
    collected, cursor = [], None
    while True:
        page = client.ok("GET", path, params={"limit": 3} | ({"cursor": cursor} if cursor else {}))
        collected += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert collected == entries
    only = client.ok("GET", path, params={"source": "operation"})["items"]
    assert {entry["source"] for entry in only} == {"operation"}
    client.as_new("member").problem("GET", path, 403, "forbidden")
    client.as_new("viewer").ok("GET", f"{HOSTS}/{host}/usage")


def test_a_health_check_that_fails_is_in_the_log(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a", gpus=1)
    gpu = client.ok("GET", f"{HOSTS}/{host}")["gpu_list"][0]["uuid"]
    client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    health = ledger.verdicts(ledger.verdict(gpu, "CRITICAL", "service"))
    ledger.finish(database, host, ledger.report("reclaim", health=health))
    (found,) = client.ok("GET", f"{HOSTS}/{host}/log", params={"source": "health"})["items"]
    assert found["what"] == "health.CRITICAL"
    assert found["detail"]["checks"][0]["scope"] == gpu
