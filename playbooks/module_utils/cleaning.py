"""Actions that more than one step takes: end foreign processes, restore tracked files, empty folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils import places, processes, tracked, units
from ansible.module_utils.steps import Step, StepFailed, run

ROUNDS = 5


def end_units(step: Step, manifest: dict[str, Any]) -> None:
    """Stop active units that enrolment did not know, and forget the failed ones."""
    names = units.foreign(manifest)
    for name in names:
        step.gone("units", name)
    if names and not step.check:
        run("systemctl", "stop", "--no-block", *names, timeout=30)
        run("systemctl", "kill", "--signal=SIGKILL", *names, timeout=30)
        run("systemctl", "stop", *names, timeout=60)
        run("systemctl", "reset-failed", *names, timeout=30)


def end_processes(step: Step, manifest: dict[str, Any], grace: float = 5.0) -> None:
    """End every foreign process; what starts again meanwhile is ended again, a few times."""
    survivors: list[processes.Process] = []
    for attempt in range(ROUNDS):
        found = processes.find(manifest)
        for process in found:
            if attempt == 0 or process.pid not in {one.pid for one in survivors}:
                step.gone("processes", str(process))
        if not found or step.check:
            return
        survivors = processes.end(found, grace)
    left = processes.find(manifest)
    if left:
        raise StepFailed(
            f"{len(left)} processes could not be ended",
            [f"{process}; {waiting(process)}" for process in left],
        )


def waiting(process: processes.Process) -> str:
    """Why a process does not die, as far as the kernel says."""
    if process.state == "D":
        place = Path(f"/proc/{process.pid}/wchan")
        said = place.read_text().strip() if place.exists() else ""
        return f"uninterruptible sleep in {said or 'the kernel'}"
    return "started again or survived SIGKILL"


def restore_tracked(step: Step, manifest: dict[str, Any], paths: Iterable[str]) -> tracked.Difference:
    """Bring the tracked files below the paths back to the record.

    Raises StepFailed naming what cannot be restored.
    """
    tops = list(paths)
    before = tracked.under(manifest["files"], tops)
    current = tracked.record(tops)
    current = {path: entry for path, entry in current.items() if not is_trace(path, manifest)}
    difference = tracked.compare(before, current)
    for path in difference.extra:
        step.gone(kind(path), path)
        if not step.check:
            tracked.remove(Path(path))
    stuck = []
    for path in [*difference.missing, *difference.altered]:
        step.did(f"restored: {path}")
        try:
            if not step.check:
                tracked.restore(path, before[path])
        except StepFailed as failed:
            stuck.append(failed.message)
    if stuck:
        raise StepFailed(f"{len(stuck)} files cannot be restored", stuck)
    return difference


def is_trace(path: str, manifest: dict[str, Any]) -> bool:
    homes = manifest["homes"].values()
    return any(
        path == f"{home}/{name}" or path.startswith(f"{home}/{name}/")
        for home in homes
        for name in places.TRACES
    )


def kind(path: str) -> str:
    """The word for a removed path in the report's counts."""
    words = (
        ("/var/spool/cron", "cron and at jobs"),
        ("/var/spool/at", "cron and at jobs"),
        ("/etc/cron", "cron and at jobs"),
        ("/etc/systemd", "unit files"),
        ("/usr/lib/systemd", "unit files"),
        ("/usr/local/lib/systemd", "unit files"),
        ("/etc/sudoers", "sudoers files"),
        ("/home", "home files"),
        ("/root", "home files"),
    )
    if "/.ssh" in path:
        return "SSH keys"
    return next((word for top, word in words if path.startswith(top)), "files")


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
