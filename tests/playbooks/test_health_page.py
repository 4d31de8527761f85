"""The page of health: its tables are the code's."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils import health_gpu, nvidia_smi, thresholds

from api.fleet.health_models import Action, Verdict
from tests.docs import pages
from tests.lab.simulated import Simulated

OF_HOSTS = {"driver", "gpu-count", "gpu-processes", "fabric-manager"}
BESIDES = {"nvlink", "xid", "diag"}  # of GPUs, but not read from nvidia-smi -q


def test_the_limits_are_the_code_s() -> None:
    rows = [tuple(row) for row in pages.table(pages.HEALTH, "Limit")]
    assert rows == [(name, f"{value:g}", source) for name, (value, source) in thresholds.SOURCES.items()]


def test_the_checks_are_the_code_s(tmp_path: Path) -> None:
    (gpu,) = nvidia_smi.parse(Simulated(tmp_path, "h100-sxm", 1).smi("-q", "-x"))["gpus"]
    found = {one["name"] for one in health_gpu.examine(gpu, gpu, thresholds.DEFAULTS)}
    rows = {row[0]: row[1] for row in pages.table(pages.HEALTH, "Check")}
    assert {name for name, whose in rows.items() if whose == "GPU"} == found | BESIDES
    assert {name for name, whose in rows.items() if whose == "host"} == OF_HOSTS


def test_the_verdicts_and_actions_are_the_code_s() -> None:
    rows = {row[0]: row[2] for row in pages.table(pages.HEALTH, "Verdict")}
    assert list(rows) == [str(verdict) for verdict in Verdict]
    told = {row[0] for row in pages.table(pages.HEALTH, "Action")}
    assert told == {str(action) for action in Action} - {"none", "restart-application"}
