"""What nvidia-smi says, read once and the same way for every driver version."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from ansible.module_utils.steps import StepFailed, run

ABSENT = {
    "",
    "n/a",
    "[n/a]",
    "not supported",
    "[not supported]",
    "none",
    "[none]",
    "unknown",
    "requested functionality has been deprecated",
    "[requested functionality has been deprecated]",
    "not available",
    "insufficient permissions",
    "[insufficient permissions]",
}
BROKEN = re.compile(r"err!|unknown error|gpu is lost|gpu requires reset", re.IGNORECASE)
UNCORRECTABLE = (
    "sram_uncorrectable",
    "sram_uncorrectable_parity",
    "sram_uncorrectable_secded",
    "dram_uncorrectable",
    "double_bit/total",
)


def value(text: str | None) -> str | None:
    """One reading, or None for every spelling that drivers use for 'there is none'."""
    text = (text or "").strip()
    return None if text.lower() in ABSENT else text


def number(text: str | None) -> float | None:
    """The leading number of a reading such as '500.00 W' or '81920 MiB', in the reading's own unit."""
    match = re.match(r"-?\d+(\.\d+)?", value(text) or "")
    return float(match.group()) if match else None


def whole(text: str | None) -> int | None:
    found = number(text)
    return None if found is None else int(found)


def switch(text: str | None) -> str | None:
    """'enabled', 'disabled' or None."""
    said = (value(text) or "").lower()
    return said if said in ("enabled", "disabled") else None


def pci_address(text: str | None) -> str | None:
    """The kernel's spelling (0000:01:00.0) of nvidia-smi's (00000000:01:00.0)."""
    match = re.fullmatch(r"([0-9a-f]{4,8}):([0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])", (value(text) or "").lower())
    return f"{match.group(1)[-4:]}:{match.group(2)}" if match else None


def yes(text: str | None) -> bool | None:
    """A reading that is Yes or No."""
    return {"yes": True, "no": False}.get((value(text) or "").lower())


def parse(xml: str) -> dict[str, Any]:
    """The output of `nvidia-smi -q -x`. Raises StepFailed with the output's beginning when it is not that."""
    try:
        root = ET.fromstring(xml)  # noqa: S314 - the host's own driver tool; expat expands no external entity
    except ET.ParseError as error:
        raise StepFailed(f"nvidia-smi -q -x did not print valid XML: {error}", [beginning(xml)]) from error
    if root.tag != "nvidia_smi_log":
        raise StepFailed(f"nvidia-smi -q -x printed <{root.tag}>, not <nvidia_smi_log>", [beginning(xml)])
    gpus = [_gpu(element, index) for index, element in enumerate(root.findall("gpu"))]
    return {
        "driver_version": value(root.findtext("driver_version")),
        "cuda_version": value(root.findtext("cuda_version")),
        "attached": whole(root.findtext("attached_gpus")),
        "gpus": gpus,
    }


def parse_csv(text: str) -> list[dict[str, str | None]]:
    """The output of `nvidia-smi --query-…=… --format=csv`: one dictionary a row, header units dropped."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    names = [re.sub(r"\s*\[.*\]$", "", name.strip()) for name in lines[0].split(",")]
    rows = []
    for line in lines[1:]:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(names):
            raise StepFailed(
                f"nvidia-smi printed {len(cells)} columns under {len(names)} names", [beginning(line)]
            )
        rows.append({name: value(cell) for name, cell in zip(names, cells)})
    return rows


def beginning(text: str, limit: int = 300) -> str:
    return f"output began: {text[:limit]!r}"


def query(timeout: float = 60.0) -> dict[str, Any] | None:
    """Ask the host's nvidia-smi; None when there is none.

    Raises StepFailed when it fails or answers nonsense.
    """
    ran = run("nvidia-smi", "-q", "-x", timeout=timeout)
    if ran.code == 127:
        return None
    if not ran.ok:
        raise StepFailed(f"nvidia-smi -q -x failed (exit {ran.code})", [ran.tail(), beginning(ran.out)])
    return parse(ran.out)


def _gpu(gpu: ET.Element, index: int) -> dict[str, Any]:
    def text(*paths: str) -> str | None:
        found = (value(gpu.findtext(path)) for path in paths)
        return next((item for item in found if item is not None), None)

    power = ("gpu_power_readings", "power_readings")
    cluster, clique = text("fabric/clusterUuid"), text("fabric/cliqueId")
    return {
        "index": index,
        "uuid": text("uuid"),
        "model": text("product_name"),
        "architecture": text("product_architecture"),
        "memory_mib": whole(text("fb_memory_usage/total")),
        "memory_used_mib": whole(text("fb_memory_usage/used")),
        "pci_address": pci_address(text("pci/pci_bus_id") or gpu.get("id")),
        "serial": text("serial"),
        "vbios": text("vbios_version"),
        "nvlink_domain": f"{cluster}.{clique}" if cluster and cluster.strip("0-") and clique else None,
        "mig_mode": switch(text("mig_mode/current_mig")),
        "mig_pending": switch(text("mig_mode/pending_mig")),
        "mig_devices": len(gpu.findall("mig_devices/mig_device")),
        "ecc_mode": switch(text("ecc_mode/current_ecc")),
        "ecc_pending": switch(text("ecc_mode/pending_ecc")),
        "persistence_mode": switch(text("persistence_mode")),
        "compute_mode": text("compute_mode"),
        "power_limit_watts": number(
            text(
                *(
                    f"{p}/{n}"
                    for p in power
                    for n in ("current_power_limit", "power_limit", "enforced_power_limit")
                )
            )
        ),
        "application_clocks": clocks(gpu, "applications_clocks"),
        "default_application_clocks": clocks(gpu, "default_applications_clocks"),
        "processes": [whole(pid.text) for pid in gpu.findall("processes/process_info/pid")],
        "readings": readings(gpu),
        "lasting": lasting(gpu),
    }


def clocks(gpu: ET.Element, name: str) -> list[int] | None:
    """[graphics MHz, memory MHz] or None."""
    pair = [whole(gpu.findtext(f"{name}/{kind}_clock")) for kind in ("graphics", "mem")]
    return None if None in pair else [item for item in pair if item is not None]


def event_reasons(gpu: ET.Element) -> list[str]:
    """Why the clocks are held down now, without the prefix that the driver's version chose."""
    active = []
    for parent in ("clocks_event_reasons", "clocks_throttle_reasons"):
        for reason in gpu.findall(f"{parent}/*"):
            if (value(reason.text) or "").lower() == "active":
                active.append(re.sub(r"^clocks_(event|throttle)_reason_", "", reason.tag))
    return active


