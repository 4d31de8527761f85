"""The health of a host and its GPUs: every check, and the one document that comes of them."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import diag, gpus, health_gpu, machine, nvidia_smi, thresholds, verdicts, xid
from ansible.module_utils.steps import StepFailed, run
from ansible.module_utils.verdicts import INFO, WARNING, Check

FABRIC_MANAGER = "nvidia-fabricmanager.service"
DOCUMENTED = 200  # checks that are handed over; passing ones are left out first


def examine(
    manifest: dict[str, Any],
    level: int,
    *,
    since: float = 0.0,
    reset_at: float = 0.0,
    held: list[str] | None = None,
    earlier: list[dict[str, Any]] | None = None,
    overrides: dict[str, Any] | None = None,
) -> list[Check]:
    """Every check of the host.

    ``level`` 0 looks only and leaves alone what tenants hold (``held``, UUIDs); 1 to 3 run DCGM's diagnostics
    of that level as well. ``since``, ``reset_at``: seconds since 1970. ``earlier``: Xids that were read
    before the logs were cleaned.
    """
    limits = thresholds.limits(overrides)
    on_bus = machine.pci_gpus()
    wanted = {gpu["uuid"]: gpu for gpu in manifest["gpu"]["gpus"]}
    try:
        answer = nvidia_smi.query()
    except StepFailed as failed:
        said = f"{failed.message}: {'; '.join(failed.evidence)}"
        return [verdicts.unknown("driver", said, action="reboot")]
    if answer is None:
        if wanted or on_bus:
            return [verdicts.unknown("driver", "nvidia-smi is missing", action="service")]
        return [verdicts.passed("gpu-count", "the host has no GPU")]
    present: list[dict[str, Any]] = answer["gpus"]
    checks = [*count(on_bus, present, wanted), *driver(answer, manifest)]
    for gpu in present:
        checks += health_gpu.examine(gpu, wanted.get(gpu["uuid"]), limits, held=gpu["uuid"] in (held or ()))
    checks += links(present, limits) + fabric_manager(present) + processes(manifest, present, held or [])
    checks += xids(present, since, reset_at, earlier or [])
    if level > 0 and present:
        seconds = limits[f"diag_seconds_level_{level}"]
        checks += diag.examine(level, [gpu["uuid"] for gpu in present], seconds=seconds)
    return checks


def document(level: int, checks: list[Check], *, reset_at: float | None = None) -> dict[str, Any]:
    """What is handed to the ledger: the worst verdict, and the checks, the worst first."""
    ordered = sorted(checks, key=lambda one: -verdicts.RANK.index(one["verdict"]))
    return {
        "level": level,
        "verdict": verdicts.worst(checks),
        "checks": ordered[:DOCUMENTED],
        "reset_at": reset_at,
    }


def count(on_bus: list[dict[str, str]], present: list[dict[str, Any]], wanted: dict[str, Any]) -> list[Check]:
    seen = {gpu["uuid"] for gpu in present}
    lost = machine.lost_gpus(on_bus, present)
    lost += [f"GPU {uuid} of the manifest is missing" for uuid in wanted if uuid not in seen]
    found = [verdicts.critical("gpu-count", one, "reboot") for one in lost]
    found += [
        verdicts.critical("gpu-count", f"GPU {uuid} is not in the manifest: enroll the host again", "service")
        for uuid in seen
        if uuid not in wanted
    ]
    return found or [verdicts.passed("gpu-count", f"{len(seen)} GPUs, as enrolment recorded them")]


def driver(answer: dict[str, Any], manifest: dict[str, Any]) -> list[Check]:
    now, before = answer["driver_version"], manifest["gpu"]["driver_version"]
    if now == before:
        return [verdicts.passed("driver", f"version {now}")]
    return [verdicts.critical("driver", f"driver is {now}, enrolment recorded {before}", "reboot")]


def links(present: list[dict[str, Any]], limits: dict[str, float]) -> list[Check]:
    """NVLinks that are up against those that a board of its name has."""
    said = run("nvidia-smi", "nvlink", "-s", timeout=60)
    if not said.ok:
        joined = [gpu for gpu in present if thresholds.nvlinks(gpu["model"])]
        return [verdicts.unknown("nvlink", said.tail(200), scope=gpu["uuid"]) for gpu in joined]
    listed = parse_links(said.out)
    return [_links_of(gpu, listed.get(gpu["uuid"]), limits) for gpu in present]


def parse_links(text: str) -> dict[str, tuple[int, int, str]]:
    """(links up, links down, remark) by UUID, of `nvidia-smi nvlink -s`; only one with a speed is up."""
    found: dict[str, tuple[int, int, str]] = {}
    uuid = ""
    for line in text.splitlines():
        if line.startswith("GPU "):
            uuid = line.rpartition("UUID: ")[2].rstrip(" )")
            found[uuid] = (0, 0, "")
        elif uuid and line.strip():
            up, down, remark = found[uuid]
            name, _, state = line.strip().partition(":")
            if not name.startswith("Link "):
                found[uuid] = (up, down, line.strip())
            elif state.strip().endswith("GB/s"):
                found[uuid] = (up + 1, down, remark)
            else:
                found[uuid] = (up, down + 1, remark)
    return found


def _links_of(gpu: dict[str, Any], listed: tuple[int, int, str] | None, limits: dict[str, float]) -> Check:
    expected, scope = thresholds.nvlinks(gpu["model"]), gpu["uuid"]
    up, down, remark = listed or (0, 0, "nvidia-smi nvlink does not list it")
    if gpu["mig_mode"] == "enabled" and not up + down:
        return verdicts.check("nvlink", INFO, f"not told while MIG is on: {remark}", scope=scope)
    if expected is None:
        verdict = WARNING if down else verdicts.PASS
        return verdicts.check("nvlink", verdict, f"{up} links up, {down} down", scope=scope)
    if expected - up > limits["nvlinks_down"]:
        detail = f"{up} of {expected} NVLinks are up{'; ' * bool(remark)}{remark}"
        return verdicts.critical("nvlink", detail, "reset", scope=scope)
    return verdicts.passed("nvlink", f"{up} of {expected} NVLinks are up", scope=scope)


def fabric_manager(present: list[dict[str, Any]]) -> list[Check]:
    """Where GPUs take part in an NVSwitch fabric and the host has the service, it has to run."""
    if all(gpu["readings"]["fabric_state"] is None for gpu in present):
        return []
    known = run("systemctl", "list-unit-files", "--no-legend", FABRIC_MANAGER, timeout=30)
    if FABRIC_MANAGER not in known.out:
        return [verdicts.passed("fabric-manager", "the host has none; the fabric is managed elsewhere")]
    state = run("systemctl", "is-active", FABRIC_MANAGER, timeout=30).out.strip()
    if state == "active":
        return [verdicts.passed("fabric-manager", "active")]
    return [verdicts.critical("fabric-manager", f"{FABRIC_MANAGER} is {state or 'unknown'}", "reboot")]


def processes(manifest: dict[str, Any], present: list[dict[str, Any]], held: list[str]) -> list[Check]:
    """Nobody may be on a GPU that nobody holds."""
    found, hidden = gpus.busy(manifest, present, but=held)
    faults = [f"process on a GPU: {process}" for process in found]
    faults += [f"process on a GPU that the host does not show: pid {pid}" for pid in hidden]
    checks = [verdicts.critical("gpu-processes", fault, "drain") for fault in faults]
    return checks or [verdicts.passed("gpu-processes", "none that the platform did not start")]


def xids(
    present: list[dict[str, Any]], since: float, reset_at: float, earlier: list[dict[str, Any]]
) -> list[Check]:
    before = [xid.Event(one["at"], one["bus"], one["code"]) for one in earlier]
    try:
        events = xid.since_then(before + xid.read(since), since)
    except StepFailed as failed:
        return [verdicts.unknown("xid", f"{failed.message}: {'; '.join(failed.evidence)}"[:400])]
    return xid.judge(events, present, reset_at=reset_at, booted=xid.boot_time() or 0.0)
