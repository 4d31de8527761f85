"""The main job, nothing simulated but the GPUs: enroll, lend, give back, clean, report, and survive."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.fleet.playbooks import PLAYBOOKS
from tests.e2e.conftest import PREFIX, Platform
from tests.support.server import ROOT

pytestmark = [pytest.mark.lab]
ENGINE = "sqlite"
BIG, SMALL = f"{PREFIX}-1", f"{PREFIX}-2"


@pytest.fixture(scope="module")
def fleet(platform: Platform) -> dict[str, str]:
    """Both lab hosts, enrolled and clean; their ids by name."""
    ids = {name: platform.enroll(name)["host"]["id"] for name in (BIG, SMALL)}
    for name, host_id in ids.items():
        found = platform.settled(host_id)
        assert found["state"] == "idle", (name, found["failed_step"], found["failed_reason"])
    return ids


def test_enroll_records_the_hardware(platform: Platform, fleet: dict[str, str]) -> None:
    host = platform.host(fleet[BIG])
    assert [gpu["index"] for gpu in host["gpu_list"]] == list(range(8))
    assert {gpu["model"] for gpu in host["gpu_list"]} == {"NVIDIA H100 80GB HBM3"}
    assert all(gpu["schedulable"] and gpu["health"] == "ok" for gpu in host["gpu_list"])
    assert len({gpu["nvlink_domain"] for gpu in host["gpu_list"]}) == 1
    assert host["host_keys"]
    assert host["facts"]["os"]["id"] == "debian"
    kinds = [(row["kind"], row["state"]) for row in platform.operations(fleet[BIG])]
    assert kinds == [("host.reclaim", "succeeded"), ("host.enroll", "succeeded")]


def test_a_loan_from_claim_to_report(platform: Platform, fleet: dict[str, str]) -> None:
    claim = {"gpus": 2, "same_host": True, "model": "NVIDIA L40S"}
    allocation = platform.ok("POST", "/api/v1/allocations", 201, json=claim)
    assert {gpu["host"] for gpu in allocation["gpus"]} == {SMALL}
    platform.lab.exec(SMALL, "sh", "-c", "echo tenant > /tmp/left && useradd -m mallory")
    platform.ok("POST", f"/api/v1/allocations/{allocation['id']}/release")
    assert platform.host(fleet[SMALL])["state"] == "reclaiming"
    found = platform.settled(fleet[SMALL])
    assert found["state"] == "idle", (found["failed_step"], found["failed_reason"])
    assert (
        platform.lab.exec(SMALL, "sh", "-c", "ls /tmp/left /home/mallory; id mallory; true", check=False)
        == ""
    )
    window = {"from": "2020-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"}
    report = platform.ok("GET", "/api/v1/admin/reports/usage", params=window)
    assert {line["gpu_uuid"] for line in report["usage"]} == {gpu["uuid"] for gpu in allocation["gpus"]}
    for line in report["capacity"]:
        parts = ("allocated", "idle", "reclaiming", "maintenance")
        assert sum(line[f"{part}_seconds"] for part in parts) == line["enrolled_seconds"]
    text = platform.client.get("/api/v1/admin/reports/usage", params=window | {"format": "csv"}).text
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(report["usage"]) + len(report["capacity"])


def test_a_check_of_health_gives_way_to_a_claim(platform: Platform, fleet: dict[str, str]) -> None:
    """DCGM's tests end on the host itself, not only in the ledger: a tenant is there."""
    checks = f"/api/v1/hosts/{fleet[SMALL]}/health-checks"
    operation = platform.ok("POST", checks, 202, json={"level": 1})
    platform.settled(fleet[SMALL])
    newest = platform.ok("GET", checks)["items"][0]
    assert (newest["operation_id"], newest["level"], newest["verdict"]) == (operation["id"], 1, "PASS")

    platform.lab.tell(SMALL, "slow-diag", "120")
    operation = platform.ok("POST", checks, 202, json={"level": 2})
    platform.until(lambda: diagnoses(platform), seconds=60, what=lambda: platform.operations(fleet[SMALL])[0])
    claim = {"gpus": 1, "model": "NVIDIA L40S"}
    allocation = platform.ok("POST", "/api/v1/allocations", 201, json=claim)
    platform.until(
        lambda: not diagnoses(platform), seconds=20, what=lambda: platform.operations(fleet[SMALL])[0]
    )
    platform.until(
        lambda: platform.operations(fleet[SMALL])[0]["state"] == "cancelled",
        seconds=20,
        what=lambda: operation,
    )
    platform.lab.tell(SMALL, "heal")
    platform.ok("POST", f"/api/v1/allocations/{allocation['id']}/release")
    assert platform.settled(fleet[SMALL])["state"] == "idle"


