"""The checks of one GPU by recordings of real machines: each reading that is altered fails its check."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import health_gpu, nvidia_smi, thresholds

PENDING, SPENT = ("memory-repair", "CRITICAL", "reset"), ("memory-repair", "CRITICAL", "service")
ALTERED = [
    ("tesla-t4", "<retired_count>0", "<retired_count>60", "pages", "CRITICAL", "service"),
    ("tesla-t4", "<pending_retirement>No", "<pending_retirement>Yes", "pages", "CRITICAL", "reset"),
    ("tesla-t4", "<gpu_temp>40 C", "<gpu_temp>93 C", "temperature", "CRITICAL", "drain"),
    ("tesla-t4", "<gpu_temp>40 C", "<gpu_temp>86 C", "temperature", "WARNING", "none"),
    ("tesla-t4", "<gpu_temp>40 C", "<gpu_temp>N/A", "temperature", "UNKNOWN", "none"),
    ("tesla-t4", "<current_link_width>8x", "<current_link_width>N/A", "pcie-width", "UNKNOWN", "none"),
    ("a10g", "<remapped_row_unc>0", "<remapped_row_unc>512", "pages", "CRITICAL", "service"),
    ("a10g", "histogram_none>0", "histogram_none>1", "memory-repair", "WARNING", "none"),
    ("a10g", "correctable>0", "correctable>N/A", "ecc", "UNKNOWN", "none"),
    ("a10g", "correctable>0", "correctable>N/A", "lifetime-ecc", "UNKNOWN", "none"),
    ("a10g", "correctable>0", "correctable>3", "ecc", "CRITICAL", "reset"),
    ("a10g", ">No<", ">N/A<", "memory-repair", "UNKNOWN", "none"),
    ("a10g", "<product_name>NVIDIA", "<product_name>ERR!", "answers", "CRITICAL", "reset"),
    ("a10g", "<uuid>GPU", "<uuid>N/A<!--", "answers", "UNKNOWN", "reset"),
    ("a10g", "thermal_slowdown>Not Active", "thermal_slowdown>Active", "slowdown", "CRITICAL", "service"),
    ("a100-sxm4-v12", "<reset_required>No", "<reset_required>Yes", "recovery", "CRITICAL", "reset"),
    ("a100-sxm4-v12", "recommended>No", "recommended>Yes", "recovery", "CRITICAL", "drain"),
    ("a100-sxm4-v12", "<memory_temp>44 C", "<memory_temp>96 C", "temperature", "WARNING", "none"),
    ("rtx-4000-sff-ada-v13", "tpc_repair_pending>No", "tpc_repair_pending>Yes", *PENDING),
    ("rtx-4000-sff-ada-v13", "unrepairable_memory>N/A", "unrepairable_memory>Yes", *SPENT),
    ("rtx-4000-sff-ada-v13", "exceeded>N/A", "exceeded>Yes", "ecc", "CRITICAL", "service"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "before", "after", "check", "verdict", "action"), ALTERED)
def test_a_recorded_reading_that_is_altered_fails_its_check(
    recordings: Path, name: str, before: str, after: str, check: str, verdict: str, action: str
) -> None:
    text = (recordings / "telegraf" / f"{name}.xml").read_text()
    assert before in text
    altered = text.replace(before, after)
    if "<!--" in after:
        altered = altered.replace("</uuid>", "--></uuid>")
    (gpu,) = nvidia_smi.parse(altered)["gpus"]
    found = [one for one in health_gpu.examine(gpu, None, thresholds.DEFAULTS) if one["name"] == check]
    assert (verdict, action) in [(one["verdict"], one["action"]) for one in found]
    (well,) = nvidia_smi.parse(text)["gpus"]
    as_recorded = [one for one in health_gpu.examine(well, None, thresholds.DEFAULTS) if one["name"] == check]
    assert (verdict, action) not in [(one["verdict"], one["action"]) for one in as_recorded]


def test_half_the_lanes_since_enrolment_are_said_and_no_fault(recordings: Path) -> None:
    (gpu,) = nvidia_smi.parse((recordings / "telegraf" / "a10g.xml").read_text())["gpus"]

    def width(record: dict[str, Any] | None) -> str:
        checks = health_gpu.examine(gpu, record, thresholds.DEFAULTS)
        return next(str(one["verdict"]) for one in checks if one["name"] == "pcie-width")

    assert width(None) == "WARNING"
    assert width(gpu) == "INFO"
    assert width({**gpu, "lasting": {"pcie_width": 16}}) == "CRITICAL"


def test_a_glance_needs_no_record(recordings: Path) -> None:
    text = (recordings / "telegraf" / "tesla-t4.xml").read_text()
    (gpu,) = nvidia_smi.parse(text)["gpus"]
    assert health_gpu.glance(gpu) == ("ok", [])
    (sick,) = nvidia_smi.parse(text.replace("<pending_retirement>No", "<pending_retirement>Yes"))["gpus"]
    assert health_gpu.glance(sick) == ("failed", ["page retirement pending"])


def test_every_reading_may_be_absent() -> None:
    bare = nvidia_smi._gpu(ET.fromstring("<gpu><uuid>GPU-1</uuid></gpu>"), 0)
    verdict, reasons = health_gpu.glance(bare)
    assert verdict == "unknown"
    assert "the temperature cannot be read" in reasons
