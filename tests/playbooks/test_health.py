"""The health checks: each can fail, and each failure says what it is, whose it is and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import (
    diag,
    gpus,
    health,
    machine,
    nvidia_smi,
    thresholds,
    verdicts,
    xid,
)
from ansible.module_utils.steps import Ran, Step, StepFailed

from tests.lab.simulated import Simulated
from tests.playbooks.conftest import PLAYBOOKS, load

Check = dict[str, Any]
module = load(PLAYBOOKS / "library" / "ironyard_health.py")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    """The checks run here and see the simulated GPUs; nothing is in the kernel's log."""
    simulated = Simulated(tmp_path, "h100-sxm", 2)

    def run(*argv: str, timeout: float = 60.0, feed: str | None = None) -> Ran:
        del timeout, feed
        if argv[0] == "nvidia-smi":
            code, said = simulated.try_smi(*argv[1:])
            return Ran(argv, code, said, "")
        return Ran(argv, 0, "", "")

    for used in (nvidia_smi, health, xid, diag):
        monkeypatch.setattr(used, "run", run)
    monkeypatch.setattr(machine, "pci_gpus", lambda: machine.parse_lspci(simulated.lspci("-Dnmm")))
    monkeypatch.setattr(diag.shutil, "which", lambda *_a, **_k: None)
    return simulated


def manifest(simulated: Simulated) -> dict[str, Any]:
    answer = nvidia_smi.parse(simulated.smi("-q", "-x"))
    return {"gpu": answer, "services": {}, "units": {}, "active_units": [], "homes": {}}


def bad(checks: list[Check]) -> dict[tuple[str, str], Check]:
    """Of each check and scope the worst, where that is a warning or worse."""
    ranked = sorted(checks, key=lambda one: verdicts.RANK.index(one["verdict"]))
    return {
        (one["name"], one["scope"]): one
        for one in ranked
        if one["verdict"] not in (verdicts.PASS, verdicts.INFO)
    }


def test_a_well_host_passes_every_check(host: Simulated) -> None:
    checks = health.examine(manifest(host), 1)
    assert bad(checks) == {}
    document = health.document(1, checks)
    assert (document["level"], document["verdict"]) == (1, "INFO")  # DCGM is not there
    names = {one["name"] for one in checks if one["scope"] == host.gpus[0]["uuid"]}
    assert names == {
        *("answers", "ecc", "memory-repair", "pages", "recovery", "slowdown", "temperature", "fabric"),
        *("pcie-width", "lifetime-ecc", "firmware", "gpu-memory", "nvlink", "xid"),
    }


# what goes wrong, the check that says so, its verdict, its action
FAULTS = [
    (("ecc", "--span", "volatile"), "ecc", "CRITICAL", "reset"),
    (("ecc", "--span", "aggregate", "--count", "20"), "lifetime-ecc", "CRITICAL", "service"),
    (("ecc", "--span", "aggregate", "--count", "2"), "lifetime-ecc", "WARNING", "none"),
    (("remap", "pending"), "memory-repair", "CRITICAL", "reset"),
    (("remap", "failure"), "memory-repair", "CRITICAL", "service"),
    (("ghost", "--memory", "4096"), "gpu-memory", "CRITICAL", "reset"),
    (("throttle", "--reason", "hw_thermal_slowdown"), "slowdown", "CRITICAL", "service"),
    (("throttle", "--reason", "hw_power_brake_slowdown"), "slowdown", "CRITICAL", "service"),
    (("throttle", "--reason", "sw_thermal_slowdown"), "slowdown", "WARNING", "none"),
    (("heat", "90"), "temperature", "CRITICAL", "drain"),
    (("heat", "88"), "temperature", "WARNING", "none"),
    (("pcie", "8"), "pcie-width", "CRITICAL", "service"),
    (("nvlink", "2"), "nvlink", "CRITICAL", "reset"),
    (("fabric", "Not Started"), "fabric", "CRITICAL", "reset"),
    (("fabric", "In Progress"), "fabric", "UNKNOWN", "reset"),
    (("recovery", "Drain and Reset"), "recovery", "CRITICAL", "drain"),
    (("recovery", "Sing"), "recovery", "CRITICAL", "service"),
    (("vbios", "96.00.00.00.66"), "firmware", "CRITICAL", "service"),
]


@pytest.mark.parametrize(("fault", "name", "verdict", "action"), FAULTS, ids=str)
def test_a_fault_of_one_gpu_is_that_gpu_s(
    host: Simulated, fault: tuple[str, ...], name: str, verdict: str, action: str
) -> None:
    before, sick = manifest(host), host.gpus[1]["uuid"]
    host.tell(fault[0], "--gpu", "1", *fault[1:])
    checks = health.examine(before, 1)
    found = bad(checks)[name, sick]
    assert (found["verdict"], found["action"]) == (verdict, action)
    assert not [one for one in bad(checks).values() if one["scope"] == host.gpus[0]["uuid"]]
    if verdict in verdicts.FAILING and fault != ("remap", "failure"):
        assert verdicts.host_faults(checks, [gpu["uuid"] for gpu in host.gpus]) == []


