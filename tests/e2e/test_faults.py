"""What goes wrong while a host is reclaimed: it ends idle and clean, or in maintenance with the reason."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.fleet.playbooks import PLAYBOOKS
from tests.e2e.conftest import PREFIX, Platform

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
ENGINE = "sqlite"
WORKER = {"operation_attempts": "30"}
BIG, SMALL = f"{PREFIX}-1", f"{PREFIX}-2"
STEPS = tuple(step for step in PLAYBOOKS["reclaim"].steps if step != "report")
CUT_SECONDS = 60
# one thing in each place that a step answers for
LEAVE = """
id mallory >/dev/null 2>&1 || useradd -m mallory
touch /tmp/mallory /var/tmp/mallory /etc/cron.d/mallory; mkdir -p /srv/mallory
setsid sleep 72001 >/dev/null 2>&1 &
nvidia-smi -i 0 -c PROHIBITED >/dev/null
"""
LEFT = """
id -un mallory 2>/dev/null; pgrep -f 'sleep 7200[1]'
ls -d /tmp/mallory /var/tmp/mallory /etc/cron.d/mallory /srv/mallory /home/mallory 2>/dev/null
nvidia-smi --query-gpu=compute_mode --format=csv,noheader | grep -v Default
true
"""


@pytest.fixture(scope="module")
def fleet(platform: Platform) -> dict[str, str]:
    """Both lab hosts, enrolled and clean; their ids by name."""
    ids = {name: platform.enroll(name)["host"]["id"] for name in (BIG, SMALL)}
    for name, host_id in ids.items():
        found = platform.settled(host_id)
        assert found["state"] == "idle", (name, found["failed_step"], found["failed_reason"])
    return ids


def reclaim(platform: Platform, name: str, host_id: str) -> Any:
    """A tenant leaves something behind, then the host's reclaim begins."""
    platform.lab.exec(name, "bash", "-c", LEAVE)
    return platform.ok("POST", f"/api/v1/admin/machines/{host_id}/reclaim", 202)


def ended(platform: Platform, name: str, host_id: str) -> str:
    """The state in which the host ended: never idle and dirty, never stuck, never without a reason."""
    found = platform.settled(host_id)
    if found["state"] == "idle":
        assert platform.lab.exec(name, "bash", "-c", LEFT) == ""
        assert not platform.lab.exec(name, "bash", "-c", "ls /etc/nologin 2>/dev/null; true")
    else:
        assert found["state"] == "maintenance"
        assert found["failed_step"]
        assert found["failed_reason"]
    return str(found["state"])


def repaired(platform: Platform, name: str, host_id: str) -> None:
    """What a fault left is put right by one more reclaim."""
    platform.ok("POST", f"/api/v1/admin/machines/{host_id}/reclaim", 202)
    assert ended(platform, name, host_id) == "idle", platform.host(host_id)["failed_reason"]


def test_a_worker_killed_at_every_step(platform: Platform, fleet: dict[str, str]) -> None:
    operation = reclaim(platform, SMALL, fleet[SMALL])
    for step in STEPS:
        platform.at_step(fleet[SMALL], "host.reclaim", (step,))
        platform.kill_worker()
        platform.start_worker()
    assert ended(platform, SMALL, fleet[SMALL]) == "idle", platform.host(fleet[SMALL])["failed_reason"]
    done = platform.ok("GET", f"/api/v1/operations/{operation['id']}")
    assert (done["state"], done["attempt"]) == ("succeeded", len(STEPS) + 1)


def power_cycle(platform: Platform, name: str) -> None:
    subprocess.run(["docker", "kill", name], check=True, capture_output=True)
    subprocess.run(["docker", "start", name], check=True, capture_output=True)
    until = time.monotonic() + 90
    while "running" not in platform.lab.exec(
        name, "systemctl", "is-system-running", "--wait", check=False
    ) and not platform.lab.exec(name, "systemctl", "is-active", "ssh", check=False).startswith("active"):
        assert time.monotonic() < until
        time.sleep(0.3)