def diagnoses(platform: Platform) -> bool:
    return bool(platform.lab.exec(SMALL, "pgrep", "-f", "dcgmi diag", check=False).strip())


@pytest.mark.parametrize("step", [("discover",), ("harden", "manifest")])
def test_a_worker_killed_in_the_middle_of_an_enroll(
    platform: Platform, fleet: dict[str, str], step: tuple[str, ...]
) -> None:
    path = f"/api/v1/admin/machines/{fleet[SMALL]}/enroll"
    operation = platform.ok("POST", path, 202)
    platform.at_step(fleet[SMALL], "host.enroll", step)
    platform.kill_worker()
    platform.start_worker()
    _ended_properly(platform, fleet[SMALL], operation["id"])


@pytest.mark.parametrize("step", [("fence", "kill"), ("identity", "gpu")])
def test_a_worker_killed_in_the_middle_of_a_reclaim(
    platform: Platform, fleet: dict[str, str], step: tuple[str, ...]
) -> None:
    platform.lab.exec(SMALL, "sh", "-c", "echo tenant > /var/tmp/left")
    path = f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim"
    operation = platform.ok("POST", path, 202)
    platform.at_step(fleet[SMALL], "host.reclaim", step)
    platform.kill_worker()
    platform.start_worker()
    _ended_properly(platform, fleet[SMALL], operation["id"])
    assert platform.lab.exec(SMALL, "sh", "-c", "ls /var/tmp/left; true", check=False) == ""


def _ended_properly(platform: Platform, host_id: str, operation_id: str) -> None:
    found = platform.settled(host_id)
    done = platform.ok("GET", f"/api/v1/operations/{operation_id}")
    if found["state"] == "maintenance":
        assert found["failed_step"]
        assert found["failed_reason"]
        pytest.fail(f"{found['failed_step']}: {found['failed_reason']}")
    assert (found["state"], done["state"], done["attempt"]) == ("idle", "succeeded", 2)


def test_a_stopped_worker_gives_its_work_to_the_next(platform: Platform, fleet: dict[str, str]) -> None:
    operation = platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim", 202)
    platform.at_step(fleet[SMALL], "host.reclaim", ("fence", "kill"))
    assert platform.worker
    platform.worker.terminate()
    assert platform.worker.wait(30) == 0
    assert platform.ok("GET", f"/api/v1/operations/{operation['id']}")["state"] == "queued"
    platform.start_worker()
    assert platform.settled(fleet[SMALL])["state"] == "idle"
    assert platform.ok("GET", f"/api/v1/operations/{operation['id']}")["state"] == "succeeded"


def test_a_cancelled_reclaim_ends_in_maintenance(platform: Platform, fleet: dict[str, str]) -> None:
    operation = platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim", 202)
    platform.at_step(fleet[SMALL], "host.reclaim", ("fence", "kill", "wipe"))
    platform.ok("POST", f"/api/v1/operations/{operation['id']}/cancel", 202)
    found = platform.settled(fleet[SMALL])
    assert (found["state"], found["failed_reason"]) == ("maintenance", "Cancelled while it ran.")
    assert platform.ok("GET", f"/api/v1/operations/{operation['id']}")["state"] == "cancelled"
    platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim", 202)
    assert platform.settled(fleet[SMALL])["state"] == "idle"