def test_faults_of_every_gpu_are_the_host_s(host: Simulated) -> None:
    before = manifest(host)
    for index in "01":
        host.tell("ghost", "--gpu", index)
    checks = health.examine(before, 1)
    assert len(verdicts.host_faults(checks, [gpu["uuid"] for gpu in host.gpus])) == 2


def test_a_gpu_that_needs_a_reboot_takes_its_host_along(host: Simulated) -> None:
    before = manifest(host)
    host.tell("recovery", "--gpu", "1", "Reboot")
    found = bad(health.examine(before, 1))["recovery", verdicts.HOST]
    assert found["action"] == "reboot"
    assert host.gpus[1]["uuid"] in found["detail"]


@pytest.mark.parametrize(
    ("fault", "name", "verdict"),
    [
        (("lost", "--mode", "gone", "--gpu", "1"), "gpu-count", "CRITICAL"),
        (("lost", "--mode", "handle", "--gpu", "1"), "driver", "UNKNOWN"),
        (("no-driver",), "driver", "UNKNOWN"),
        (("mismatch",), "driver", "UNKNOWN"),
        (("malformed",), "driver", "UNKNOWN"),
    ],
    ids=str,
)
def test_what_the_host_cannot_answer_for_is_its_own_fault(
    host: Simulated, fault: tuple[str, ...], name: str, verdict: str
) -> None:
    before = manifest(host)
    host.tell(*fault)
    checks = health.examine(before, 1)
    assert bad(checks)[name, verdicts.HOST]["verdict"] == verdict
    assert verdicts.host_faults(checks, [gpu["uuid"] for gpu in host.gpus])


def test_a_gpu_too_many_and_another_driver_are_faults(host: Simulated) -> None:
    before = manifest(host)
    before["gpu"]["gpus"] = before["gpu"]["gpus"][:1]
    before["gpu"]["driver_version"] = "1.2"
    found = bad(health.examine(before, 1))
    assert "enroll the host again" in found["gpu-count", verdicts.HOST]["detail"]
    assert found["driver", verdicts.HOST]["action"] == "reboot"


def test_a_host_without_nvidia_smi(host: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    before = manifest(host)
    monkeypatch.setattr(nvidia_smi, "query", lambda: None)
    assert bad(health.examine(before, 1))["driver", verdicts.HOST]["verdict"] == "UNKNOWN"
    monkeypatch.setattr(machine, "pci_gpus", list)
    before["gpu"] = {"driver_version": None, "gpus": []}
    assert verdicts.worst(health.examine(before, 1)) == verdicts.PASS


def test_a_process_on_a_gpu_is_found_and_a_tenant_s_own_is_let_be(
    host: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifest(host)
    with host.start("nvidia_sim.py", "use", "--gpu", "1", "--memory", "9000", "--", "sleep", "60") as process:
        while not host.smi("--query-compute-apps=pid", "--format=csv,noheader"):
            assert process.poll() is None
        monkeypatch.setattr(gpus.processes, "foreign", lambda running, _manifest: list(running.values()))
        checks = health.examine(before, 1)
        held = health.examine(before, 0, held=[host.gpus[1]["uuid"]])
        process.kill()
    found = bad(checks)
    assert found["gpu-processes", verdicts.HOST]["action"] == "drain"
    assert found["gpu-memory", host.gpus[1]["uuid"]]["verdict"] == "CRITICAL"
    assert bad(held) == {}


@pytest.mark.parametrize(
    ("units", "active", "verdict"),
    [("", "inactive", "PASS"), ("enabled", "active", "PASS"), ("enabled", "failed", "CRITICAL")],
)
def test_the_fabric_manager_has_to_run_where_it_is(
    host: Simulated, monkeypatch: pytest.MonkeyPatch, units: str, active: str, verdict: str
) -> None:
    present = manifest(host)["gpu"]["gpus"]

    def run(*argv: str, timeout: float = 0) -> Ran:
        del timeout
        listed = f"{health.FABRIC_MANAGER} {units}" if units else ""
        return Ran(argv, 0, listed if "list-unit-files" in argv else active, "")

    monkeypatch.setattr(health, "run", run)
    (found,) = health.fabric_manager(present)
    assert (found["verdict"], found["scope"]) == (verdict, verdicts.HOST)
    for gpu in present:
        gpu["readings"]["fabric_state"] = None
    assert health.fabric_manager(present) == []


def test_links_of_recorded_machines(recordings: Path) -> None:
    listed = health.parse_links((recordings / "gpud" / "nvlink-status-a100.txt").read_text())
    assert set(listed.values()) == {(12, 0, "")}
    assert thresholds.nvlinks("NVIDIA A100-SXM4-80GB") == 12
    capture = next((recordings / "captures").glob("*h100-80gb-hbm3*")).read_text()
    shown = capture.partition("$ nvidia-smi nvlink -s\n")[2].split("\n\n")[0]
    assert set(health.parse_links(shown).values()) == {(18, 0, "")}
    assert thresholds.nvlinks("NVIDIA H100 80GB HBM3") == 18


def test_a_link_without_a_speed_is_down() -> None:
    said = (
        "GPU 0: NVIDIA B200 (UUID: GPU-1)\n\t Link 0: <inactive>\n\t Link 1: 50 GB/s\n\t Link 2: new words\n"
    )
    assert health.parse_links(said) == {"GPU-1": (1, 2, "")}


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("Tesla V100-SXM2-32GB", 6),
        ("NVIDIA H200", 18),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H800", 8),
        ("NVIDIA B200", 18),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA L40S", None),
        (None, None),
    ],
)
def test_links_by_the_product_s_name(model: str | None, count: int | None) -> None:
    assert thresholds.nvlinks(model) == count


