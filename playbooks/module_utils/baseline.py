"""The manifest: what a clean host looks like, recorded at enrolment, and the comparison with it."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils import (
    accounts,
    cleaning,
    containers,
    nvidia_smi,
    packages,
    parts,
    processes,
    recording,
    sshd,
    units,
)
from ansible.module_utils.steps import StepFailed

FORMAT = 2
MAX_BYTES = 250_000
GPU_KEYS = (
    "uuid",
    "pci_address",
    "vbios",
    "mig_mode",
    "ecc_mode",
    "persistence_mode",
    "compute_mode",
    "power_limit_watts",
    "application_clocks",
    "memory_used_mib",
    "lasting",
)
ROOT = Path("/")


def build(options: recording.Options) -> tuple[dict[str, Any], bytes]:
    """Record this host: the manifest and its index.

    Raises StepFailed when a part cannot be read or the record is too large to keep.
    """
    manifest = {
        "format": FORMAT,
        "packages": packages.record(),
        "passwords": accounts.passwords(),
        "units": units.unit_files(),
        "active_units": units.active("active,activating,reloading"),
        "services": processes.services(processes.scan()),
        "engines": containers.inventories(),
        "listening": listening(),
        "ipc": ipc(),
        "modules": kernel_modules(),
        "gpu": gpu(),
        "host_keys": sshd.host_keys(),
        "parts": parts.record(),
    }
    found, raw = recording.record(options)
    manifest.update(found)
    for name in ("passwd", "group"):
        accounts.recorded(manifest, name)
    size = len(json.dumps(manifest))
    if size > MAX_BYTES:
        largest = max(manifest, key=lambda part: len(json.dumps(manifest[part])))
        raise StepFailed(
            f"the manifest would take {size} bytes, the limit is {MAX_BYTES}: is the host clean?",
            [f"largest part: {largest}", f"homes: {', '.join(manifest['homes'].values())}"],
        )
    return manifest, raw


def gpu() -> dict[str, Any]:
    """Driver and per GPU what reclaim puts back and verify compares; no GPUs is a valid answer."""
    seen = nvidia_smi.query()
    if seen is None:
        return {"driver_version": None, "gpus": []}
    return {
        "driver_version": seen["driver_version"],
        "gpus": [{key: one[key] for key in GPU_KEYS} for one in seen["gpus"]],
    }


def listening(root: Path = ROOT) -> list[str]:
    """TCP sockets that listen outside the range of ephemeral ports, as 'tcp 22'."""
    span = (root / "proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    ports = set()
    for name in ("tcp", "tcp6"):
        path = root / "proc/net" / name
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        cells = (row.split() for row in rows)
        ports.update(int(cell[1].rsplit(":", 1)[1], 16) for cell in cells if cell[3] == "0A")
    return [f"tcp {port}" for port in sorted(ports) if not int(span[0]) <= port <= int(span[1])]


def ipc(root: Path = ROOT) -> dict[str, list[str]]:
    """SysV IPC by kind (key:id as the kernel prints them) and POSIX message queues by name."""
    found: dict[str, list[str]] = {}
    for kind in ("shm", "sem", "msg"):
        path = root / "proc/sysvipc" / kind
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        found[kind] = sorted(":".join(row.split()[:2]) for row in rows)
    queues = root / "dev/mqueue"
    found["mqueue"] = sorted(os.listdir(queues)) if queues.is_dir() else []
    return found


def kernel_modules(root: Path = ROOT) -> list[str]:
    path = root / "proc/modules"
    return sorted(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else []


def differences(manifest: dict[str, Any]) -> list[str]:
    """Everything that is not as recorded, as sentences. Each part that cannot be read is a finding itself."""
    findings: list[str] = []
    for name, check in CHECKS.items():
        try:
            findings += check(manifest)
        except StepFailed as failed:
            findings += [f"{name} could not be checked: {failed.message}", *failed.evidence]
        except (OSError, ValueError, KeyError, TypeError) as error:
            findings.append(f"{name} could not be checked: {type(error).__name__}: {error}")
    return findings


def _accounts(manifest: dict[str, Any]) -> list[str]:
    found = [f"account {name} is not in the manifest" for name in accounts.extra(manifest, "passwd")]
    found += [f"group {name} is not in the manifest" for name in accounts.extra(manifest, "group")]
    return found + accounts.password_findings(manifest) + accounts.group_password_findings(manifest)


def _packages(manifest: dict[str, Any]) -> list[str]:
    return packages.findings(manifest["packages"], packages.record())


def _units(manifest: dict[str, Any]) -> list[str]:
    found = units.enabled_since(manifest, units.unit_files())
    found += [f"unit {name} ran at enrolment and does not run" for name in units.down(manifest)]
    return found + [f"unit {name} is active and not in the manifest" for name in units.foreign(manifest)]


def _processes(manifest: dict[str, Any]) -> list[str]:
    found = processes.find(manifest)
    return [f"process not from the platform: {process}" for process in found]


def _containers(manifest: dict[str, Any]) -> list[str]:
    return [
        f"{engine} {kind} not in the manifest: {name[:64]}"
        for engine, kinds in containers.foreign(manifest).items()
        for kind, names in kinds.items()
        for name in names
    ]


def _sockets(manifest: dict[str, Any]) -> list[str]:
    return [f"something listens on {port}" for port in listening() if port not in manifest["listening"]]


def _ipc(manifest: dict[str, Any]) -> list[str]:
    return [f"IPC {kind} {name} is not in the manifest" for kind, name in foreign_ipc(manifest)]


def foreign_ipc(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (kind, name) for kind, names in ipc().items() for name in names if name not in manifest["ipc"][kind]
    ]


def _modules(manifest: dict[str, Any]) -> list[str]:
    """Modules load by themselves when a device or file system needs them.

    Only out-of-tree ones tell of a tenant.
    """
    fresh = set(kernel_modules()) - set(manifest["modules"])
    tainted = []
    for name in sorted(fresh):
        taint = Path(f"/sys/module/{name}/taint")
        flags = taint.read_text().strip() if taint.exists() else ""
        if re.search("[OEF]", flags):
            tainted.append(f"kernel module {name} was loaded since enrolment and is out of tree ({flags})")
    return tainted


def leftovers(manifest: dict[str, Any], folders: list[str], keep: list[str]) -> list[str]:
    """Findings: names in folders that have to be empty."""
    return [f"left behind: {path}" for top in folders for path in cleaning.leftovers(top, manifest, keep)]


CHECKS = {
    "accounts": _accounts,
    "files": recording.findings,
    "packages": _packages,
    "units": _units,
    "processes": _processes,
    "containers": _containers,
    "sockets": _sockets,
    "IPC": _ipc,
    "kernel modules": _modules,
    **{name: partial(parts.check, name) for name in parts.PARTS},
}


def kept(manifest: dict[str, Any] | None, *, rebaseline: bool) -> bool:
    """Whether an enrolment keeps the record it was given rather than recording the host anew."""
    return bool(manifest) and not rebaseline
