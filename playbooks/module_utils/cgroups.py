"""Control groups that no unit of systemd made, and frozen ones: a frozen process does not die."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable
from pathlib import PurePath

from ansible.module_utils import mounts, pseudo
from ansible.module_utils.steps import Step, StepFailed

UNITS = (".slice", ".scope", ".service", ".socket", ".mount", ".automount", ".swap", ".timer", ".device")
ENGINES = {"docker", "buildkit", "kubepods", "libpod_parent", "machine", "lxc.payload"}


def trees() -> dict[str, str]:
    """Where each hierarchy is mounted, by its controller or name; the unified one is ''."""
    found = {}
    for mount in mounts.read():
        if mount.fstype in ("cgroup", "cgroup2"):
            found[mount.point.rsplit("/", 1)[-1] if mount.fstype == "cgroup" else ""] = mount.point
    return found


def of(pid: int | str) -> dict[str, str]:
    """The path of a process in each hierarchy, by controller or name."""
    lines = (pseudo.read(f"/proc/{pid}/cgroup") or "").splitlines()
    cells = (line.split(":", 2) for line in lines)
    return {cell[1].replace("name=", ""): cell[2] for cell in cells if len(cell) == 3}


def bases() -> list[str]:
    """The folders below which this system's systemd keeps its groups, one for each hierarchy it owns."""
    where, end = trees(), "/init.scope"
    paths = {name: path for name, path in of(1).items() if name in where and path.endswith(end)}
    return [f"{where[name]}{path[: -len(end)]}" for name, path in paths.items()]


def groups() -> list[str]:
    """Groups at the first two levels whose names are no unit's."""
    found = []
    for base in bases():
        for path in [*glob.glob(f"{base}/*/"), *glob.glob(f"{base}/*.slice/*/")]:
            name = path.rstrip("/").rsplit("/", 1)[-1]
            if not name.endswith(UNITS) and name not in ENGINES:
                found.append(path.rstrip("/"))
    return sorted(found)


def record() -> list[str]:
    return groups()


def extra(before: list[str]) -> list[str]:
    return [path for path in groups() if path not in before]


def findings(before: list[str]) -> list[str]:
    return [f"control group {path} is no unit's" for path in extra(before)]


def clean(step: Step, before: list[str]) -> None:
    for path in extra(before):
        step.gone("control groups", path)
        if not step.check:
            remove(path)
    left = [] if step.check else findings(before)
    if left:
        raise StepFailed("control groups could not be removed", left)


def remove(path: str) -> None:
    """Remove a group and those below it; one that still has processes stays."""
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def folders(pid: int) -> list[str]:
    """The folders of a process's groups in every hierarchy, without the roots."""
    where = trees()
    return [f"{where[name]}{path}" for name, path in of(pid).items() if name in where and path != "/"]


def thaw(step: Step, pids: Iterable[int]) -> None:
    """Thaw the groups of these processes and the groups above: what is frozen does not die."""
    tops = {folder for pid in pids for folder in folders(pid)}
    for folder in sorted({above for top in tops for above in (top, *map(str, PurePath(top).parents))}):
        for name, word, free in (("cgroup.freeze", "1", "0"), ("freezer.state", "FROZEN", "THAWED")):
            if pseudo.read(f"{folder}/{name}") == word:
                step.gone("frozen control groups", folder)
                if not step.check:
                    pseudo.write(f"{folder}/{name}", free)


def is_units(folder: str) -> bool:
    parts = PurePath(folder).parts
    return any(part.endswith(UNITS) or part in ENGINES for part in parts)
