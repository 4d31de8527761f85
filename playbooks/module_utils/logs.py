"""Logs: the journal, the files under /var/log and stored core dumps, which tell what a tenant did."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils import pseudo, tracked
from ansible.module_utils.steps import Step, StepFailed, run

LOGS = "/var/log"
JOURNALS = ("/var/log/journal", "/run/log/journal")
DUMPS = ("/var/lib/systemd/coredump", "/var/lib/systemd/pstore", "/sys/fs/pstore")
# What journald writes to now: everything else in its folders is archived, corrupt or somebody else's.
ACTIVE = re.compile(r"(system|user-\d+)\.journal$")
# A log that a service or logrotate turned over: name.1, name.2.gz, name-20260102, name.old
ROTATED = re.compile(r"([.-]\d+)?(\.(gz|xz|zst|bz2|old|\d+))*$")

Kept = dict[str, list[Any]]


def record(root: str = "") -> Kept:
    """The names, owners and modes under /var/log; what they hold is nobody's record."""
    return {path: _facts(f"{root}{path}") for path in walk(root) if not _rotated(path)}


def walk(root: str = "") -> Iterator[str]:
    for folder, folders, files in os.walk(f"{root}{LOGS}"):
        here = folder[len(root) :]
        folders[:] = [name for name in folders if f"{here}/{name}" != JOURNALS[0]]
        for name in [*folders, *files]:
            yield f"{here}/{name}"


def _facts(real: str) -> list[Any]:
    info = os.lstat(real)
    return [stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid]


def _rotated(path: str) -> bool:
    suffix = ROTATED.search(path)
    return bool(suffix and suffix.group())


def archived() -> list[str]:
    """Journal files but the one that is being written, and folders of other machines or namespaces."""
    machine = pseudo.read("/etc/machine-id") or ""
    found = []
    for top in JOURNALS:
        for name in pseudo.names(top):
            folder = f"{top}/{name}"
            if name != machine:
                found.append(folder)
            else:
                found += [f"{folder}/{file}" for file in pseudo.names(folder) if not ACTIVE.match(file)]
    return found


def dumps() -> list[str]:
    return [f"{top}/{name}" for top in DUMPS for name in pseudo.names(top)]


def findings(before: Kept) -> list[str]:
    """Names that no service of the record writes, and core dumps. Logs fill and rotate by themselves."""
    fresh = [path for path in walk() if path not in before and not _rotated(path)]
    return [f"log {path} is not in the manifest" for path in sorted(fresh)] + [
        f"core dump left behind: {path}" for path in dumps()
    ]


def clean(step: Step, before: Kept) -> None:
    """Empty what services keep open and remove the rest; the journal begins anew."""
    if not step.check:
        run("journalctl", "--rotate", timeout=60)
    machine = pseudo.read("/etc/machine-id") or "?"
    for path in archived():
        if f"/{machine}/" in path:  # the host's own, of this lease and before
            step.note(f"removed {path}")
        else:
            step.gone("journals", path)
        _remove(step, path)
    for path in dumps():
        step.gone("core dumps", path)
        _remove(step, path)
    for path in sorted(walk(), reverse=True):
        if path not in before or before[path][0] != _facts(path)[0]:
            if _rotated(path):
                step.note(f"removed {path}")
            else:
                step.gone("logs", path)
            _remove(step, path)
    for path, facts in before.items():
        restore(step, path, facts)
    left = [] if step.check else findings(before)
    if left:
        raise StepFailed(f"logs could not be emptied: {left[0]}", left)


def _remove(step: Step, path: str) -> None:
    if not step.check:
        tracked.remove(Path(path))


def restore(step: Step, path: str, facts: list[Any]) -> None:
    """One recorded name: there, empty, and whose it was. Appended to by nobody but its service."""
    kind, mode, uid, gid = facts
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        return
    filled = kind == stat.S_IFREG and os.path.exists(path) and os.path.getsize(path) > 0
    same = os.path.lexists(path) and _facts(path) == facts
    if step.check or (same and not filled):
        return
    if filled:
        run("chattr", "-a", "-i", path)
        step.note(f"emptied {path}")
    if kind == stat.S_IFDIR:
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode))
    os.chown(path, uid, gid)
    os.chmod(path, mode)
