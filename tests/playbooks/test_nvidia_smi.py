"""Reading nvidia-smi: recordings of real machines, every spelling of 'absent', and nonsense."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible.module_utils import health_gpu, machine, nvidia_smi
from ansible.module_utils.steps import StepFailed

HEALTHY = """
<gpu id="00000000:1B:00.0"><product_name>H</product_name><uuid>GPU-1</uuid>
<ecc_mode><current_ecc>Enabled</current_ecc><pending_ecc>Enabled</pending_ecc></ecc_mode>
<ecc_errors><volatile><sram_uncorrectable>0</sram_uncorrectable><dram_uncorrectable>0</dram_uncorrectable></volatile>
<aggregate><sram_uncorrectable>0</sram_uncorrectable></aggregate></ecc_errors>
<fb_memory_usage><used>1 MiB</used></fb_memory_usage><temperature><gpu_temp>30 C</gpu_temp></temperature>
<pci><pci_gpu_link_info><link_widths><max_link_width>16x</max_link_width><current_link_width>16x</current_link_width></link_widths></pci_gpu_link_info></pci>
<retired_pages><pending_retirement>N/A</pending_retirement></retired_pages>
<remapped_rows><remapped_row_pending>No</remapped_row_pending><remapped_row_failure>No</remapped_row_failure></remapped_rows>
<gpu_reset_status><reset_required>No</reset_required></gpu_reset_status>
<clocks_event_reasons>
<clocks_event_reason_hw_thermal_slowdown>Not Active</clocks_event_reason_hw_thermal_slowdown>
</clocks_event_reasons>
</gpu>"""


def judged(xml: str) -> tuple[str, list[str]]:
    verdict: tuple[str, list[str]] = health_gpu.glance(nvidia_smi._gpu(ET.fromstring(xml), 0))
    return verdict


@pytest.mark.parametrize(
    ("name", "model", "count", "memory", "ecc", "health"),
    [
        ("tesla-t4", "Tesla T4", 1, 15360, "enabled", "ok"),
        ("a10g", "NVIDIA A10G", 1, 23028, "enabled", "ok"),
        ("rtx-3090-v12", "NVIDIA GeForce RTX 3090", 1, 24576, None, "ok"),
        ("rtx-4000-sff-ada-v13", "NVIDIA RTX 4000 SFF Ada Generation", 1, 20475, "disabled", "ok"),
        # with MIG on, the recording names neither row remapping nor page retirement
        ("a100-sxm4-v12", "NVIDIA A100-SXM4-80GB", 1, 81920, "enabled", "unknown"),
    ],
)
def test_recorded_xml(
    recordings: Path, name: str, model: str, count: int, memory: int, ecc: str | None, health: str
) -> None:
    seen = nvidia_smi.parse((recordings / "telegraf" / f"{name}.xml").read_text())
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", seen["driver_version"])
    assert len(seen["gpus"]) == count
    gpu = seen["gpus"][0]
    assert (gpu["model"], gpu["memory_mib"], gpu["ecc_mode"]) == (model, memory, ecc)
    assert health_gpu.glance(gpu)[0] == health
    assert gpu["uuid"].startswith("GPU-")
    assert re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]", gpu["pci_address"])
    assert gpu["compute_mode"] == "Default"
    assert gpu["power_limit_watts"] > 0


def test_recorded_mig_devices_are_counted(recordings: Path) -> None:
    gpu = nvidia_smi.parse((recordings / "telegraf" / "a100-sxm4-v12.xml").read_text())["gpus"][0]
    assert (gpu["mig_mode"], gpu["mig_devices"]) == ("enabled", 4)


def test_recorded_processes(recordings: Path) -> None:
    gpu = nvidia_smi.parse((recordings / "telegraf" / "tesla-t4.xml").read_text())["gpus"][0]
    assert 5762 in gpu["processes"]


@pytest.mark.parametrize(
    ("name", "model", "mig"),
    [
        ("h100-80gb-hbm3__590.48.01", "NVIDIA H100 80GB HBM3", "Disabled"),
        ("h200__590.48.01", "NVIDIA H200", "Disabled"),
        ("h200-mig__590.48.01", "NVIDIA H200", "Enabled"),
        ("h100-mig__590.48.01", "NVIDIA H100 80GB HBM3", "Enabled"),
    ],
)
def test_recorded_csv(recordings: Path, name: str, model: str, mig: str) -> None:
    text = (recordings / "captures" / f"linux-x86_64__nvidia-{name}.txt").read_text()
    sections = re.findall(
        r"^# \$ nvidia-smi --query-gpu=[^\n]*\n#+\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE
    )
    assert sections
    for section in sections:
        rows = nvidia_smi.parse_csv(section)
        assert rows
        for row in rows:
            assert row["name"] == model
            assert row["mig.mode.current"] == mig
            assert nvidia_smi.pci_address(row["pci.bus_id"])
            assert nvidia_smi.whole(row["memory.total"]) > 80_000
            assert row["fabric.cliqueId"] is None or row["fabric.cliqueId"].isdigit()


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "N/A",
        "[N/A]",
        " n/a ",
        "[Not Supported]",
        "Not Supported",
        "Requested functionality has been deprecated",
    ],
)
def test_every_spelling_of_absent(said: str | None) -> None:
    assert nvidia_smi.value(said) is None
    assert nvidia_smi.number(said) is None
    assert nvidia_smi.switch(said) is None


def test_readings() -> None:
    assert nvidia_smi.number("500.00 W") == 500.0
    assert nvidia_smi.whole("81920 MiB") == 81920
    assert nvidia_smi.switch("Enabled") == "enabled"
    assert nvidia_smi.pci_address("00000000:1B:00.0") == "0000:1b:00.0"
    assert nvidia_smi.pci_address("nonsense") is None


@pytest.mark.parametrize(
    "text", ["", "No devices were found", "<nvidia_smi_log><gpu>", "<html/>", "\x00\x01"]
)
def test_nonsense_is_a_clear_failure_with_its_beginning(text: str) -> None:
    with pytest.raises(StepFailed, match="nvidia-smi -q -x") as caught:
        nvidia_smi.parse(text)
    assert caught.value.evidence == [f"output began: {text[:300]!r}"]


def test_broken_csv_is_a_clear_failure() -> None:
    with pytest.raises(StepFailed, match="2 columns under 3 names"):
        nvidia_smi.parse_csv("a, b [MiB], c\n1, 2\n")
    assert nvidia_smi.parse_csv("") == []


def test_both_names_for_held_clocks() -> None:
    for word in ("event", "throttle"):
        xml = HEALTHY.replace("clocks_event_reason", f"clocks_{word}_reason").replace("Not Active", "Active")
        assert judged(xml) == ("failed", ["clocks held down: hw_thermal_slowdown (too hot)"])


@pytest.mark.parametrize(
    ("before", "after", "verdict", "reason"),
    [
        ("", "", "ok", None),
        (
            "<dram_uncorrectable>0",
            "<dram_uncorrectable>3",
            "failed",
            "3 uncorrectable ECC errors since boot",
        ),
        ("row_pending>No", "row_pending>Yes", "failed", "row remap pending"),
        ("row_failure>No", "row_failure>Yes", "failed", "row remap failed"),
        ("retirement>N/A", "retirement>Yes", "failed", "page retirement pending"),
        ("required>No", "required>Yes", "failed", "GPU reset required"),
        ("<uuid>GPU-1", "<uuid>N/A", "unknown", "no UUID"),
        ("correctable>0", "correctable>N/A", "unknown", "ECC is on but its error counts cannot be read"),
        (">No<", ">N/A<", "unknown", "neither row remapping nor page retirement can be read"),
        ("<product_name>H", "<product_name>ERR!", "failed", "product_name: ERR!"),
        ("<product_name>H", "<product_name>GPU is lost", "failed", "product_name: GPU is lost"),
    ],
)
def test_each_health_check_can_fail(before: str, after: str, verdict: str, reason: str | None) -> None:
    found, reasons = judged(HEALTHY.replace(before, after))
    assert found == verdict
    assert reason in reasons if reason else not reasons


def test_lost_gpus_are_found_both_ways() -> None:
    bus = [{"address": "0000:1b:00.0"}, {"address": "0000:2b:00.0"}]
    assert machine.lost_gpus(bus, [{"pci_address": "0000:1b:00.0"}]) == [
        "GPU 0000:2b:00.0 is on the PCI bus but not in nvidia-smi"
    ]
    assert machine.lost_gpus([], [{"pci_address": "0000:1b:00.0"}]) == [
        "GPU 0000:1b:00.0 is in nvidia-smi but not on the PCI bus"
    ]
    assert machine.lost_gpus(bus[:1], [{"pci_address": "0000:1b:00.0"}]) == []


def test_recorded_lspci(recordings: Path) -> None:
    gpus = machine.parse_lspci((recordings / "gpud" / "lspci-nn-a100.txt").read_text())
    assert len(gpus) == 8  # the six NVSwitches are bridges
    assert gpus[0] == {"address": "0001:00:00.0", "vendor_id": "10de", "device_id": "20b2"}


def test_machine_readable_lspci() -> None:
    text = (
        '0000:00:1f.0 "0601" "8086" "7a04" -r11 "" ""\n0000:1b:00.0 "0302" "10de" "2330" -ra1 "10de" "16c1"\n'
    )
    assert machine.parse_lspci(text) == [
        {"address": "0000:1b:00.0", "vendor_id": "10de", "device_id": "2330"}
    ]
