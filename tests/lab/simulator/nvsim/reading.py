"""What nvidia-smi would read from one GPU now, as text with units: the source of the XML and the CSV."""

from __future__ import annotations

from typing import Any

from .state import Gpu, Machine

NA = "N/A"
DEPRECATED = "Requested functionality has been deprecated"
REASONS = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "display_clocks_setting",
)
REASON_BITS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clocks_setting": 0x100,
}


def switch(value: bool) -> str:
    return "Enabled" if value else "Disabled"


def yes(value: bool) -> str:
    return "Yes" if value else "No"


def _load(machine: Machine, gpu: Gpu) -> dict[str, Any]:
    state, model = gpu.state, gpu.model
    busy = bool(machine.processes(gpu))
    used = machine.used(gpu)
    low, high = state["gpu_clocks"] or (model.idle_clock, model.graphics_clock)
    graphics = high if busy else low
    memory_clock = state["memory_clocks"][1] if state["memory_clocks"] else model.memory_clocks[0]
    limit = state["power_limit"]
    watts = min(limit, model.power * 0.9) if busy else model.idle_watts
    heat = state["temperature"] + (21 if busy else 0)
    utilisation = NA if gpu.mig_enabled else ("100 %" if busy else "0 %")
    active = set(state["throttle"]) | (set() if busy else {"gpu_idle"})
    return {
        "used": f"{used} MiB",
        # the driver rounds reserved and free apart: the recorded sums are one larger than the total
        "free": f"{model.memory - model.reserved - used + 1} MiB",
        "graphics": f"{graphics} MHz",
        "memory_clock": f"{memory_clock} MHz",
        "video_clock": f"{model.video_clock if busy else model.video_clock // 2} MHz",
        "watts": f"{watts:.2f} W",
        "temperature": f"{heat} C",
        "tlimit": f"{87 - heat} C",
        "memory_temp": NA if model.memory_temp is None else f"{model.memory_temp + (10 if busy else 0)} C",
        "utilisation": utilisation,
        "memory_utilisation": NA if gpu.mig_enabled else ("11 %" if busy else "0 %"),
        "engine_utilisation": NA if gpu.mig_enabled else "0 %",
        "pstate": "P0" if busy or model.fabric else "P8",
        "reasons": {r: "Active" if r in active else "Not Active" for r in REASONS},
        "reason_bits": sum(REASON_BITS[r] for r in active),
    }


def _ecc(gpu: Gpu) -> dict[str, dict[str, str]]:
    on = gpu.state["ecc_current"]
    return {
        span: {kind: str(count) if on else NA for kind, count in gpu.state[span].items()}
        for span in ("volatile", "aggregate")
    }


def read(machine: Machine, gpu: Gpu) -> dict[str, Any]:
    """The readings of one GPU; text as nvidia-smi prints it in XML (units included)."""
    state, model = gpu.state, gpu.model
    domain, bus, rest = gpu.bus.split(":")
    remap = state["remap"]
    supported = bool(model.mig)
    return {
        **_load(machine, gpu),
        "ecc": _ecc(gpu),
        "persistence": switch(state["persistence"]),
        "accounting": switch(state["accounting"]),
        "mig_current": switch(state["mig_current"]) if supported else NA,
        "mig_pending": switch(state["mig_pending"]) if supported else NA,
        "ecc_current": switch(state["ecc_current"]),
        "ecc_pending": switch(state["ecc_pending"]),
        "compute_mode": state["compute_mode"],
        "recovery": state["recovery"],
        "domain": domain.upper(),
        "bus": bus.upper(),
        "device": rest.split(".")[0].upper(),
        "power_limit": f"{state['power_limit']:.2f} W",
        "power_default": f"{model.power:.2f} W",
        "power_min": f"{model.power_min:.2f} W",
        "total": f"{model.memory} MiB",
        "reserved": f"{model.reserved} MiB",
        "remap_corr": str(remap["correctable"]),
        "remap_unc": str(remap["uncorrectable"]),
        # with MIG on, the driver does not say whether a remap is pending
        "remap_pending": NA if gpu.mig_enabled else yes(remap["pending"]),
        "remap_failure": NA if gpu.mig_enabled else yes(remap["failure"]),
        "fabric_state": state["fabric"] or "Completed" if model.fabric else NA,
        "fabric_status": "Success" if model.fabric else NA,
        "fabric_clique": "0" if model.fabric else NA,
        "fabric_cluster": gpu.nvlink_domain or "00000000-0000-0000-0000-000000000000" if model.fabric else NA,
        "vbios": state["vbios"] or model.vbios,
        "pcie_width": f"{state['pcie_width']}x",
        "module_id": str(gpu.index + 1),
        "pdi": f"0x{gpu.uuid.replace('-', '')[3:19]}",
    }
