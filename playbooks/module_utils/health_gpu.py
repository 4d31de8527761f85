"""The health of one GPU, judged by what nvidia-smi says of it and by what enrolment recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible.module_utils import thresholds, verdicts
from ansible.module_utils.verdicts import CRITICAL, INFO, UNKNOWN, WARNING, Check

Gpu = dict[str, Any]
Limits = dict[str, float]
# What drivers of the 580 branch and later advise, and what it means here.
RECOVERY = {
    "reset": "reset",
    "drain and reset": "drain",
    "drain p2p": "drain",
    "reboot": "reboot",
}
SLOWED = {
    "hw_thermal_slowdown": (CRITICAL, "service", "too hot"),
    "hw_power_brake_slowdown": (CRITICAL, "service", "the power supply asks for it"),
    "hw_slowdown": (WARNING, "none", "the hardware asks for it"),
    "sw_thermal_slowdown": (WARNING, "none", "the driver keeps it below its target temperature"),
}


def examine(gpu: Gpu, record: Gpu | None, limits: Limits, *, held: bool = False) -> list[Check]:
    """Every check of one GPU; ``held`` leaves out what a tenant at work may change."""
    scope = gpu["uuid"] or verdicts.HOST
    parts = [_answers, _ecc, _memory_repair, _pages, _recovery, _slowdown, _temperature, _fabric]
    found = [(part.__name__.strip("_").replace("_", "-"), list(part(gpu, limits))) for part in parts]
    found.append(("pcie-width", list(_width(gpu, record, limits))))
    found.append(("lifetime-ecc", list(_lifetime(gpu, record, limits))))
    found.append(("firmware", list(_identity(gpu, record))))
    if not held:
        found.append(("gpu-memory", list(_held_memory(gpu, record, limits))))
    checks = []
    for name, findings in found:
        checks += [
            verdicts.check(name, verdict, detail, scope=scope, action=action)
            for verdict, action, detail in findings
        ] or [verdicts.passed(name, "as it should be", scope=scope)]
    return checks


def glance(gpu: Gpu) -> tuple[str, list[str]]:
    """(ok | failed | unknown, reasons): the health of a GPU of which there is no record yet."""
    checks = verdicts.failing(examine(gpu, None, thresholds.DEFAULTS))
    verdict = verdicts.worst(checks) if checks else verdicts.PASS
    named = {CRITICAL: "failed", UNKNOWN: "unknown"}
    ordered = sorted(checks, key=lambda one: one["verdict"] != CRITICAL)
    return named.get(verdict, "ok"), [one["detail"] for one in ordered]


Found = Iterator[tuple[str, str, str]]  # verdict, action, detail


def _answers(gpu: Gpu, _limits: Limits) -> Found:
    for broken in gpu["readings"]["broken"]:
        yield CRITICAL, "reset", broken
    if gpu["uuid"] is None:
        yield UNKNOWN, "reset", "no UUID"


def _ecc(gpu: Gpu, limits: Limits) -> Found:
    count, says = gpu["readings"]["ecc_volatile"], gpu["readings"]
    if count is not None and count > limits["ecc_volatile_uncorrectable"]:
        yield CRITICAL, "reset", f"{count} uncorrectable ECC errors since boot"
    if count is None and gpu["ecc_mode"] == "enabled":
        yield UNKNOWN, "none", "ECC is on but its error counts cannot be read"
    if says["sram_exhausted"]:
        yield CRITICAL, "service", "the driver counts more SRAM errors than the board may have"


def _memory_repair(gpu: Gpu, _limits: Limits) -> Found:
    says = gpu["readings"]
    if says["remap_pending"]:
        yield CRITICAL, "reset", "row remap pending"
    if says["remap_failed"]:
        yield CRITICAL, "service", "row remap failed"
    if says["banks_spent"]:
        yield WARNING, "none", f"{says['banks_spent']} memory banks have no spare rows left"
    for name in says["repair_pending"]:
        yield CRITICAL, "reset", name.replace("_", " ")
    if says["unrepairable"]:
        yield CRITICAL, "service", "memory that cannot be repaired"
    told = (says["remap_pending"], says["remap_failed"], says["page_pending"])
    if gpu["ecc_mode"] == "enabled" and all(one is None for one in told):
        yield UNKNOWN, "none", "neither row remapping nor page retirement can be read"


def _pages(gpu: Gpu, limits: Limits) -> Found:
    retired = gpu["lasting"]["retired_pages"]
    if gpu["readings"]["page_pending"]:
        yield CRITICAL, "reset", "page retirement pending"
    if retired is not None and retired > limits["retired_pages"]:
        yield CRITICAL, "service", f"{retired} retired pages, the limit is {limits['retired_pages']:g}"
    rows = gpu["lasting"]["remapped_rows"]
    if rows is not None and rows > limits["remapped_rows"]:
        yield CRITICAL, "service", f"{rows} remapped rows, the limit is {limits['remapped_rows']:g}"


def _recovery(gpu: Gpu, _limits: Limits) -> Found:
    says = gpu["readings"]
    if says["reset_required"]:
        yield CRITICAL, "reset", "GPU reset required"
    if says["drain_recommended"]:
        yield CRITICAL, "drain", "drain and reset recommended"
    advised = (says["recovery"] or "none").lower()
    if advised != "none":
        action = RECOVERY.get(advised)
        yield CRITICAL, action or "service", f"the driver advises: {says['recovery']}"


def _slowdown(gpu: Gpu, _limits: Limits) -> Found:
    for name in gpu["readings"]["held_by"]:
        if name in SLOWED:
            verdict, action, why = SLOWED[name]
            yield verdict, action, f"clocks held down: {name} ({why})"


def _temperature(gpu: Gpu, limits: Limits) -> Found:
    says = gpu["readings"]
    now, left = says["temperature"], says["left"]
    if now is None and left is None:
        yield UNKNOWN, "none", "the temperature cannot be read"
        return
    if left is not None and says["slowdown_left"] is not None:
        hot, warm = left <= says["slowdown_left"], left <= (says["operating_left"] or 0)
        text = f"{left:g} C below its limit"
    else:
        slowdown = says["slowdown_at"] or limits["temperature_celsius"]
        hot = now is not None and now >= slowdown
        warm = now is not None and now >= (says["operating_to"] or slowdown)
        text = f"{now} C, slowed down from {slowdown:g} C"
    if hot:
        yield CRITICAL, "drain", f"too hot: {text}"
    elif warm:
        yield WARNING, "none", f"hotter than its operating range: {text}"
    memory, most = says["memory_temperature"], says["memory_to"]
    if memory is not None and most and memory >= most:
        yield WARNING, "none", f"memory at {memory:g} C, its operating range ends at {most:g} C"


def _fabric(gpu: Gpu, _limits: Limits) -> Found:
    state, status = gpu["readings"]["fabric_state"], gpu["readings"]["fabric_status"]
    if state is None:
        return
    if state.lower() == "in progress":
        yield UNKNOWN, "reset", "the GPU is still joining the NVLink fabric"
    elif state.lower() != "completed" or (status or "success").lower() != "success":
        yield CRITICAL, "reset", f"not part of the NVLink fabric: {state}, {status}"


def _width(gpu: Gpu, record: Gpu | None, limits: Limits) -> Found:
    now, most = gpu["lasting"]["pcie_width"], gpu["readings"]["pcie_width_max"]
    enrolled = (record or {}).get("lasting", {}).get("pcie_width")
    if now is None:
        yield UNKNOWN, "none", "the PCIe link's width cannot be read"
    elif enrolled is not None and enrolled - now > limits["pcie_width_lost"]:
        yield CRITICAL, "service", f"PCIe link x{now}, at enrolment x{enrolled}"
    elif most is not None and now < most:
        known = enrolled is not None
        yield INFO if known else WARNING, "none", f"PCIe link x{now} of x{most}{' since enrolment' * known}"


def _lifetime(gpu: Gpu, record: Gpu | None, limits: Limits) -> Found:
    """Errors that resets do not clear."""
    now = gpu["lasting"]["ecc_uncorrectable"]
    if now is None:
        if gpu["ecc_mode"] == "enabled":
            yield UNKNOWN, "none", "ECC is on but its lifetime counts cannot be read"
        return
    added = now - ((record or {}).get("lasting", {}).get("ecc_uncorrectable") or 0)
    if now > limits["ecc_aggregate_uncorrectable"]:
        most = limits["ecc_aggregate_uncorrectable"]
        yield CRITICAL, "service", f"{now} uncorrectable ECC errors in its lifetime, the limit is {most:g}"
    elif record is not None and added > 0:
        yield WARNING, "none", f"{added} uncorrectable ECC errors since enrolment, {now} in its lifetime"


def _identity(gpu: Gpu, record: Gpu | None) -> Found:
    for key, what in (("vbios", "VBIOS"), ("pci_address", "PCI address")):
        if record is not None and record.get(key) != gpu[key]:
            yield CRITICAL, "service", f"{what} is {gpu[key]}, enrolment recorded {record.get(key)}"


def _held_memory(gpu: Gpu, record: Gpu | None, limits: Limits) -> Found:
    """Memory that is in use without a process may still hold a tenant's data."""
    used = gpu["memory_used_mib"]
    before = (record or {}).get("memory_used_mib") or 0
    if used is None:
        yield UNKNOWN, "reset", "the GPU does not say how much memory is in use"
    elif record is not None and used > before + limits["memory_slack_mib"]:
        yield CRITICAL, "reset", f"{used} MiB are in use, at enrolment {before} MiB"
