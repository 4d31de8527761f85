"""The file systems in memory, /run and /dev: what lies there and belongs to no service or device."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ansible.module_utils import tracked
from ansible.module_utils.index import shown
from ansible.module_utils.steps import Step

# Names that services make at the top of /run when they start, which may be after enrolment.
RUN_NAMES = (
    *("*.lock", "*.pid", "NetworkManager", "agetty.reload", "alsa", "auditd*", "blkid", "boltd", "chrony*"),
    *(
        "cloud-init",
        "console-setup",
        "containerd",
        "containers",
        "credentials",
        "crond.reboot",
        "crio",
        "cups",
    ),
    *("dbus", "dhclient*", "dmeventd*", "docker*", "faillock", "fsck", "initctl", "initramfs", "ironyard"),
    *(
        "iscsid*",
        "lock",
        "log",
        "lvm",
        "mdadm",
        "motd*",
        "mount",
        "multipathd*",
        "netns",
        "nologin",
        "nvidia*",
    ),
    *("plymouth", "podman", "reboot-required*", "rpcbind*", "runc", "screen", "secrets", "sendsigs.omit.d"),
    *("setrans", "shm", "snapd*", "sshd*", "sssd*", "sudo", "systemd", "tuned", "udev", "udisks2", "user"),
    *("utmp", "uuidd", "xtables*"),
)
LOCK_NAMES = ("asound.state.lock", "iscsi", "lockdev", "lvm", "subsys")
# The driver's nodes are made by its own tools; pts, shm and the like are mounts of their own.
DEVICE_NAMES = ("nvidia*", "nvidia-caps/*", "nvidia-caps-imex-channels/*")


def record(root: str = "") -> dict[str, list[str]]:
    return {
        "run": sorted(_names(f"{root}/run")),
        "lock": sorted(_names(f"{root}/run/lock")),
        "devices": sorted(odd(root)),
    }


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def odd(root: str = "") -> Iterator[str]:
    """Paths in /dev that are no device of the kernel's: files, hidden names, nodes of another's numbers."""
    top = f"{root}/dev"
    device = os.lstat(top).st_dev if os.path.isdir(top) else None
    pending = [top] if device is not None else []
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                name = os.path.relpath(entry.path, top)
                if stat.S_ISDIR(info.st_mode) and not entry.name.startswith("."):
                    if info.st_dev == device:
                        pending.append(entry.path)
                elif _is_odd(name, info, root):
                    yield name


def _is_odd(name: str, info: os.stat_result, root: str) -> bool:
    if name.rsplit("/", 1)[-1].startswith("."):
        return True
    if stat.S_ISLNK(info.st_mode):
        return "/" not in name
    if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
        return True
    if any(fnmatchcase(name, pattern) for pattern in DEVICE_NAMES):
        return False
    kind = "char" if stat.S_ISCHR(info.st_mode) else "block"
    numbers = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    said = Path(f"{root}/sys/dev/{kind}/{numbers}/uevent")
    lines = said.read_text(errors="replace").splitlines() if said.exists() else []
    return f"DEVNAME={name}" not in lines


def foreign(before: dict[str, list[str]], root: str = "") -> list[str]:
    """Full paths of what was not there at enrolment and belongs to nobody known."""
    found = [f"/run/{name}" for name in _new("run", RUN_NAMES, before, f"{root}/run")]
    found += [f"/run/lock/{name}" for name in _new("lock", LOCK_NAMES, before, f"{root}/run/lock")]
    found += [f"/run/sudo/ts/{name}" for name in sorted(_names(f"{root}/run/sudo/ts"))]
    return found + [f"/dev/{name}" for name in sorted(set(odd(root)) - set(before["devices"]))]


def _new(part: str, allowed: tuple[str, ...], before: dict[str, list[str]], folder: str) -> list[str]:
    fresh = sorted(set(_names(folder)) - set(before[part]))
    return [name for name in fresh if not any(fnmatchcase(name, pattern) for pattern in allowed)]


def findings(before: Any) -> list[str]:
    return [f"not in the manifest: {shown(path)}" for path in foreign(before)]


def clean(step: Step, before: Any) -> None:
    for path in foreign(before):
        step.gone("runtime files", shown(path))
        if not step.check:
            tracked.remove(Path(path))
