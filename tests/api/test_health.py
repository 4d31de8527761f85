"""Health over HTTP: what a check says of GPUs and hosts, and who is lent after it."""

from __future__ import annotations

from typing import Any

import pytest

from api.core.db import Database
from api.core.operations.lifecycle import Event
from tests.conftest import Client
from tests.support import ledger
from tests.support.checks import CLAIMS, HOSTS, Fleet, by_hand, checked, detail, uuids


def test_a_sick_gpu_leaves_the_pool_and_the_rest_of_its_host_stays(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=3)
    sick = uuids(client, host)[1]
    found = checked(database, client, host, ledger.verdict(sick, "CRITICAL", "reset"))
    assert (found["state"], found["health_verdict"], found["health_current"]) == ("idle", "CRITICAL", True)
    assert [gpu["schedulable"] for gpu in found["gpu_list"]] == [True, False, True]
    gpu = found["gpu_list"][1]
    assert (gpu["health"], gpu["health_verdict"], gpu["health_action"]) == ("failed", "CRITICAL", "reset")
    assert gpu["health_reasons"] == ["ecc: as read"]
    refused = client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 3})
    assert (refused["free"], refused["unwell"], refused["unchecked"]) == (2, 1, 0)
    assert "1 is out of the pool: its last health check failed" in refused["detail"]
    client.ok("POST", CLAIMS, 201, json={"gpus": 2})


def test_warnings_are_told_and_lend(client: Client, fleet: Fleet, database: Database) -> None:
    host = fleet("a", gpus=1)
    (uuid,) = uuids(client, host)
    gpu = checked(database, client, host, ledger.verdict(uuid, "WARNING"))["gpu_list"][0]
    assert (gpu["health"], gpu["health_verdict"], gpu["schedulable"]) == ("ok", "WARNING", True)


def test_unknown_is_no_pass(client: Client, fleet: Fleet, database: Database) -> None:
    host = fleet("a", gpus=2)
    found = checked(database, client, host, ledger.verdict(uuids(client, host)[0], "UNKNOWN"))
    assert [gpu["health"] for gpu in found["gpu_list"]] == ["unknown", "ok"]
    assert [gpu["schedulable"] for gpu in found["gpu_list"]] == [False, True]


def test_a_gpu_comes_back_by_a_check_as_thorough_as_the_one_that_failed_it(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=2)
    sick = uuids(client, host)[0]

    def health_after(*faults: dict[str, Any], level: int) -> str:
        found = checked(database, client, host, *faults, level=level)
        return str(found["gpu_list"][0]["health"])

    failed = ledger.verdict(sick, "CRITICAL", "service", name="diag")
    assert health_after(failed, level=2) == "failed"
    assert health_after(level=1) == "failed"
    assert health_after(failed, level=1) == "failed"
    assert health_after(level=1) == "failed"
    assert health_after(level=2) == "ok"
    assert detail(client, host)["gpu_list"][0]["health_level"] is None


@pytest.mark.parametrize("every", [False, True])
def test_a_fault_of_the_host_or_of_every_gpu_takes_it_to_maintenance(
    client: Client, fleet: Fleet, database: Database, *, every: bool
) -> None:
    host = fleet("a", gpus=2)
    scopes = uuids(client, host) if every else ["host"]
    found = checked(database, client, host, *(ledger.verdict(one, "CRITICAL", "reboot") for one in scopes))
    assert (found["state"], found["failed_step"]) == ("maintenance", "health")
    assert "as read" in found["failed_reason"]
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1})


def test_a_check_that_could_not_run_leaves_the_host_idle_and_unlent(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=2)
    found = checked(database, client, host, event=Event.FAIL, reason="no SSH server answers")
    assert (found["state"], found["health_verdict"], found["health_current"]) == ("idle", "UNKNOWN", False)
    refused = client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1})
    assert (refused["free"], refused["unchecked"]) == (0, 2)
    assert "2 wait for a health check of their host" in refused["detail"]
    (last, *_) = client.ok("GET", f"{HOSTS}/{host}/health-checks")["items"]
    assert (last["level"], last["verdict"], last["reason"]) == (None, "UNKNOWN", "no SSH server answers")
    assert checked(database, client, host)["health_current"] is True
    client.ok("POST", CLAIMS, 201, json={"gpus": 2})