def cut_network(platform: Platform, name: str, seconds: float) -> None:
    """Packets are dropped, both ways, and come through again afterwards."""
    address = platform.hosts[name].address
    rules = [("-d", address), ("-s", address)]
    for rule in rules:
        subprocess.run(["iptables", "-I", "DOCKER-USER", *rule, "-j", "DROP"], check=True)
        subprocess.run(["iptables", "-I", "OUTPUT", *rule, "-j", "DROP"], check=True)
        subprocess.run(["iptables", "-I", "INPUT", *rule, "-j", "DROP"], check=True)
    try:
        time.sleep(seconds)
    finally:
        for rule in rules:
            for chain in ("DOCKER-USER", "OUTPUT", "INPUT"):
                subprocess.run(["iptables", "-D", chain, *rule, "-j", "DROP"], check=True)


def _reboots(platform: Platform, host_id: str) -> list[str]:
    states = []
    for step in STEPS:
        reclaim(platform, SMALL, host_id)
        platform.at_step(host_id, "host.reclaim", (step,))
        power_cycle(platform, SMALL)
        states.append(ended(platform, SMALL, host_id))
    repaired(platform, SMALL, host_id)
    return states


def _cuts(platform: Platform, host_id: str) -> list[str]:
    states = []
    for step in STEPS:
        reclaim(platform, BIG, host_id)
        platform.at_step(host_id, "host.reclaim", (step,))
        cut_network(platform, BIG, CUT_SECONDS if step == "wipe" else 5)
        states.append(ended(platform, BIG, host_id))
    repaired(platform, BIG, host_id)
    return states


def test_a_host_rebooted_and_a_network_cut_at_every_step(platform: Platform, fleet: dict[str, str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        reboots = pool.submit(_reboots, platform, fleet[SMALL])
        cuts = pool.submit(_cuts, platform, fleet[BIG])
        assert len(reboots.result()) == len(cuts.result()) == len(STEPS)


FREEZE = """
mkdir -p /sys/fs/cgroup/freezer/stuck
setsid sleep 72002 >/dev/null 2>&1 &
sleep 0.3
pgrep -f 'sleep 7200[2]' >/sys/fs/cgroup/freezer/stuck/cgroup.procs
echo FROZEN >/sys/fs/cgroup/freezer/stuck/freezer.state
"""
# (what a tenant does, what an operator does when the host then ends in maintenance)
FAULTS = {
    "full disks": (
        "for d in /tmp /var/tmp; do mount -t tmpfs -o size=64k tmpfs $d; yes 2>&- >$d/full; done; true",
        "umount -l /tmp /var/tmp",
    ),
    "no python": ("mv /usr/bin/python3 /usr/bin/gone", "mv /usr/bin/gone /usr/bin/python3"),
    "no systemctl": ("mv /usr/bin/systemctl /usr/bin/gone", "mv /usr/bin/gone /usr/bin/systemctl"),
    "no nvidia-smi": (
        "mv $(command -v nvidia-smi) /usr/bin/gone-smi",
        "mv /usr/bin/gone-smi /usr/bin/nvidia-smi",
    ),
    "a process that will not die": (
        FREEZE,
        "echo THAWED >/sys/fs/cgroup/freezer/stuck/freezer.state; pkill -9 -f 'sleep 7200[2]'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tenant_who_breaks_what_reclaim_works_with(
    platform: Platform, fleet: dict[str, str], fault: str
) -> None:
    harm, mend = FAULTS[fault]
    platform.lab.exec(SMALL, "bash", "-c", LEAVE)
    platform.lab.exec(SMALL, "bash", "-c", harm)
    platform.ok("POST", f"/api/v1/admin/machines/{fleet[SMALL]}/reclaim", 202)
    if ended(platform, SMALL, fleet[SMALL]) == "maintenance":
        platform.lab.exec(SMALL, "bash", "-c", mend)
        repaired(platform, SMALL, fleet[SMALL])