def test_links_that_cannot_be_read_are_unknown(host: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    present = manifest(host)["gpu"]["gpus"]
    monkeypatch.setattr(health, "run", lambda *argv, **_: Ran(argv, 1, "", "no"))
    assert [one["verdict"] for one in health.links(present, thresholds.DEFAULTS)] == ["UNKNOWN"] * 2


def test_thresholds_can_be_overridden(host: Simulated) -> None:
    before = manifest(host)
    host.tell("nvlink", "--gpu", "1", "2")
    assert bad(health.examine(before, 1, overrides={"nvlinks_down": "2"})) == {}
    with pytest.raises(StepFailed, match="unknown health thresholds: colour"):
        thresholds.limits({"colour": 1})
    with pytest.raises(StepFailed, match="not a number"):
        thresholds.limits({"retired_pages": "many"})
    assert all(source for _, source in thresholds.SOURCES.values())


def params(simulated: Simulated, **more: Any) -> dict[str, Any]:
    whole = manifest(simulated) | {"format": 2}
    plain = {"level": 1, "since": 0.0, "reset_at": None, "held": [], "xids": [], "thresholds": {}}
    return plain | {"manifest": whole, "enforce": True, "collect": False} | more


def test_a_sick_gpu_does_not_fail_the_step_and_a_sick_host_does(host: Simulated) -> None:
    asked = params(host)
    host.tell("ecc", "--gpu", "1", "--span", "volatile")
    step = Step("health")
    document = module.body(step, asked)["health"]
    assert document["verdict"] == "CRITICAL"
    assert document["checks"][0]["scope"] == host.gpus[1]["uuid"]
    assert any(host.gpus[1]["uuid"] in line for line in step.evidence)
    host.tell("ecc", "--gpu", "0", "--span", "volatile")
    with pytest.raises(StepFailed, match="uncorrectable") as caught:
        module.body(Step("health"), asked)
    assert caught.value.result["health"]["verdict"] == "CRITICAL"
    assert module.body(Step("health"), asked | {"enforce": False})["health"]["verdict"] == "CRITICAL"
    assert step.changed is False


def test_no_check_at_all_is_unknown() -> None:
    assert verdicts.worst([]) == verdicts.UNKNOWN


def test_the_worst_checks_come_first_and_the_document_has_an_end() -> None:
    many = [verdicts.passed("a", "x")] * 300 + [verdicts.critical("b", "y", "reset")]
    document = health.document(2, many)
    assert document["checks"][0]["verdict"] == "CRITICAL"
    assert len(document["checks"]) == health.DOCUMENTED


def test_verify_takes_the_host_s_faults_for_findings_and_silence_for_one() -> None:
    verify = load(PLAYBOOKS / "library" / "ironyard_verify.py")
    enrolled = {"gpu": {"gpus": [{"uuid": "GPU-1"}, {"uuid": "GPU-2"}]}}
    one, other = (verdicts.critical("ecc", "3 errors", "reset", scope=uuid) for uuid in ("GPU-1", "GPU-2"))
    lost = verdicts.critical("gpu-count", "GPU-2 is missing", "reboot")
    assert verify.health_findings({"checks": [one]}, enrolled) == []
    assert len(verify.health_findings({"checks": [one, other]}, enrolled)) == 2
    (found,) = verify.health_findings({"checks": [one, lost]}, enrolled)
    assert found == "CRITICAL gpu-count of host: GPU-2 is missing (action: reboot)"
    assert verify.health_findings(None, enrolled) == ["the health of host and GPUs was not checked"]
