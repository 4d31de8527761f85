"""When hosts are checked, and who goes first: claims, releases and operators never wait for a check."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import time_machine

from api.core.db import Database
from api.core.operations.execution import Reporter
from api.core.operations.lifecycle import Event
from api.core.operations.service import Claim
from api.fleet import health, service
from api.fleet.models import Host
from api.fleet.operations import HealthHandler, handlers
from api.settings import Settings
from tests.conftest import Client
from tests.support import ledger
from tests.support.checks import CLAIMS, HOSTS, Fleet, ask, by_hand, checked, detail, uuids

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_a_claim_and_a_release_do_not_wait_for_a_check(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=2)
    check = ask(client, host)["id"]
    claim = client.ok("POST", CLAIMS, 201, json={"gpus": 2})
    assert client.ok("GET", f"/api/v1/operations/{check}")["state"] == "queued"
    client.ok("POST", f"{CLAIMS}/{claim['id']}/release")
    ended = client.ok("GET", f"/api/v1/operations/{check}")
    assert ended["state"] == "cancelled"
    assert "goes first" in ended["reason"]
    assert detail(client, host)["state"] == "reclaiming"
    ledger.finish(database, host, ledger.report("reclaim"))
    assert detail(client, host)["state"] == "idle"


@pytest.mark.parametrize("action", ["reclaim", "verify", "retire", "enroll"])
def test_what_an_operator_asks_for_does_not_wait_for_a_check(
    client: Client, fleet: Fleet, action: str
) -> None:
    host = fleet("a", gpus=1)
    check = ask(client, host)["id"]
    client.ok("POST", f"/api/v1/admin/machines/{host}/{action}", 202)
    assert client.ok("GET", f"/api/v1/operations/{check}")["state"] == "cancelled"


def test_a_reclaim_by_hand_does_not_wait_for_a_check(client: Client, fleet: Fleet) -> None:
    host = fleet("a", gpus=1)
    check = ask(client, host)["id"]
    by_hand(client, host)
    assert client.ok("GET", f"/api/v1/operations/{check}")["state"] == "cancelled"


def test_the_end_of_a_check_that_was_called_off_changes_nothing(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=1)
    before = detail(client, host)
    after = checked(database, client, host, event=Event.CANCEL, reason="Cancelled while it ran.")
    assert after == before


def test_a_lent_host_is_only_looked_at(client: Client, fleet: Fleet, database: Database) -> None:
    host = fleet("a", gpus=2)
    claim = client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    client.problem("POST", f"{HOSTS}/{host}/health-checks", 409, "host-not-idle", json={"level": 1})
    found = checked(database, client, host, ledger.verdict("host", "CRITICAL", "reboot"), level=0)
    assert (found["state"], found["health_current"]) == ("allocated", False)
    assert not any(gpu["schedulable"] for gpu in found["gpu_list"])
    client.ok("POST", f"{CLAIMS}/{claim['id']}/release")
    client.problem("POST", f"{HOSTS}/{host}/health-checks", 409, "wrong-state", json={"level": 0})


def test_a_host_in_maintenance_can_be_looked_at_and_stays_there(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=1)
    client.ok("POST", f"/api/v1/admin/machines/{host}/maintenance", json={"reason": "fan"})
    found = checked(database, client, host, level=3)
    assert (found["state"], found["failed_reason"]) == ("maintenance", "fan")
    assert not found["gpu_list"][0]["schedulable"]


def test_a_running_check_gives_way_to_a_claim(
    client: Client, fleet: Fleet, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's run of a check is cut short when its host is lent; a look (level 0) is not."""
    host = fleet("a", gpus=1)
    handler = handlers(settings)[service.HEALTH]
    assert isinstance(handler, HealthHandler)

    def run_until_cancelled(_self: Any, _work: Any, reporter: Reporter) -> str:
        started.set()
        return "cut short" if reporter.cancelled.wait(8) else "ran on"

    monkeypatch.setattr("api.fleet.operations.PlaybookHandler.act", run_until_cancelled)
    started, told = threading.Event(), list[Any]()
    reporter = Reporter(database, Claim(uuid4(), service.HEALTH, "tests", 1), threading.Event())
    work = cast("Any", SimpleNamespace(host_id=host, variables={"health_level": 1}))
    thread = threading.Thread(target=lambda: told.append(handler.act(work, reporter)))
    thread.start()
    assert started.wait(10)
    assert not reporter.cancelled.wait(1)
    client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    thread.join(20)
    assert told == ["cut short"]


# The schedule


def lendable(client: Client, host: UUID) -> list[bool]:
    return [gpu["schedulable"] for gpu in detail(client, host)["gpu_list"]]


