"""Hosts whose policy is to be installed anew: the command, the new keys, the record; and changing a host."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from api.core import proof
from api.core.db import Database
from api.core.operations.execution import Executor
from api.core.operations.lifecycle import Event
from api.fleet import operations as fleet_operations
from api.fleet import reimage, runner
from api.fleet.models import Host
from api.fleet.playbooks import Playbook, Run
from api.settings import Settings
from tests.conftest import Client
from tests.support import ledger

HOSTS = "/api/v1/hosts"
OLD, NEW = "ssh-ed25519 AAAAold", "ssh-ed25519 AAAAnew"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret-material\n-----END OPENSSH PRIVATE KEY-----\n"
SCRIPT = """
import sys, time
print("installing", *sys.argv[1:], flush=True)
{body}
"""


class Machine:
    """Stands for the network and for ansible: presents keys, plays well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys = [[OLD], [], [NEW]]
        self.played: list[tuple[str, runner.Target]] = []
        self.facts: dict[str, Any] = {}
        self.failing: str | None = None
        monkeypatch.setattr(reimage, "scan_host_keys", self.scan)
        monkeypatch.setattr(reimage, "AGAIN", 0.01)
        monkeypatch.setattr(runner, "run", self.play)

    def scan(self, address: str, port: int, *, timeout: int) -> list[str]:
        return self.keys.pop(0) if len(self.keys) > 1 else self.keys[0]

    def play(self, playbook: Playbook, target: runner.Target, *_: Any, **__: Any) -> Run:
        self.played.append((playbook.name, target))
        if playbook.name == self.failing:
            return Run(Event.FAIL, "no package", "docker")
        parts: dict[str, Any] = {"steps": [{"name": playbook.name, "status": "ok", "seconds": 1}]}
        if playbook.name == "enroll":
            parts |= {"facts": self.facts, "manifest": {"of": "the new system"}, "host_keys": [NEW]}
        else:
            parts["health"] = ledger.verdicts(gpus=[gpu["uuid"] for gpu in self.facts["gpus"]])
        return Run(Event.SUCCEED, None, None, ledger.report(playbook.name, **parts), {}, target.host_keys)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "install.py"


@pytest.fixture
def settings(settings: Settings, script: Path) -> Settings:
    command = f"{sys.executable} {script} --host {{name}} {{address}}:{{port}} 'two words'"
    return settings.model_copy(update={"reimage_command": command, "reimage_timeout": 60})


@pytest.fixture
def host(client: Client, fleet: Any, database: Database, machine: Machine) -> UUID:
    made: UUID = fleet("gpu-01", gpus=2)
    with database.transaction() as tx:
        tx.get_one(Host, made).host_keys = [OLD]
    client.ok("PATCH", f"{HOSTS}/{made}", json={"reclaim_policy": "reimage"})
    gpus = client.ok("GET", f"{HOSTS}/{made}")["gpu_list"]
    facts = ledger.facts(2)
    for known, found in zip(gpus, facts["gpus"], strict=True):
        found["uuid"] = known["uuid"]
    machine.facts = facts
    return made


def reclaim(client: Client, database: Database, settings: Settings, host: UUID) -> Any:
    operation = client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)["id"]
    Executor(database, fleet_operations.handlers(settings), "w1", attempts=3).run(UUID(operation))
    return client.ok("GET", f"/api/v1/operations/{operation}")


def test_a_host_is_installed_anew_enrolled_and_verified(
    client: Client, database: Database, settings: Settings, machine: Machine, host: UUID, script: Path
) -> None:
    script.write_text(SCRIPT.format(body=""))
    done = reclaim(client, database, settings, host)
    assert (done["state"], done["reason"]) == ("succeeded", None)
    log = client.ok("GET", f"/api/v1/operations/{done['id']}/log")
    assert [line["message"] for line in log] == ["installing --host gpu-01 198.51.100.1:22 two words"]
    assert [name for name, _ in machine.played] == ["enroll", "verify"]
    (_, enroll), (_, verify) = machine.played
    assert (enroll.host_keys, enroll.variables["ironyard_manifest"], enroll.index) == ([NEW], None, None)
    assert verify.variables["ironyard_manifest"] == {"of": "the new system"}
    found = client.ok("GET", f"{HOSTS}/{host}")
    assert (found["state"], found["host_keys"]) == ("idle", [NEW])
    assert client.ok("GET", f"{HOSTS}/{host}/manifest")["manifest"] == {"of": "the new system"}
    record = client.ok("GET", f"{HOSTS}/{host}/reclaims/2")["record"]
    assert (record["method"], record["outcome"], record["manifest"]["number"]) == ("reimage", "clean", 2)
    assert [step["name"] for step in record["steps"]] == ["reimage", "enroll", "verify"]
    keys = client.ok("GET", "/api/v1/proof/keys")["keys"]
    assert proof.read(client.ok("GET", f"{HOSTS}/{host}/reclaims/2")["signature"], keys) == record


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("exit", "ended with exit code 3"),
        ("late", "did not end within 1 seconds"),
        ("absent", "cannot be run"),
        ("same keys", "No SSH server with new host keys"),
        ("enroll", "no package"),
        ("gpus", "GPUs of its record are gone"),
    ],
)
def test_what_goes_wrong_ends_in_maintenance_with_the_reason(
    client: Client,
    database: Database,
    settings: Settings,
    machine: Machine,
    host: UUID,
    script: Path,
    case: str,
    says: str,
) -> None:
    script.write_text(SCRIPT.format(body={"exit": "sys.exit(3)", "late": "time.sleep(60)"}.get(case, "")))
    change: dict[str, Any] = {"reimage_timeout": 1} if case in ("late", "same keys") else {}
    if case == "absent":
        change = {"reimage_command": "/nowhere/at/all {name}"}
    elif case == "same keys":
        machine.keys = [[OLD]]
    elif case == "enroll":
        machine.failing = "enroll"
    elif case == "gpus":
        machine.facts = ledger.facts(2)
    done = reclaim(client, database, settings.model_copy(update=change), host)
    assert done["state"] == "failed"
    assert says in done["reason"]
    found = client.ok("GET", f"{HOSTS}/{host}")
    assert found["state"] == "maintenance"
    assert says in found["failed_reason"]
    record = client.ok("GET", f"{HOSTS}/{host}/reclaims/2")["record"]
    assert (record["method"], record["outcome"]) == ("reimage", "failed")


