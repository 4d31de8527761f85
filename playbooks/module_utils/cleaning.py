"""Actions that more than one step takes: end foreign processes, restore tracked files, empty folders."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils import cgroups, processes, units
from ansible.module_utils.steps import Step, StepFailed, run

ROUNDS = 5


def end_units(step: Step, manifest: dict[str, Any]) -> None:
    """Stop active units that enrolment did not know or that only run since, and forget the failed ones."""
    names = [*units.foreign(manifest), *units.surplus(manifest)]
    for name in names:
        step.gone("units", name)
    if names and not step.check:
        run("systemctl", "stop", "--no-block", *names, timeout=30)
        run("systemctl", "kill", "--signal=SIGKILL", *names, timeout=30)
        run("systemctl", "stop", *names, timeout=60)
        run("systemctl", "reset-failed", *names, timeout=30)


def end_processes(step: Step, manifest: dict[str, Any], grace: float = 5.0) -> None:
    """End every foreign process; what starts again meanwhile is stopped as a whole and then ended."""
    survivors: list[processes.Process] = []
    groups: set[str] = set()
    for attempt in range(ROUNDS):
        found = processes.find(manifest)
        for process in found:
            if attempt == 0 or process.pid not in {one.pid for one in survivors}:
                step.gone("processes", str(process))
        if not found or step.check:
            break
        groups.update(folder for process in found for folder in cgroups.folders(process.pid))
        cgroups.thaw(step, [process.pid for process in found])
        if attempt:
            found = processes.halt(manifest)
            processes.send(found, signal.SIGKILL)
        survivors = processes.end(found, grace)
    left = [] if step.check else processes.find(manifest)
    if left:
        raise StepFailed(
            f"{len(left)} processes could not be ended, the first is {left[0]}",
            [f"{process}; {waiting(process)}" for process in left],
        )
    for folder in [] if step.check else groups:
        if not cgroups.is_units(folder):
            cgroups.remove(folder)


def waiting(process: processes.Process) -> str:
    """Why a process does not die, as far as the kernel says."""
    if process.state == "D":
        place = Path(f"/proc/{process.pid}/wchan")
        said = place.read_text().strip() if place.exists() else ""
        return f"uninterruptible sleep in {said or 'the kernel'}"
    return "started again or survived SIGKILL"


def unmount_below(step: Step, tops: Iterable[str], keep: Iterable[str] = ()) -> None:
    """Detach mounts inside the folders that will be emptied.

    Nobody's bind mount of / may be wiped through.
    """
    roots, kept = list(tops), set(keep)
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = [point.replace("\\040", " ") for point in points]
    below = [p for p in points if p not in kept and any(p.startswith(f"{top.rstrip('/')}/") for top in roots)]
    for point in sorted(below, reverse=True):
        step.gone("mounts", point)
        if not step.check:
            detached = run("umount", "-l", point)
            if not detached.ok:
                raise StepFailed(
                    f"{point} cannot be unmounted, so its folder cannot be emptied", [detached.tail()]
                )


def leftovers(folder: str, manifest: dict[str, Any], keep: Iterable[str] = ()) -> list[str]:
    """What has to go from a temporary folder. Folders named in ``keep`` stay, what is in them does not."""
    found = []
    for path in _children(folder):
        if os.path.basename(path) in keep and os.path.isdir(path) and not os.path.islink(path):
            found += _children(path)
        elif not _private(os.path.basename(path), manifest):
            found.append(path)
    return found


def _children(folder: str) -> list[str]:
    """Full paths, this running module's own unpacked code left out."""
    if not os.path.isdir(folder) or os.path.islink(folder):
        return []
    paths = (f"{folder.rstrip('/')}/{name}" for name in sorted(os.listdir(folder)))
    return [path for path in paths if Path(path) not in Path(__file__).parents]


def _private(name: str, manifest: dict[str, Any]) -> bool:
    """Systemd's PrivateTmp= folder of one of the platform's own services, made since this boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    prefix = f"systemd-private-{boot.read_text().strip().replace('-', '')}-" if boot.exists() else ""
    if not prefix or not name.startswith(prefix):
        return False
    return processes.known(name[len(prefix) :].rsplit("-", 1)[0], [*manifest["units"], *manifest["services"]])