def look_after(database: Database, settings: Settings) -> tuple[int, int]:
    """What the worker's duty does; how many hosts it set aside and how many checks it started."""
    with database.snapshot() as tx:
        stale, due = health.stale(tx, settings), health.due(tx, settings)
    for host_id in stale:
        with database.transaction() as tx:
            health.set_aside(tx, ledger.SYSTEM, host_id, settings)
    started = 0
    for host_id in due:
        with database.transaction() as tx:
            started += health.check_if_idle(tx, ledger.SYSTEM, host_id)
    return len(stale), started


@pytest.fixture
def key(client: Client) -> Client:
    """The client with a key that does not end with the session."""
    client.outlast_sessions()
    return client


def test_idle_hosts_are_checked_on_a_schedule_a_few_at_a_time(
    key: Client, fleet: Fleet, database: Database, settings: Settings
) -> None:
    with time_machine.travel(NOON, tick=False):
        hosts = [fleet(name, gpus=1) for name in "abc"]
        client_claim = key.ok("POST", CLAIMS, 201, json={"gpus": 1})
        assert client_claim["state"] == "active"
        assert look_after(database, settings) == (0, 0)
    with time_machine.travel(NOON + timedelta(seconds=settings.health_interval + 1), tick=False):
        assert look_after(database, settings.model_copy(update={"health_interval": 0})) == (0, 0)
        assert look_after(database, settings.model_copy(update={"health_at_once": 1})) == (0, 1)
        assert look_after(database, settings) == (0, 1)
        assert look_after(database, settings) == (0, 0)
        open_now = key.ok("GET", "/api/v1/operations", params={"kind": "host.health"})["items"]
        assert {row["subject_id"] for row in open_now} == {str(host) for host in hosts[1:]}
        for host in hosts[1:]:
            ledger.finish(database, host, ledger.report("health", health=ledger.verdicts(level=1)))
        assert look_after(database, settings) == (0, 0)


def test_a_check_that_could_not_run_is_tried_again_soon(
    key: Client, fleet: Fleet, database: Database, settings: Settings
) -> None:
    with time_machine.travel(NOON, tick=False):
        host = fleet("a", gpus=1)
        checked(database, key, host, event=Event.FAIL, reason="no answer")
        assert look_after(database, settings) == (0, 0)
    with time_machine.travel(NOON + timedelta(seconds=health.RETRY + 1), tick=False):
        assert look_after(database, settings) == (0, 1)


def test_a_host_whose_check_is_too_old_is_not_lent_until_the_next(
    key: Client, fleet: Fleet, database: Database, settings: Settings
) -> None:
    later = NOON + timedelta(seconds=settings.health_max_age + 1)
    with time_machine.travel(NOON, tick=False):
        host = fleet("a", gpus=2)
        assert look_after(database, settings) == (0, 0)
    with time_machine.travel(later, tick=False):
        anyway = settings.model_copy(update={"health_max_age": 0, "health_interval": 0})
        assert look_after(database, anyway) == (0, 0)
        assert lendable(key, host) == [True, True]
        assert look_after(database, settings) == (1, 1)
        assert lendable(key, host) == [False, False]
        refused = key.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1})
        assert refused["unchecked"] == 2
        ledger.finish(database, host, ledger.report("health", health=ledger.verdicts(level=1)))
        assert lendable(key, host) == [True, True]
        assert look_after(database, settings) == (0, 0)


def test_the_plays_are_told_of_the_lease_and_of_who_holds_what(
    key: Client, fleet: Fleet, database: Database
) -> None:
    with time_machine.travel(NOON, tick=False):
        host = fleet("a", gpus=2)
    with time_machine.travel(NOON + timedelta(hours=1), tick=False):
        key.ok("POST", CLAIMS, 201, json={"gpus": 1})
        reset = NOON.timestamp() + 10
        ask(key, host, level=0)
        verdicts = ledger.verdicts(level=0, reset_at=reset)
        ledger.finish(database, host, ledger.report("health", health=verdicts))
        asked = ask(key, host, level=0)
    with database.snapshot() as tx:
        operation = health.operations.get(tx, ledger.SYSTEM, UUID(asked["id"]))
        told = health.variables(tx, tx.get_one(Host, host), operation)
    assert told["ironyard_health_since"] == (NOON + timedelta(hours=1)).timestamp()
    assert told["ironyard_gpus_reset_at"] == reset
    assert told["ironyard_gpus_held"] == [uuids(key, host)[0]]
    assert told["health_level"] == 0
    by_hand = key.ok("GET", "/api/v1/inventory")["hosts"][0]["health"]
    assert {f"ironyard_{name}": value for name, value in by_hand.items() if name != "since"} == {
        name: value for name, value in told.items() if name.startswith("ironyard_gpus")
    }
    assert by_hand["since"] == told["ironyard_health_since"]
