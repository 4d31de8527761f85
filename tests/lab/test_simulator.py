"""The simulated GPUs: what the tools change, what they refuse, and the faults they are told to show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.lab.simulated import Simulated


@pytest.fixture
def gpus(tmp_path: Path) -> Simulated:
    return Simulated(tmp_path)


@pytest.fixture
def user(gpus: Simulated) -> Iterator[subprocess.Popen[str]]:
    """A process that uses GPU 0."""
    with gpus.start("nvidia_sim.py", "use", "--memory", "900", "--", "sleep", "60") as process:
        wait(lambda: used(gpus) == "900")
        yield process
        process.kill()


def wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def used(gpus: Simulated, index: int = 0) -> str:
    return gpus.query("memory.used")[index][0]


def test_a_description_gives_the_same_ids_again(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert Simulated(tmp_path).gpus == Simulated(tmp_path / "again").gpus


def test_a_process_holds_its_gpu_until_it_ends(gpus: Simulated, user: subprocess.Popen[str]) -> None:
    rows = gpus.smi("--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader")
    assert rows == f"{user.pid}, sleep, 900 MiB\n"
    user.kill()
    user.wait()
    assert used(gpus) == "0"
    assert not gpus.smi("--query-compute-apps=pid", "--format=csv,noheader")


def test_no_reset_while_a_process_uses_the_gpu(gpus: Simulated, user: subprocess.Popen[str]) -> None:
    code, said = gpus.try_smi("-r", "-i", "0")
    assert code == 19
    assert "In use by another client" in said
    assert "was successfully reset" in gpus.smi("--gpu-reset", "-i", "1")
    user.kill()
    user.wait()
    assert gpus.smi("-r", "-i", "0").endswith("was successfully reset.\nAll done.\n")


def test_a_stuck_process_needs_sigkill(gpus: Simulated) -> None:
    pid = int(gpus.tell("stuck", "--gpu", "1"))
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    assert used(gpus, 1) == "2048"
    os.kill(pid, signal.SIGKILL)
    wait(lambda: used(gpus, 1) == "0")


def test_ghost_memory_stays_until_a_reset(gpus: Simulated) -> None:
    gpus.tell("ghost", "--memory", "4096")
    assert used(gpus) == "4096"
    assert not gpus.smi("--query-compute-apps=pid", "--format=csv,noheader")
    gpus.smi("-r", "-i", "0")
    assert used(gpus) == "0"


@pytest.mark.parametrize(
    ("argv", "field", "before", "after"),
    [
        (("-pm", "0"), "persistence_mode", "Enabled", "Disabled"),
        (("--compute-mode=EXCLUSIVE_PROCESS",), "compute_mode", "Default", "Exclusive_Process"),
        (("-c", "2"), "compute_mode", "Default", "Prohibited"),
        (("-pl", "350"), "power.limit", "700.00", "350.00"),
        (("-e", "0"), "ecc.mode.pending", "Enabled", "Disabled"),
        (("-mig", "1"), "mig.mode.current", "Disabled", "Enabled"),
        (("-lgc", "900,1200"), "clocks.current.sm", "345", "900"),
        (("-lmc", "1593"), "clocks.current.memory", "2619", "1593"),
        (("-am", "1"), "accounting.mode", "Disabled", "Enabled"),
    ],
)
def test_a_setting_changes_the_asked_gpu_only(
    gpus: Simulated, argv: tuple[str, ...], field: str, before: str, after: str
) -> None:
    assert gpus.query(field) == [[before], [before]]
    assert gpus.smi(*argv, "-i", "1").endswith("All done.\n")
    assert gpus.query(field) == [[before], [after]]


@pytest.mark.parametrize(
    ("there", "back", "kept"),
    [
        (("-lgc", "900"), ("-rgc",), "gpu_clocks"),
        (("-lmc", "1593"), ("--reset-memory-clocks",), "memory_clocks"),
        (("-ac", "2619,1980"), ("-rac",), "application_clocks"),
    ],
)
def test_clocks_are_locked_and_released(
    gpus: Simulated, there: tuple[str, ...], back: tuple[str, ...], kept: str
) -> None:
    gpus.smi(*there)
    assert gpus.state()[kept]
    gpus.smi(*back)
    assert gpus.state()[kept] is None


@pytest.mark.parametrize("argv", [("-pl", "900"), ("-ac", "2619,1"), ("-pm", "maybe"), ("-c", "9")])
def test_a_value_out_of_range_is_refused_and_changes_nothing(gpus: Simulated, argv: tuple[str, ...]) -> None:
    before = gpus.state()
    assert gpus.try_smi(*argv)[0] == 2
    assert gpus.state() == before


def test_ecc_takes_effect_at_the_reset(gpus: Simulated) -> None:
    gpus.smi("-e", "0", "-i", "0")
    assert gpus.query("ecc.mode.current,ecc.mode.pending", "-i", "0") == [["Enabled", "Disabled"]]
    gpus.smi("-r", "-i", "0")
    assert gpus.query("ecc.mode.current", "-i", "0") == [["Disabled"]]
    assert gpus.query("ecc.errors.uncorrected.volatile.total", "-i", "0") == [["[N/A]"]]


def test_ecc_errors_count_until_they_are_cleared(gpus: Simulated) -> None:
    gpus.tell("ecc", "--count", "3")
    fields = "ecc.errors.uncorrected.volatile.total,ecc.errors.uncorrected.aggregate.dram,gpu_recovery_action"
    assert gpus.query(fields, "-i", "0") == [["3", "3", "Reset"]]
    gpus.smi("-r", "-i", "0")
    assert gpus.query(fields, "-i", "0") == [["0", "3", "None"]]
    gpus.smi("-p", "1", "-i", "0")
    assert gpus.query(fields, "-i", "0") == [["0", "0", "None"]]


def test_a_pending_remap_is_done_by_the_reset_and_a_failed_one_stays(gpus: Simulated) -> None:
    fields = "remapped_rows.pending,remapped_rows.failure,remapped_rows.uncorrectable"
    gpus.tell("remap", "pending")
    assert gpus.query(fields, "-i", "0") == [["Yes", "No", "0"]]
    gpus.smi("-r", "-i", "0")
    assert gpus.query(fields, "-i", "0") == [["No", "No", "1"]]
    gpus.tell("remap", "failure")
    gpus.smi("-r", "-i", "0")
    assert gpus.query(fields, "-i", "0") == [["No", "Yes", "1"]]


@pytest.mark.parametrize(("mode", "code"), [("handle", 255), ("lost", 15)])
def test_a_gpu_off_the_bus_stops_the_tool(gpus: Simulated, mode: str, code: int) -> None:
    gpus.tell("lost", "--gpu", "1", "--mode", mode)
    for argv in (("-L",), ("-q", "-x"), ("--query-gpu=index", "--format=csv"), ("-r",)):
        assert gpus.try_smi(*argv)[0] == code
    assert gpus.smi("-L", "-i", "0").startswith("GPU 0:")
    assert "rev ff" in gpus.lspci().splitlines()[1]


def test_a_gpu_can_vanish(gpus: Simulated) -> None:
    gpus.tell("lost", "--mode", "gone")
    assert gpus.xml().findtext("attached_gpus") == "1"
    assert gpus.try_smi("-i", "0", "-L")[0] == 6
    assert len(gpus.lspci("-Dnmm").splitlines()) == 1
    gpus.tell("heal")
    assert len(gpus.smi("-L").splitlines()) == 2


@pytest.mark.parametrize(("fault", "code"), [("mismatch", 18), ("no-driver", 9)])
def test_the_driver_can_fail(gpus: Simulated, fault: str, code: int) -> None:
    gpus.tell(fault)
    assert gpus.try_smi("-q", "-x")[0] == code
    assert gpus.try_smi("-pm", "1")[0] == code
    gpus.tell("heal")
    assert gpus.xml() is not None


def test_the_xml_can_break_off(gpus: Simulated) -> None:
    gpus.tell("malformed")
    with pytest.raises(ET.ParseError):
        gpus.xml()


def test_the_tool_can_hang_and_still_be_healed(gpus: Simulated) -> None:
    gpus.tell("hang", "30")
    with gpus.start("nvidia_smi.py", "-pm", "1") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        gpus.tell("heal")
        process.kill()
    assert gpus.smi("-L")


def test_a_throttled_gpu_says_why(gpus: Simulated) -> None:
    gpus.tell("throttle", "--reason", "hw_thermal_slowdown")
    assert gpus.query("clocks_event_reasons.hw_thermal_slowdown,clocks_event_reasons.active", "-i", "0") == [
        ["Active", "0x0000000000000041"]
    ]


def test_mig_instances_are_made_and_taken_down(gpus: Simulated) -> None:
    assert gpus.try_smi("mig", "-lgi") == (6, "No MIG-enabled devices found.\n")
    gpus.smi("-mig", "1", "-i", "0")
    assert gpus.try_smi("mig", "-lgi")[0] == 6
    made = gpus.smi("mig", "-i", "0", "-cgi", "3g.40gb,19", "-C")
    assert made.count("Successfully created GPU instance") == 2
    assert [d.findtext("gpu_instance_id") for d in gpus.xml().iter("mig_device")] == ["1", "7"]
    assert "MIG 3g.40gb" in gpus.smi("mig", "-lgi")
    assert gpus.try_smi("mig", "-dgi")[0] == 19
    gpus.smi("mig", "-dci")
    assert not list(gpus.xml().iter("mig_device"))
    assert gpus.smi("mig", "-dgi").count("Successfully destroyed GPU instance") == 2
    gpus.smi("-mig", "0", "-i", "0")
    assert gpus.query("mig.mode.current", "-i", "0") == [["Disabled"]]


def test_mig_refuses_what_does_not_fit(gpus: Simulated) -> None:
    gpus.smi("-mig", "1")
    gpus.smi("mig", "-i", "0", "-cgi", "0", "-C")
    code, said = gpus.try_smi("mig", "-i", "0", "-cgi", "19")
    assert code
    assert "Insufficient Resources" in said


def test_mig_waits_while_the_gpu_is_used(gpus: Simulated, user: subprocess.Popen[str]) -> None:
    assert "pending enable state" in gpus.smi("-mig", "1", "-i", "0")
    assert gpus.query("mig.mode.current,mig.mode.pending", "-i", "0") == [["Disabled", "Enabled"]]
    user.kill()
    user.wait()
    gpus.smi("-r", "-i", "0")
    assert gpus.query("mig.mode.current", "-i", "0") == [["Enabled"]]


def test_mig_is_not_for_every_model(tmp_path: Path) -> None:
    gpus = Simulated(tmp_path, "l40s")
    assert gpus.query("mig.mode.current") == [["[N/A]"], ["[N/A]"]]
    assert gpus.try_smi("-mig", "1")[0] == 3


def test_the_compute_mode_decides_who_may_use_the_gpu(gpus: Simulated, user: subprocess.Popen[str]) -> None:
    gpus.smi("-c", "3", "-i", "0")
    with gpus.start("nvidia_sim.py", "use", "--gpu", "0", "--", "sleep", "1") as second:
        assert second.wait(timeout=10) == 1


def test_processes_changing_state_at_once_lose_nothing(gpus: Simulated) -> None:
    commands = [gpus.start("nvidia_sim.py", "ecc", "--kind", "dram_correctable") for _ in range(12)]
    assert [command.communicate()[1] for command in commands] == [None] * 12
    assert gpus.state()["volatile"]["dram_correctable"] == 12


def test_gpus_are_found_by_index_uuid_and_bus(gpus: Simulated) -> None:
    second = gpus.gpus[1]
    for name in ("1", second["uuid"], second["bus"], f"0000{second['bus']}".upper(), second["serial"]):
        assert gpus.smi("-L", "-i", name).startswith("GPU 1:")
    assert gpus.try_smi("-L", "-i", "7") == (6, "No devices were found\n")


def test_lspci_in_its_machine_readable_form(gpus: Simulated) -> None:
    assert gpus.lspci("-Dnmm").splitlines()[0] == '0000:1b:00.0 "0302" "10de" "2330" -ra1 -p00 "10de" "16c1"'


def test_the_state_is_json_for_everyone(gpus: Simulated, tmp_path: Path) -> None:
    gpus.tell("ghost")
    assert json.loads((tmp_path / "state.json").read_text())["gpus"]
    assert (tmp_path / "state.json").stat().st_mode & 0o666 == 0o666


def test_output_can_go_to_a_file(gpus: Simulated, tmp_path: Path) -> None:
    assert not gpus.smi("-q", "-x", "-f", str(tmp_path / "log.xml"))
    assert ET.parse(tmp_path / "log.xml").getroot().tag == "nvidia_smi_log"
