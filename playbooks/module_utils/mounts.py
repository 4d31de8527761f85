"""Mounts, swap and what sits between a disk and its file system: recorded, and extra ones taken apart."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ansible.module_utils import devices, libc
from ansible.module_utils.steps import Step, StepFailed, run

MOUNTINFO = "/proc/1/mountinfo"  # the host's own view, whatever namespace the connection has
ROUNDS = 3
OPTIONS = ("ro", "rw", "nosuid", "nodev", "noexec")
# Mounts that come and go with the platform's own work, by path, with the file system each must have.
PASSING = (
    (r"/run/user/\d+", "tmpfs", "the runtime folder of a login; the step wipe removes those of others"),
    (r"/run/credentials/[^/]+", "ramfs|tmpfs", "systemd hands a service its credentials"),
    (r"/proc/sys/fs/binfmt_misc", "autofs|binfmt_misc", "mounted at first use"),
    (r"/sys/(kernel/(debug|tracing|config)|fs/(bpf|pstore|fuse/connections))", "", "mounted at first use"),
    (r"/sys/kernel/debug/tracing", "tracefs", "mounted at first use"),
    (r"/dev/(hugepages|mqueue)", "hugetlbfs|mqueue", "mounted at first use"),
    (r"/run/docker/netns/[^/]+", "nsfs", "a container's network; the part network counts them"),
)


@dataclass(frozen=True)
class Mount:
    number: int
    parent: int
    device: str
    point: str
    source: str
    fstype: str
    root: str
    options: str

    @property
    def identity(self) -> list[str]:
        """What makes it the same mount after a restart: device numbers and super options change."""
        return [self.point, self.root, self.fstype, _stable(self.source)]


def _stable(source: str) -> str:
    return source if source.startswith(("/", "none")) or ":" in source else ""


def unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), text)


def read(path: str = MOUNTINFO) -> list[Mount]:
    """The mounts in the order in which they were made: of two on one path the later covers the earlier."""
    with open(path, encoding="utf-8", errors="surrogateescape") as source:
        return parse(source)


def parse(lines: Iterable[str]) -> list[Mount]:
    """The lines of proc_pid_mountinfo(5)."""
    found = []
    for line in lines:
        left, _, right = line.partition(" - ")
        cells, rest = left.split(), right.split()
        options = ",".join(word for word in cells[5].split(",") if word in OPTIONS)
        point, root, source = (unescape(text) for text in (cells[4], cells[3], rest[1]))
        found.append(Mount(int(cells[0]), int(cells[1]), cells[2], point, source, rest[0], root, options))
    return found


def passing(mount: Mount) -> bool:
    return any(
        re.fullmatch(path, mount.point) and re.fullmatch(fstype or ".*", mount.fstype)
        for path, fstype, _ in PASSING
    )


def record() -> dict[str, Any]:
    return {
        "mounts": rows(read()),
        "swap": sorted(swaps()),
        "loops": sorted(devices.loops().values()),
    }


def swaps(path: str = "/proc/swaps") -> list[str]:
    with open(path, encoding="utf-8") as source:
        return [unescape(line.split()[0]) for line in source.readlines()[1:]]


def rows(now: list[Mount]) -> list[list[Any]]:
    return [[*one.identity, one.options, at(one.point, now) is one] for one in now]


def at(path: str, now: list[Mount]) -> Mount | None:
    """The mount that a path leads into, of several stacked on it the topmost."""
    here = next((mount for mount in now if mount.point == "/"), None)
    while here:
        inner = [
            one for one in now if one.parent == here.number and one is not here and _holds(one.point, path)
        ]
        if not inner:
            return here
        here = min(inner, key=lambda one: len(one.point))
    return None


def _holds(point: str, path: str) -> bool:
    return path == point or path.startswith(f"{point.rstrip('/')}/")


def extra(before: dict[str, Any], now: list[Mount]) -> list[Mount]:
    """Mounts without a counterpart in the record, or which cover one that was to be seen; innermost first.

    What lies unseen under a recorded mount of the very same file system hides nothing and cannot be taken
    away without it: `docker cp` into a container leaves such copies of its volumes.
    """
    top = {mount.point: at(mount.point, now) for mount in now}
    seen = [mount for mount in now if top[mount.point] is mount]
    covers: set[Mount] = set()
    while True:
        ordered = [*seen, *(mount for mount in now if mount not in seen)]
        pairs = _pairs(before, [mount for mount in ordered if mount not in covers])
        fresh = {top[mount.point] for mount, row in pairs if row[5] and mount not in seen} - {None} - covers
        if not fresh:
            break
        covers |= fresh
    matched = [mount for mount, _ in pairs]
    shown = {(mount.point, mount.device, mount.root) for mount in matched if mount in seen}
    return [
        mount
        for mount in now[::-1]
        if mount not in matched
        and not passing(mount)
        and (mount in seen or (mount.point, mount.device, mount.root) not in shown)
    ]


def _pairs(before: dict[str, Any], now: list[Mount]) -> list[tuple[Mount, list[Any]]]:
    """Each mount with its row of the record; the earlier in the list has the first choice."""
    left = list(before["mounts"])
    found = []
    for mount in now:
        row = next((row for row in left if row[:4] == mount.identity), None)
        if row:
            left.remove(row)
            found.append((mount, row))
    return found


def missing(before: dict[str, Any], now: list[Mount]) -> list[list[Any]]:
    there = [row for _, row in _pairs(before, now)]
    gone = [row for row in before["mounts"] if row not in there]
    return [row for row in gone if not any(re.fullmatch(path, row[0]) for path, _, _ in PASSING)]


def remounted(before: dict[str, Any], now: list[Mount]) -> list[tuple[str, str, str]]:
    """(path, options now, options recorded) of mounts that are now writable, executable or the reverse."""
    seen = [mount for mount in now if at(mount.point, now) is mount]
    return [(one.point, one.options, row[4]) for one, row in _pairs(before, seen) if row[4] != one.options]


def findings(before: dict[str, Any]) -> list[str]:
    now = read()
    found = [f"{one.fstype} mounted at {one.point} is not in the manifest" for one in extra(before, now)]
    found += [f"{row[2]} at {row[0]} was mounted at enrolment and is not" for row in missing(before, now)]
    found += [f"{point} is mounted {said}, was {was}" for point, said, was in remounted(before, now)]
    found += [f"swap {name} is not in the manifest" for name in swaps() if name not in before["swap"]]
    found += [f"swap {name} is off" for name in before["swap"] if name not in swaps()]
    return found + [f"loop device {name} holds {file}" for name, file in foreign_loops(before).items()]


def clean(step: Step, before: dict[str, Any]) -> None:
    """Unmount what enrolment did not see, swap off, loops free, recorded options and mounts back."""
    swap_off(step, before)
    unmount(step, before)
    free_loops(step, before)
    restore(step, before)
    left = [] if step.check else findings(before)
    if left:
        raise StepFailed(f"mounts are not as recorded: {left[0]}", left)


def swap_off(step: Step, before: dict[str, Any]) -> None:
    for name in swaps():
        if name not in before["swap"]:
            step.gone("swap", name)
            if not step.check:
                run("swapoff", name, timeout=600)
    for name in before["swap"]:
        if name not in swaps():
            step.did(f"swap on: {name}")
            if not step.check:
                run("swapon", name)


def unmount(step: Step, before: dict[str, Any]) -> None:
    """Take extra mounts away, the last made first; a busy one is detached: its users were ended before."""
    for attempt in range(ROUNDS):
        found = extra(before, read())
        for mount in found:
            if attempt == 0:
                step.gone("mounts", f"{mount.fstype} {mount.source} at {mount.point}")
            if not step.check:
                detach(mount.point)
        if not found or step.check:
            return


def foreign_loops(before: dict[str, Any]) -> dict[str, str]:
    """By the file: numbers change with each boot."""
    return {name: file for name, file in devices.loops().items() if file not in before["loops"]}


def free_loops(step: Step, before: dict[str, Any]) -> None:
    for name, file in foreign_loops(before).items():
        step.gone("loop devices", f"{name} {file}")
        if not step.check:
            run("losetup", "-d", devices.node(name) or name)


def detach(point: str) -> None:
    try:
        libc.umount(point)
    except OSError:
        with contextlib.suppress(OSError):  # who is still there after this is looked at again
            libc.umount(point, detach=True)


def restore(step: Step, before: dict[str, Any]) -> None:
    """Recorded options back; a recorded mount that is gone comes back by its unit or by fstab."""
    for point, said, was in remounted(before, read()):
        step.gone("mount options", f"{point} {said} → {was}")
        if not step.check:
            with contextlib.suppress(OSError):
                libc.remount(point, was)
    for row in missing(before, read()):
        step.did(f"mounted again: {row[0]}")
        if not step.check and not run("mount", row[0]).ok:
            unit = run("systemd-escape", "--path", "--suffix=mount", row[0]).out.strip()
            run("systemctl", "restart", unit, timeout=120)
