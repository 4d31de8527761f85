"""Hosts over HTTP, and playbook runs that are reported by hand."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from api.core.db import Database
from api.core.operations.lifecycle import Event as OperationEvent
from api.fleet import operations as fleet_operations
from api.fleet import playbooks
from api.fleet.models import Host
from tests.conftest import Client
from tests.support import ledger
from tests.support.ledger import H100

HOSTS = "/api/v1/hosts"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret-material\n-----END OPENSSH PRIVATE KEY-----\n"
BODY = {"name": "gpu-01", "address": "192.0.2.1", "key_reference": "/etc/key", "region": "eu-west"}


def test_enroll_is_accepted_with_an_operation(client: Client) -> None:
    made = client.ok("POST", HOSTS, 202, json=BODY | {"labels": {"rack": "b12"}})
    assert made["host"]["state"] == "enrolling"
    operation = made["operation"]
    assert (operation["kind"], operation["state"], operation["subject"]) == (
        "host.enroll",
        "queued",
        "gpu-01",
    )
    assert client.ok("GET", f"/api/v1/operations/{operation['id']}") == operation


def test_a_private_key_is_sealed_and_never_shown(client: Client, app: FastAPI, database: Database) -> None:
    body = {name: value for name, value in BODY.items() if name != "key_reference"} | {"key": KEY}
    made = client.ok("POST", HOSTS, 202, json=body)
    with database.snapshot() as tx:
        sealed = tx.get_one(Host, UUID(made["host"]["id"])).sealed_key
    assert sealed is not None
    assert "secret-material" not in sealed
    assert app.state.secret_box.open(sealed) == KEY
    everything = client.get(HOSTS).text + client.get(f"{HOSTS}/{made['host']['id']}").text
    everything += client.get("/api/v1/inventory").text + client.get("/api/v1/admin/audit").text
    assert "secret-material" not in everything
    assert sealed not in everything


def test_an_idempotency_key_enrolls_once(client: Client) -> None:
    key = {"Idempotency-Key": "k1"}
    first = client.ok("POST", HOSTS, 202, json=BODY, headers=key)
    assert client.ok("POST", HOSTS, 202, json=BODY, headers=key)["operation"] == first["operation"]
    other = BODY | {"name": "gpu-02"}
    client.problem("POST", HOSTS, 409, "idempotency-key-reused", json=other, headers=key)


def test_names_and_addresses_are_unique(client: Client) -> None:
    client.ok("POST", HOSTS, 202, json=BODY)
    client.problem("POST", HOSTS, 409, "already-exists", json=BODY | {"address": "192.0.2.9"})
    client.problem("POST", HOSTS, 409, "already-exists", json=BODY | {"name": "gpu-02"})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Not A Name"},
        {"address": "-oProxyCommand=evil"},
        {"address": "a b"},
        {"port": 0},
        {"ssh_user": "root;id"},
        {"key_reference": "relative/path"},
        {"key_reference": None},
        {"key": KEY},
        {"key_reference": None, "key": "not a key"},
        {"host_keys": ["nonsense"]},
        {"region": ""},
        {"unknown": 1},
    ],
)
def test_bad_hosts_are_refused_whole(client: Client, change: dict[str, Any]) -> None:
    client.problem("POST", HOSTS, 422, "invalid-request", json=BODY | change)
    assert client.ok("GET", HOSTS)["items"] == []


def test_lists_filter(client: Client, fleet: Any) -> None:
    fleet("a", gpus=2, region="north", labels={"rack": "r1"})
    fleet("b", gpus=3, model="NVIDIA L40S")
    client.ok("POST", HOSTS, 202, json=BODY)

    def names(**params: Any) -> list[str]:
        return [row["name"] for row in client.ok("GET", HOSTS, params=params)["items"]]

    assert names() == ["a", "b", "gpu-01"]
    assert names(state="idle") == ["a", "b"]
    assert names(region="north") == ["a"]
    assert names(model="NVIDIA L40S") == ["b"]
    assert names(label="rack=r1") == ["a"]
    assert names(name="b") == ["b"]
    assert names(cordoned=True) == []
    gpus = client.ok("GET", "/api/v1/gpus", params={"model": H100, "held": False})["items"]
    assert {gpu["host"] for gpu in gpus} == {"a"}
    assert client.ok("GET", "/api/v1/gpus", params={"memory_mib": 100_000})["items"] == []


def test_unknown_hosts_are_not_found(client: Client) -> None:
    nobody = "00000000-0000-7000-8000-000000000000"
    client.problem("GET", f"{HOSTS}/{nobody}", 404, "not-found")
    client.problem("POST", f"/api/v1/admin/machines/{nobody}/reclaim", 404, "not-found")
    client.problem("GET", f"{HOSTS}/not-a-uuid", 422, "invalid-request")


def test_maintenance_leads_back_only_through_reclaim(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a")
    path = f"/api/v1/admin/machines/{host}"
    found = client.ok("POST", f"{path}/maintenance", json={"reason": "fan 3"})
    assert (found["state"], found["failed_reason"]) == ("maintenance", "fan 3")
    assert not any(gpu["schedulable"] for gpu in found["gpu_list"])
    client.problem("POST", f"{path}/verify", 409, "wrong-state")
    operation = client.ok("POST", f"{path}/reclaim", 202, json={"reason": "mended"})
    assert operation["kind"] == "host.reclaim"
    assert client.ok("GET", f"{HOSTS}/{host}")["state"] == "reclaiming"
    client.problem("POST", f"{path}/reclaim", 409, "wrong-state")
    ledger.finish(database, host, ledger.report("reclaim"))
    found = client.ok("GET", f"{HOSTS}/{host}")
    assert (found["state"], found["failed_reason"]) == ("idle", None)
    assert all(gpu["schedulable"] for gpu in found["gpu_list"])


def test_a_failed_reclaim_keeps_the_step_and_the_reason(
    client: Client, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    ledger.finish(database, host, event=OperationEvent.FAIL, reason="pid 7 does not die", step="kill")
    found = client.ok("GET", f"{HOSTS}/{host}")
    assert (found["state"], found["failed_step"], found["failed_reason"]) == (
        "maintenance",
        "kill",
        "pid 7 does not die",
    )


def test_a_success_without_a_report_proves_nothing(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a")
    client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    ledger.finish(database, host, None)
    assert client.ok("GET", f"{HOSTS}/{host}")["state"] == "maintenance"
    newest = client.ok("GET", "/api/v1/operations")["items"][0]
    assert newest["state"] == "failed"
    assert "no report" in newest["reason"]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"gpus": []}, "gpus"),
        ({}, "gpus"),
        ({"gpus": [{"index": 0, "uuid": "nonsense", "model": "x", "memory_mib": 1, "health": "ok"}]}, "uuid"),
        (None, "facts"),
    ],
)
def test_facts_that_cannot_be_right_fail_the_enrollment(
    client: Client, app: FastAPI, database: Database, facts: Any, says: str
) -> None:
    made = client.ok("POST", HOSTS, 202, json=BODY)
    host = UUID(made["host"]["id"])
    ledger.finish(database, host, ledger.report("enroll", facts=facts, manifest={"x": 1}))
    found = client.ok("GET", f"{HOSTS}/{host}")
    assert found["state"] == "maintenance"
    assert says in found["failed_reason"]
    assert found["gpus"] == 0


def test_a_gpu_cannot_belong_to_two_hosts(client: Client, app: FastAPI, database: Database) -> None:
    facts = ledger.facts(2)
    box = app.state.secret_box
    first = ledger.idle_host(database, box, "a", "192.0.2.1")
    uuid_of_first = client.ok("GET", f"{HOSTS}/{first}")["gpu_list"][0]["uuid"]
    facts["gpus"][0]["uuid"] = uuid_of_first
    made = client.ok("POST", HOSTS, 202, json=BODY | {"address": "192.0.2.77"})
    host = UUID(made["host"]["id"])
    ledger.finish(database, host, ledger.report("enroll", facts=facts, manifest={"x": 1}))
    found = client.ok("GET", f"{HOSTS}/{host}")
    assert found["state"] == "maintenance"
    assert "another host" in found["failed_reason"]


def test_a_second_enroll_follows_the_hardware(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a", gpus=3)
    before = client.ok("GET", f"{HOSTS}/{host}")["gpu_list"]
    client.ok("POST", f"/api/v1/admin/machines/{host}/enroll", 202)
    facts = ledger.facts(3)
    facts["gpus"][0]["uuid"], facts["gpus"][1]["uuid"] = before[0]["uuid"], before[1]["uuid"]
    facts["gpus"][1]["health"], facts["gpus"][1]["health_reasons"] = "failed", ["uncorrected ECC errors"]
    ledger.finish(database, host, ledger.report("enroll", facts=facts, manifest={"x": 1}))
    sick = ledger.verdicts(ledger.verdict(before[1]["uuid"], "CRITICAL", "service"))
    ledger.finish(database, host, ledger.report("reclaim", health=sick))
    after = client.ok("GET", f"{HOSTS}/{host}")["gpu_list"]
    assert [gpu["id"] for gpu in after[:2]] == [gpu["id"] for gpu in before[:2]]
    assert after[2]["uuid"] == facts["gpus"][2]["uuid"]
    assert [gpu["schedulable"] for gpu in after] == [True, False, True]


def test_retire_leaves_the_history_and_frees_the_name(client: Client, fleet: Any) -> None:
    host = fleet("gpu-01")
    operation = client.ok("POST", f"/api/v1/admin/machines/{host}/retire", 202, json={"reason": "old"})
    assert operation["kind"] == "host.retire"
    assert client.ok("GET", HOSTS)["items"] == []
    assert client.ok("GET", "/api/v1/gpus")["items"] == []
    assert client.ok("GET", f"{HOSTS}/{host}")["state"] == "retired"
    client.ok("POST", HOSTS, 202, json=BODY)


def by_hand(client: Client, playbook: str, *hosts: Any) -> list[str]:
    body = {"playbook": playbook, "hosts": [str(host) for host in hosts], "controller": "ada@bastion"}
    return [row["operation_id"] for row in client.ok("POST", "/api/v1/runs", 201, json=body)["operations"]]


def test_a_run_by_hand_leaves_the_record_of_a_run_by_the_worker(client: Client) -> None:
    made = client.ok("POST", HOSTS, 202, json=BODY | {"enroll": False})
    assert made["operation"] is None
    host = made["host"]["id"]
    (operation,) = by_hand(client, "enroll", host)
    line = {"step": "discover", "task": "Read the GPUs", "status": "ok", "seconds": 0.3}
    client.ok("POST", f"/api/v1/operations/{operation}/events", 204, json={"events": [line]})
    running = client.ok("GET", f"/api/v1/operations/{operation}")
    assert (running["state"], running["step"], running["progress"]) == (
        "running",
        "discover",
        playbooks.PLAYBOOKS["enroll"].progress("discover"),
    )
    report = ledger.report("enroll", facts=ledger.facts(2), manifest={"x": 1}).model_dump()
    done = client.ok(
        "POST", f"/api/v1/operations/{operation}/finish", json={"status": "succeeded", "report": report}
    )
    assert (done["state"], done["kind"], done["worker"]) == (
        "succeeded",
        "host.enroll",
        "ansible-playbook:ada@bastion",
    )
    log = client.ok("GET", f"/api/v1/operations/{operation}/log")
    assert [row["task"] for row in log] == ["Read the GPUs"]
    assert client.ok("GET", f"{HOSTS}/{host}")["state"] == "cleaning"
    finished = {"status": "succeeded", "report": report}
    client.problem("POST", f"/api/v1/operations/{operation}/finish", 409, "not-a-run-by-hand", json=finished)


def test_runs_by_hand_begin_on_all_hosts_or_none(client: Client, fleet: Any) -> None:
    free, lent = fleet("a", gpus=1), fleet("b", gpus=2)
    client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 2, "same_host": True})
    body = {"playbook": "reclaim", "hosts": [str(free), str(lent)], "controller": "ada@bastion"}
    client.problem("POST", "/api/v1/runs", 409, "host-not-idle", json=body)
    assert client.ok("GET", f"{HOSTS}/{free}")["state"] == "idle"
    assert client.ok("GET", "/api/v1/operations", params={"state": "running"})["items"] == []


def test_a_run_by_hand_that_falls_silent_ends_in_maintenance(
    client: Client, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    (operation,) = by_hand(client, "reclaim", host)
    with database.transaction() as tx:
        assert fleet_operations.fail_silent_runs(tx, silence=60) == 0
    with database.transaction() as tx:
        assert fleet_operations.fail_silent_runs(tx, silence=-1) == 1
    assert client.ok("GET", f"/api/v1/operations/{operation}")["state"] == "failed"
    assert client.ok("GET", f"{HOSTS}/{host}")["state"] == "maintenance"


def test_what_a_run_by_hand_reports_wrongly_fails_it(client: Client, fleet: Any) -> None:
    host = fleet("a")
    (operation,) = by_hand(client, "reclaim", host)
    report = ledger.report("verify").model_dump()
    done = client.ok(
        "POST", f"/api/v1/operations/{operation}/finish", json={"status": "succeeded", "report": report}
    )
    assert done["state"] == "failed"
    assert client.ok("GET", f"{HOSTS}/{host}")["state"] == "maintenance"


def test_the_inventory_names_holders_and_keeps_no_secret(client: Client, fleet: Any) -> None:
    fleet("a", gpus=2)
    client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 1})
    (host,) = client.ok("GET", "/api/v1/inventory")["hosts"]
    assert (host["state"], host["workspaces"], host["models"]) == ("allocated", ["default"], [H100])
    assert host["manifest"] == {"of": "a"}
    assert "sealed_key" not in host
