"""The document of `nvidia-smi -q -x` in the element tree of the v13 document type."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from . import board
from .board import Node, leaves
from .models import CUDA, DRIVER
from .reading import DEPRECATED, NA, read
from .state import Gpu, Machine

DOCTYPE = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">\n'


def _performance(r: dict[str, Any]) -> list[Node]:
    counters = ("sw_power_cap", "sync_boost", "sw_therm_slowdown", "hw_therm_slowdown", "hw_power_brake")
    return [
        ("fan_speed", NA),
        ("performance_state", r["pstate"]),
        ("clocks_event_reasons", [(f"clocks_event_reason_{n}", v) for n, v in r["reasons"].items()]),
        ("clocks_event_reasons_counters", [(f"clocks_event_reasons_counters_{n}", "0 us") for n in counters]),
        ("sparse_operation_mode", NA),
    ]


def _memory(gpu: Gpu, r: dict[str, Any]) -> list[Node]:
    bar1 = gpu.model.bar1
    sessions = leaves("0", "session_count", "average_fps", "average_latency")
    engines = ("encoder_util", "decoder_util", "jpeg_util", "ofa_util")
    return [
        ("fb_memory_usage", [(name, r[name]) for name in ("total", "reserved", "used", "free")]),
        (
            "bar1_memory_usage",
            [("total", f"{bar1} MiB"), ("used", "1 MiB"), ("free", f"{bar1 - 1} MiB")],
        ),
        ("cc_protected_memory_usage", leaves("0 MiB", "total", "used", "free")),
        ("compute_mode", r["compute_mode"]),
        (
            "utilization",
            [
                ("gpu_util", r["utilisation"]),
                ("memory_util", r["memory_utilisation"]),
                *leaves(r["engine_utilisation"], *engines),
            ],
        ),
        ("encoder_stats", sessions),
        ("fbc_stats", sessions),
        ("dram_encryption_mode", leaves(NA, "current_dram_encryption", "pending_dram_encryption")),
    ]


def _errors(gpu: Gpu, r: dict[str, Any]) -> list[Node]:
    on = gpu.state["ecc_current"]
    sources = ("sram_l2", "sram_sm", "sram_microcontroller", "sram_pcie", "sram_other")
    retired = leaves(NA, "retired_count", "retired_pagelist")
    return [
        ("ecc_mode", [("current_ecc", r["ecc_current"]), ("pending_ecc", r["ecc_pending"])]),
        (
            "ecc_errors",
            [
                ("volatile", list(r["ecc"]["volatile"].items())),
                (
                    "aggregate",
                    [*r["ecc"]["aggregate"].items(), ("sram_threshold_exceeded", "No" if on else NA)],
                ),
                ("aggregate_uncorrectable_sram_sources", leaves("0" if on else NA, *sources)),
                ("channel_repair_pending", "No"),
                ("tpc_repair_pending", "No"),
                ("unrepairable_memory", "No" if gpu.model.fabric else NA),
            ],
        ),
        (
            "retired_pages",
            [
                ("multiple_single_bit_retirement", retired),
                ("double_bit_retirement", retired),
                *leaves(NA, "pending_blacklist", "pending_retirement"),
            ],
        ),
        ("remapped_rows", NA if gpu.mig_enabled else _remapped(gpu, r)),
    ]


def _remapped(gpu: Gpu, r: dict[str, Any]) -> list[Node]:
    spent = int(gpu.state["remap"]["failure"])
    histogram = {"max": gpu.model.remap_banks - spent, "high": 0, "partial": 0, "low": 0, "none": spent}
    return [
        ("remapped_row_corr", r["remap_corr"]),
        ("remapped_row_corr_inactive", "0"),
        ("remapped_row_unc", r["remap_unc"]),
        ("remapped_row_unc_inactive", "0"),
        ("remapped_row_pending", r["remap_pending"]),
        ("remapped_row_failure", r["remap_failure"]),
        (
            "row_remapper_histogram",
            [(f"row_remapper_histogram_{name}", f"{n} bank(s)") for name, n in histogram.items()],
        ),
    ]


def _power(gpu: Gpu, r: dict[str, Any]) -> list[Node]:
    memory = NA if gpu.model.memory_temp is None else "0 C"
    draws = ("average_power_draw", "instant_power_draw")
    limits = [f"{name}_power_limit" for name in ("current", "requested", "default", "min", "max")]
    return [
        (
            "temperature",
            [
                ("gpu_temp", r["temperature"]),
                ("gpu_temp_tlimit", r["tlimit"]),
                ("gpu_temp_max_tlimit_threshold", "-8 C"),
                ("gpu_temp_slow_tlimit_threshold", "-2 C"),
                ("gpu_temp_max_gpu_tlimit_threshold", "0 C"),
                ("gpu_target_temperature", NA),
                ("memory_temp", r["memory_temp"]),
                ("gpu_temp_max_mem_tlimit_threshold", memory),
            ],
        ),
        ("supported_gpu_target_temp", leaves(NA, "gpu_target_temp_min", "gpu_target_temp_max")),
        (
            "gpu_power_readings",
            [
                ("power_state", DEPRECATED),
                *leaves(r["watts"], *draws),
                *leaves(r["power_limit"], *limits[:2]),
                (limits[2], r["power_default"]),
                (limits[3], r["power_min"]),
                (limits[4], r["power_default"]),
            ],
        ),
        ("gpu_memory_power_readings", leaves(NA, *draws)),
        ("module_power_readings", [("power_state", DEPRECATED), *leaves(NA, *draws, *limits)]),
        ("power_smoothing", NA),
        (
            "power_profiles",
            leaves(NA, "power_profile_requested_profiles", "power_profile_enforced_profiles"),
        ),
        ("edpp_multiplier", "100.00%" if gpu.model.edpp else NA),
    ]


def _clocks(gpu: Gpu, r: dict[str, Any]) -> list[Node]:
    model = gpu.model
    top = f"{model.graphics_clock} MHz"
    old = leaves(DEPRECATED, "graphics_clock", "mem_clock")
    return [
        (
            "clocks",
            [
                *leaves(r["graphics"], "graphics_clock", "sm_clock"),
                ("mem_clock", r["memory_clock"]),
                ("video_clock", r["video_clock"]),
            ],
        ),
        ("applications_clocks", old),
        ("default_applications_clocks", old),
        ("deferred_clocks", [("mem_clock", NA)]),
        (
            "max_clocks",
            [
                *leaves(top, "graphics_clock", "sm_clock"),
                ("mem_clock", f"{model.memory_clocks[0]} MHz"),
                ("video_clock", f"{model.video_clock} MHz"),
            ],
        ),
        ("max_customer_boost_clocks", [("graphics_clock", top)]),
        ("clock_policy", leaves(NA, "auto_boost", "auto_boost_default")),
        ("fabric", _fabric(r)),
        ("supported_clocks", [_supported(gpu, clock) for clock in model.memory_clocks]),
    ]


def _supported(gpu: Gpu, memory: int) -> Node:
    steps = range(gpu.model.graphics_clock, gpu.model.slowest_clock - 1, -15)
    return (
        "supported_mem_clock",
        [("value", f"{memory} MHz"), *(("supported_graphics_clock", f"{s} MHz") for s in steps)],
    )


def _fabric(r: dict[str, Any]) -> list[Node]:
    health = (
        "summary",
        "bandwidth",
        "route_recovery_in_progress",
        "route_unhealthy",
        "access_timeout_recovery",
        "incorrect_configuration",
        "partition_assigned",
    )
    return [
        ("state", r["fabric_state"]),
        ("status", r["fabric_status"]),
        ("cliqueId", r["fabric_clique"]),
        ("clusterUuid", r["fabric_cluster"]),
        ("health", leaves(NA, *health)),
    ]


def _processes(machine: Machine, gpu: Gpu) -> Node:
    return (
        "processes",
        [
            (
                "process_info",
                [
                    ("gpu_instance_id", p["instance"] if p["instance"] is not None else NA),
                    ("compute_instance_id", "0" if p["instance"] is not None else NA),
                    ("pid", str(p["pid"])),
                    ("type", "C"),
                    ("process_name", p["name"]),
                    ("used_memory", f"{p['memory']} MiB"),
                ],
            )
            for p in machine.processes(gpu)
        ],
    )


def gpu_nodes(machine: Machine, gpu: Gpu) -> list[Node]:
    r = read(machine, gpu)
    return [
        *board.identity(gpu, r),
        *board.firmware(gpu, r),
        board.pci(gpu, r),
        *_performance(r),
        *_memory(gpu, r),
        *_errors(gpu, r),
        *_power(gpu, r),
        *_clocks(gpu, r),
        _processes(machine, gpu),
        ("accounted_processes", []),
        ("capabilities", [("egm", "disabled")]),
    ]


def _lines(node: Node, depth: int, attributes: str = "") -> Iterator[str]:
    name, content = node
    indent = "\t" * depth
    if isinstance(content, list):
        yield f"{indent}<{name}{attributes}>"
        for child in content:
            yield from _lines(child, depth + 1)
        yield f"{indent}</{name}>"
    elif name == "mig_devices":
        yield from (f"{indent}<{name}>", f"{indent}\t{content}", f"{indent}</{name}>")
    else:
        yield f"{indent}<{name}>{escape(str(content))}</{name}>"


def document(machine: Machine, gpus: list[Gpu]) -> str:
    lines = ["<nvidia_smi_log>"]
    for name, value in (
        ("timestamp", time.strftime("%a %b %e %H:%M:%S %Y")),
        ("driver_version", DRIVER),
        ("cuda_version", CUDA),
        ("attached_gpus", str(len(gpus))),
    ):
        lines.append(f"\t<{name}>{value}</{name}>")
    for gpu in gpus:
        lines += _lines(("gpu", gpu_nodes(machine, gpu)), 1, f' id="{gpu.smi_bus}"')
        lines.append("")
    return DOCTYPE + "\n".join([*lines, "</nvidia_smi_log>"]) + "\n"