def test_a_running_command_is_cancelled_with_its_children(
    client: Client, database: Database, settings: Settings, host: UUID, script: Path
) -> None:
    child = "import subprocess; subprocess.Popen(['sleep', '3977'], start_new_session=True)"
    script.write_text(SCRIPT.format(body=f"{child}; time.sleep(3600)"))
    operation = client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)["id"]
    executor = Executor(database, fleet_operations.handlers(settings), "w1", attempts=3)
    thread = threading.Thread(target=executor.run, args=(UUID(operation),))
    thread.start()
    while not client.ok("GET", f"/api/v1/operations/{operation}/log"):
        time.sleep(0.05)
    client.ok("POST", f"/api/v1/operations/{operation}/cancel", 202)
    thread.join()
    assert client.ok("GET", f"/api/v1/operations/{operation}")["state"] == "cancelled"
    mark = f"IRONYARD_OPERATION={operation}".encode()
    assert not [p for p in Path("/proc").glob("[0-9]*/environ") if mark in _read(p)]
    assert client.ok("GET", f"{HOSTS}/{host}/reclaims/2")["outcome"] == "cancelled"


def _read(environ: Path) -> bytes:
    try:
        return environ.read_bytes()
    except OSError:
        return b""


def test_such_a_host_is_not_cleaned_by_hand(client: Client, host: UUID) -> None:
    body = {"playbook": "reclaim", "hosts": [str(host)], "controller": "ada@bastion"}
    assert "reimaged" in client.problem("POST", "/api/v1/runs", 409, "conflict", json=body)["detail"]


@pytest.mark.parametrize("template", ["", "x {nobody}", "x 'open", "x {0}"])
def test_bad_templates_are_refused(template: str) -> None:
    target = runner.Target(UUID(int=1), UUID(int=2), "n", "a", 22, "root", None, None, [], {})
    with pytest.raises(ValueError, match=r"none of|no command|quotation"):
        reimage.arguments(template, target)


def test_a_host_is_changed_and_the_audit_says_what(client: Client, fleet: Any, app: FastAPI) -> None:
    host = fleet("a", gpus=1, labels={"rack": "b1"})
    path = f"{HOSTS}/{host}"
    body = {"labels": {"rack": "b2"}, "region": "north", "port": 2222, "ssh_user": "ops", "reason": "moved"}
    found = client.ok("PATCH", path, json=body)
    assert (found["labels"], found["region"], found["port"]) == ({"rack": "b2"}, "north", 2222)
    assert found["gpu_list"][0]["region"] == "north"
    event = client.ok("GET", "/api/v1/admin/audit", params={"action": "host.changed"})["items"][0]
    assert event["before"] == {
        "labels": {"rack": "b1"},
        "region": "test",
        "port": 22,
        "ssh_user": "root",
    }
    assert (event["after"]["region"], event["reason"]) == ("north", "moved")
    found = client.ok("PATCH", path, json={"key": KEY, "host_keys": [NEW]})
    assert (found["key_reference"], found["host_keys"]) == (None, [NEW])
    text = client.get("/api/v1/admin/audit").text
    assert "secret-material" not in text
    assert client.ok("PATCH", path, json={"key_reference": "/k", "host_keys": []})["host_keys"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"region": "Not One"},
        {"key": "none"},
        {"key": KEY, "key_reference": "/k"},
        {"reclaim_policy": "burn"},
        {"port": 0},
        {"state": "idle"},
    ],
)
def test_bad_changes_are_refused(client: Client, fleet: Any, change: dict[str, Any]) -> None:
    client.problem("PATCH", f"{HOSTS}/{fleet('a')}", 422, "invalid-request", json=change)


def test_who_is_lent_or_busy_is_not_changed(client: Client, fleet: Any) -> None:
    first, second = fleet("a", gpus=1), fleet("b", gpus=1)
    client.problem("PATCH", f"{HOSTS}/{first}", 409, "already-exists", json={"address": "198.51.100.2"})
    lent = client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 1})["gpus"][0]["host_id"]
    client.problem("PATCH", f"{HOSTS}/{lent}", 409, "host-not-idle", json={"region": "x"})
    free = second if str(first) == lent else first
    client.ok("POST", f"/api/v1/admin/machines/{free}/verify", 202)
    client.problem("PATCH", f"{HOSTS}/{free}", 409, "wrong-state", json={"region": "x"})
    client.as_new("member").problem("PATCH", f"{HOSTS}/{free}", 403, "forbidden", json={"region": "x"})


def test_without_a_command_no_host_is_to_be_reimaged(client: Client, fleet: Any, app: FastAPI) -> None:
    app.state.settings = app.state.settings.model_copy(update={"reimage_command": ""})
    found = client.problem(
        "PATCH", f"{HOSTS}/{fleet('a')}", 422, "invalid-request", json={"reclaim_policy": "reimage"}
    )
    assert "IRONYARD_REIMAGE_COMMAND" in found["detail"]