def play(platform: Platform, playbook: str, limit: str) -> subprocess.CompletedProcess[str]:
    """As an operator does it by hand, with nothing but the URL and a key."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("IRONYARD_", "ANSIBLE_"))
    }
    env |= {"IRONYARD_URL": platform.url, "IRONYARD_TOKEN": platform.token, "HOME": str(platform.data_dir)}
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", "inventory/ironyard.yml", f"playbooks/{playbook}.yml", "--limit", limit]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
    )


def steps_of(platform: Platform, operation: dict[str, Any]) -> list[str]:
    log = platform.ok("GET", f"/api/v1/operations/{operation['id']}/log")
    known = PLAYBOOKS[
        operation["kind"].removeprefix("host.")
    ].steps  # a handler's role runs only after a change
    return list(dict.fromkeys(line["step"] for line in log if line["step"] in known))


def test_by_hand_and_by_the_worker_leave_the_same_record(platform: Platform, fleet: dict[str, str]) -> None:
    by_worker = next(row for row in platform.operations(fleet[BIG]) if row["kind"] == "host.enroll")
    before = platform.host(fleet[BIG])
    played = play(platform, "enroll", BIG)
    assert played.returncode == 0, played.stdout + played.stderr
    assert "changed=0" in played.stdout, played.stdout
    by_hand = next(row for row in platform.operations(fleet[BIG]) if row["kind"] == "host.enroll")
    assert by_hand["id"] != by_worker["id"]
    assert by_hand["worker"].startswith("ansible-playbook:")
    assert by_hand["state"] == by_worker["state"] == "succeeded"
    assert by_hand["outcome"].keys() == by_worker["outcome"].keys()
    assert by_hand["outcome"]["report"].keys() == by_worker["outcome"]["report"].keys()
    assert steps_of(platform, by_hand) == steps_of(platform, by_worker)
    found = platform.settled(fleet[BIG])
    assert found["state"] == "idle", (found["failed_step"], found["failed_reason"])
    assert [gpu["id"] for gpu in found["gpu_list"]] == [gpu["id"] for gpu in before["gpu_list"]]


def test_a_lent_host_is_refused_by_hand_before_any_task(platform: Platform, fleet: dict[str, str]) -> None:
    claim = {"gpus": 1, "model": "NVIDIA H100 80GB HBM3"}
    allocation = platform.ok("POST", "/api/v1/allocations", 201, json=claim)
    played = play(platform, "reclaim", BIG)
    assert played.returncode != 0
    assert "1 GPU of e2e" in played.stdout + played.stderr
    assert "TASK" not in played.stdout
    assert platform.host(fleet[BIG])["state"] == "allocated"
    platform.ok("POST", f"/api/v1/allocations/{allocation['id']}/release")
    assert platform.settled(fleet[BIG])["state"] == "idle"


def test_malformed_nvidia_smi_is_told_and_healed_by_reclaim(
    platform: Platform, fleet: dict[str, str]
) -> None:
    platform.lab.tell(SMALL, "malformed")
    try:
        platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/enroll", 202)
        found = platform.settled(fleet[SMALL])
        assert (found["state"], found["failed_step"]) == ("maintenance", "dcgm")  # the first that asks it
        assert "nvidia-smi" in found["failed_reason"]
    finally:
        platform.lab.tell(SMALL, "heal")
    platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim", 202)
    assert platform.settled(fleet[SMALL])["state"] == "idle"


def test_a_lost_gpu_keeps_the_host_out(platform: Platform, fleet: dict[str, str]) -> None:
    platform.lab.tell(SMALL, "lost", "--gpu", "0", "--mode", "gone")
    try:
        platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim", 202)
        found = platform.settled(fleet[SMALL])
        assert found["state"] == "maintenance"
        assert found["failed_step"] in ("gpu", "verify")
    finally:
        platform.lab.tell(SMALL, "heal")
    platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim", 202)
    assert platform.settled(fleet[SMALL])["state"] == "idle"


@pytest.mark.parametrize(
    ("change", "step", "says"),
    [
        ({"address": "127.0.0.1", "port": 1}, "connect", "No SSH server answers"),
        ({"key_reference": "/nowhere/key"}, "connect", ""),
        (
            {
                "host_keys": [
                    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8wIBAOVCdwqD10sJ4TuMPbVRpVJ/3vpl5vhQz1QvGk"
                ]
            },
            "connect",
            "other SSH host keys",
        ),
    ],
)
def test_hosts_that_cannot_be_reached_say_why(
    platform: Platform, fleet: dict[str, str], change: dict[str, Any], step: str, says: str
) -> None:
    if "address" not in change:  # the address belongs to an enrolled host: its name instead
        change = {"address": f"{platform.hosts[SMALL].address}", "port": 22} | change
        platform.retire(fleet[SMALL])
    made = platform.enroll("unreachable", at=SMALL, **change)
    found = platform.settled(made["host"]["id"])
    platform.retire(made["host"]["id"])
    assert (found["state"], found["failed_step"]) == ("maintenance", step)
    assert says.lower() in found["failed_reason"].lower()