def test_the_history_has_what_did_not_pass(client: Client, fleet: Fleet, database: Database) -> None:
    host = fleet("a", gpus=2)
    checked(database, client, host, ledger.verdict("host", "INFO", name="diag"))
    rows = client.ok("GET", f"{HOSTS}/{host}/health-checks")["items"]
    assert [(row["kind"], row["level"], row["verdict"]) for row in rows] == [
        ("host.health", 1, "INFO"),
        ("host.reclaim", 2, "PASS"),
    ]
    assert rows[0]["checks"] == [ledger.verdict("host", "INFO", name="diag")]
    assert rows[0]["passed"] == 3
    other = client.as_new("viewer")
    assert other.ok("GET", f"{HOSTS}/{host}/health-checks")["items"] == rows
    other.problem("POST", f"{HOSTS}/{host}/health-checks", 403, "forbidden")


@pytest.mark.parametrize(
    "document",
    [
        None,
        {"level": 2, "checks": []},
        {"level": 9, "checks": [ledger.verdict("host")]},
        {"level": 2, "checks": [ledger.verdict("host", "FINE")]},
        {"level": 2, "checks": [ledger.verdict("host")]},  # it names no GPU
        {"level": 2, "checks": [ledger.verdict("host", "CRITICAL", "reboot")]},
    ],
)
def test_a_reclaim_that_does_not_say_the_gpus_are_well_proves_nothing(
    client: Client, fleet: Fleet, document: dict[str, Any] | None
) -> None:
    host = fleet("a", gpus=2)
    operation = client.ok("POST", f"/api/v1/admin/machines/{host}/maintenance") and by_hand(client, host)
    report = ledger.report("reclaim").model_dump() | {"health": document}
    done = client.ok(
        "POST", f"/api/v1/operations/{operation}/finish", json={"status": "succeeded", "report": report}
    )
    assert done["state"] == "failed"
    assert detail(client, host)["state"] == "maintenance"


def test_reclaim_leaves_a_host_idle_with_its_sick_gpu_out(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=2)
    claim = client.ok("POST", CLAIMS, 201, json={"gpus": 2})
    client.ok("POST", f"{CLAIMS}/{claim['id']}/release")
    sick = ledger.verdict(uuids(client, host)[0], "CRITICAL", "service")
    ledger.finish(database, host, ledger.report("reclaim", health=ledger.verdicts(sick)))
    found = detail(client, host)
    assert found["state"] == "idle"
    assert [gpu["schedulable"] for gpu in found["gpu_list"]] == [False, True]


def test_a_failed_reclaim_keeps_what_it_learned_of_the_gpus(
    client: Client, fleet: Fleet, database: Database
) -> None:
    host = fleet("a", gpus=1)
    client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    made = ledger.report(
        "reclaim", health=ledger.verdicts(ledger.verdict(uuids(client, host)[0], "CRITICAL"))
    )
    ledger.finish(database, host, made, event=Event.FAIL, reason="1 health checks failed", step="verify")
    found = detail(client, host)
    assert (found["state"], found["gpu_list"][0]["health"]) == ("maintenance", "failed")


def test_a_check_by_hand_moves_the_host_as_the_worker_s_does(client: Client, fleet: Fleet) -> None:
    host = fleet("a", gpus=1)
    operation = by_hand(client, host, "health")
    assert detail(client, host)["state"] == "idle"
    verdicts = ledger.verdicts(gpus=uuids(client, host))
    report = ledger.report("health", health=verdicts).model_dump()
    done = client.ok(
        "POST", f"/api/v1/operations/{operation}/finish", json={"status": "succeeded", "report": report}
    )
    assert done["state"] == "succeeded"
    assert client.ok("GET", f"{HOSTS}/{host}/health-checks")["items"][0]["kind"] == "host.health"