def uncorrectable(gpu: ET.Element, span: str) -> int | None:
    """ECC errors that could not be mended, since boot (volatile) or ever (aggregate)."""
    counts = [whole(gpu.findtext(f"ecc_errors/{span}/{path}")) for path in UNCORRECTABLE]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def lasting(gpu: ET.Element) -> dict[str, Any]:
    """What outlives resets, for the enrolment record: later checks look at what was added since."""
    pages = [
        whole(gpu.findtext(f"retired_pages/{kind}/retired_count"))
        for kind in ("multiple_single_bit_retirement", "double_bit_retirement")
    ]
    return {
        "ecc_uncorrectable": uncorrectable(gpu, "aggregate"),
        "retired_pages": None if None in pages else sum(page for page in pages if page is not None),
        "remapped_rows": whole(gpu.findtext("remapped_rows/remapped_row_unc")),
        "pcie_width": whole(gpu.findtext("pci/pci_gpu_link_info/link_widths/current_link_width")),
    }


def readings(gpu: ET.Element) -> dict[str, Any]:
    """What the health checks look at. None is a reading that this driver or GPU does not give."""
    broken = [
        f"{item.tag}: {item.text.strip()}" for item in gpu.iter() if item.text and BROKEN.search(item.text)
    ]
    return {
        "broken": broken[:5],
        **_repairs(gpu),
        **_temperatures(gpu),
        "reset_required": yes(gpu.findtext("gpu_reset_status/reset_required")),
        "drain_recommended": yes(gpu.findtext("gpu_reset_status/drain_and_reset_recommended")),
        "recovery": value(gpu.findtext("gpu_recovery_action")),
        "held_by": event_reasons(gpu),
        "pcie_width_max": whole(gpu.findtext("pci/pci_gpu_link_info/link_widths/max_link_width")),
        "fabric_state": value(gpu.findtext("fabric/state")),
        "fabric_status": value(gpu.findtext("fabric/status")),
    }


def _repairs(gpu: ET.Element) -> dict[str, Any]:
    spent = "remapped_rows/row_remapper_histogram/row_remapper_histogram_none"
    pending = [gpu.findtext(f"retired_pages/pending_{name}") for name in ("retirement", "blacklist")]
    return {
        "ecc_volatile": uncorrectable(gpu, "volatile"),
        "sram_exhausted": yes(gpu.findtext("ecc_errors/aggregate/sram_threshold_exceeded")),
        "remap_pending": yes(gpu.findtext("remapped_rows/remapped_row_pending")),
        "remap_failed": yes(gpu.findtext("remapped_rows/remapped_row_failure")),
        "banks_spent": whole(gpu.findtext(spent)),
        "page_pending": yes(next((said for said in pending if value(said)), None)),
        "repair_pending": [
            name
            for name in ("channel_repair_pending", "tpc_repair_pending")
            if yes(gpu.findtext(f"ecc_errors/{name}"))
        ],
        "unrepairable": yes(gpu.findtext("ecc_errors/unrepairable_memory")),
    }


def _temperatures(gpu: ET.Element) -> dict[str, float | None]:
    """Degrees Celsius. Older drivers name limits, newer ones how much is left until a limit."""
    names = {
        "temperature": "gpu_temp",
        "slowdown_at": "gpu_temp_slow_threshold",
        "operating_to": "gpu_temp_max_gpu_threshold",
        "left": "gpu_temp_tlimit",
        "slowdown_left": "gpu_temp_slow_tlimit_threshold",
        "operating_left": "gpu_temp_max_gpu_tlimit_threshold",
        "memory_temperature": "memory_temp",
        "memory_to": "gpu_temp_max_mem_threshold",
    }
    return {ours: number(gpu.findtext(f"temperature/{theirs}")) for ours, theirs in names.items()}
