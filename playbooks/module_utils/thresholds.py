"""Every limit of the health checks, with where it comes from; `ironyard_health_thresholds` overrides them."""

from __future__ import annotations

import re
from typing import Any

from ansible.module_utils.steps import StepFailed

MEMORY_DOC = "docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt"
PAGES_DOC = "docs.nvidia.com/deploy/dynamic-page-retirement"
# By name: the value, and its source.
SOURCES: dict[str, tuple[float, str]] = {
    "ecc_volatile_uncorrectable": (0, f"{MEMORY_DOC}: one such error leaves the GPU in need of a reset"),
    "ecc_aggregate_uncorrectable": (8, "ours: in a lifetime; a GPU that needs more repairs is replaced"),
    "retired_pages": (59, f"{PAGES_DOC}: 60 or more make a board eligible for return"),
    "remapped_rows": (
        511,
        f"{MEMORY_DOC}: a GPU can remap 512 rows; with the last one there is nothing left to repair with",
    ),
    "memory_slack_mib": (512, "ours: what drivers keep for themselves differs from start to start"),
    "temperature_celsius": (85, "ours: only for GPUs that name no slowdown temperature of their own"),
    "pcie_width_lost": (0, "ours: lanes fewer than at enrolment"),
    "nvlinks_down": (0, "ours: every link of the board is needed for its bandwidth"),
    "diag_seconds_level_1": (180, "docs.nvidia.com/datacenter/dcgm: seconds, and as much again"),
    "diag_seconds_level_2": (600, "docs.nvidia.com/datacenter/dcgm: two minutes; more GPUs take longer"),
    "diag_seconds_level_3": (1500, "docs.nvidia.com/datacenter/dcgm: under half an hour"),
}
DEFAULTS = {name: value for name, (value, _) in SOURCES.items()}
# NVLinks of a board, by the product's name. Source: NVIDIA's data sheets (links per GPU), and recordings of
# `nvidia-smi nvlink -s` for A100 and H100. PCIe cards are not here: their bridges are optional.
NVLINKS: tuple[tuple[str, int], ...] = (
    (r"P100-SXM2", 4),
    (r"V100-SXM[23]", 6),
    (r"A800-SXM4", 8),
    (r"A100-SXM4", 12),
    (r"H800(?! PCIe| NVL)", 8),
    (r"H100 .*HBM3$|H100 SXM", 18),
    (r"H200(?! NVL)", 18),
    (r"GH200|GB200|GB300", 18),
    (r"B[23]00", 18),
)


def limits(overrides: dict[str, Any] | None) -> dict[str, float]:
    """The limits in force. Raises StepFailed for a name or a value that is none."""
    given = overrides or {}
    strange = sorted(set(given) - set(DEFAULTS))
    if strange:
        raise StepFailed(f"unknown health thresholds: {', '.join(strange)}")
    try:
        return {**DEFAULTS, **{name: float(value) for name, value in given.items()}}
    except (TypeError, ValueError) as error:
        raise StepFailed(f"a health threshold is not a number: {error}") from error


def nvlinks(model: str | None) -> int | None:
    """How many NVLinks a board of this name has; None where that is not fixed."""
    return next((count for pattern, count in NVLINKS if re.search(pattern, model or "")), None)
