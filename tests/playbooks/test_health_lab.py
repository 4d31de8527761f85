"""Health on a lab host: each playbook's level, faults GPU by GPU, errors of a lease whose logs are gone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.lab import Lab, LabError
from tests.lab.fleet import Described
from tests.playbooks import ledger as ledgers
from tests.playbooks.conftest import ROOT
from tests.playbooks.fleet import Fleet, Played

pytestmark = pytest.mark.lab

NAME, GPUS = "heal-1", 6
FAULTS = {
    0: (("ecc", "--span", "volatile"), "ecc", "CRITICAL", "reset"),
    1: (("nvlink", "3"), "nvlink", "CRITICAL", "reset"),
    2: (("pcie", "8"), "pcie-width", "CRITICAL", "service"),
    3: (("diag", "--test", "software", "--severity", "2"), "diag", "CRITICAL", "drain"),
    4: (("xid", "119"), "xid", "CRITICAL", "reset"),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    lab = Lab(ROOT / ".ironyard" / "health-tests", prefix="heal")
    try:
        lab.ensure_engine()
        lab.down()
        hosts = lab.up([Described("lab", {}, "h100-sxm", GPUS, nvlink=True, uuids=(), switches=2)])
    except LabError as error:
        pytest.skip(f"no lab: {error}")
    with ledgers.serve() as ledger:
        yield Fleet(lab, hosts, ledger, tmp_path_factory.mktemp("home"))
    lab.down()


@pytest.fixture(scope="module")
def enrolled(fleet: Fleet) -> Played:
    return fleet.play("enroll", NAME)[NAME]


def loud(played: Played) -> dict[tuple[str, str], dict[str, Any]]:
    """The checks that say more than that all is well, by name and scope."""
    checks = played.report["health"]["checks"]
    return {(one["name"], one["scope"]): one for one in checks if one["verdict"] not in ("PASS", "INFO")}


def uuids(fleet: Fleet) -> list[str]:
    return fleet.sh(NAME, "nvidia-smi --query-gpu=uuid --format=csv,noheader").split()


def test_enrolment_runs_the_thorough_check(enrolled: Played, fleet: Fleet) -> None:
    assert enrolled.code == 0, enrolled.output
    assert enrolled.step("health")["status"] == "ok"
    assert not enrolled.step("health")["changed"]
    health = enrolled.report["health"]
    assert (health["level"], health["verdict"]) == (3, "PASS")
    tested = [one["scope"] for one in health["checks"] if one["name"] == "diag"]
    assert sorted(tested) == sorted(uuids(fleet))


@pytest.mark.usefixtures("enrolled")
def test_each_fault_is_its_gpu_s_and_the_host_can_be_lent(fleet: Fleet) -> None:
    for index, (fault, *_) in FAULTS.items():
        fleet.lab.tell(NAME, fault[0], "--gpu", str(index), *fault[1:])
    played = fleet.play("health", NAME)[NAME]
    assert played.code == 0, played.output
    found, named = loud(played), uuids(fleet)
    for index, (_, name, verdict, action) in FAULTS.items():
        check = found[name, named[index]]
        assert (check["verdict"], check["action"]) == (verdict, action)
    assert not [one for one in found.values() if one["scope"] in ("host", named[5])]


@pytest.mark.usefixtures("enrolled")
def test_reclaim_mends_what_a_reset_mends_and_leaves_the_rest_to_its_gpu(fleet: Fleet) -> None:
    """The faults are the last test's. The log with the Xid is emptied before the GPUs are looked at."""
    named = uuids(fleet)
    fleet.lab.tell(NAME, "diag", "--gpu", "3", "--test", "memory", "--severity", "6")
    played = fleet.play("reclaim", NAME)[NAME]
    assert played.code == 0, played.output
    health = played.report["health"]
    assert health["level"] == 2
    assert health["reset_at"] == pytest.approx(time.time(), abs=300)
    found = loud(played)
    failed = {key for key, one in found.items() if one["verdict"] == "CRITICAL"}
    assert failed == {("nvlink", named[1]), ("pcie-width", named[2]), ("diag", named[3])}
    mended = found["xid", named[4]]
    assert mended["verdict"] == "WARNING"
    assert "mended by a reset" in mended["detail"]
    assert any("pcie-width" in line for line in played.step("verify")["evidence"])


@pytest.mark.usefixtures("enrolled")
def test_a_host_whose_gpus_are_all_sick_fails_and_says_so(fleet: Fleet) -> None:
    for index in range(GPUS):
        fleet.lab.tell(NAME, "pcie", "--gpu", str(index), "4")
    played = fleet.play("health", NAME)[NAME]
    assert (played.code, played.report["failed_step"]) == (2, "health")
    assert "PCIe link x4, at enrolment x16" in played.report["failed_reason"]
    assert played.report["health"]["verdict"] == "CRITICAL"
    fleet.lab.tell(NAME, "heal")


@pytest.mark.usefixtures("enrolled")
def test_a_diagnostic_is_unknown_without_its_engine_and_ends_with_the_check(fleet: Fleet) -> None:
    fleet.lab.tell(NAME, "no-engine")
    played = fleet.play("health", NAME)[NAME]
    assert (played.code, played.report["health"]["verdict"]) == (2, "UNKNOWN")
    fleet.lab.tell(NAME, "heal")
    fleet.lab.tell(NAME, "slow-diag", "120")
    process = fleet.start("health", NAME)
    while not fleet.sh(NAME, "pgrep -fc 'dcgmi diag'", check=False).strip("0"):
        assert process.poll() is None
        time.sleep(0.3)
    call_off(process)
    fleet.sh(NAME, "pkill -f 'sshd: root'")  # a worker ends the connections of a run that was called off, too
    until = time.monotonic() + 30
    while fleet.sh(NAME, "pgrep -fc 'dcgmi diag'", check=False).strip("0"):
        assert time.monotonic() < until
        time.sleep(0.3)
    fleet.lab.tell(NAME, "heal")


def call_off(process: subprocess.Popen[str]) -> None:
    """End a play with its forks, which have sessions of their own."""
    command = psutil.Process(process.pid).cmdline()
    process.kill()
    for fork in psutil.process_iter(["cmdline"]):
        if fork.info["cmdline"] == command:
            fork.kill()
    process.communicate()
