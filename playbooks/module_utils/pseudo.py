"""Files of /proc/sys and /sys: read leniently, written through a read-only mount as well."""

from __future__ import annotations

import contextlib
import errno
import os

from ansible.module_utils import libc


def read(path: str) -> str | None:
    """The text without its last newline; None when there is no such file or it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            return source.read().strip()
    except OSError:
        return None


def names(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def write(path: str, said: str) -> None:
    """Set one value; what the kernel refuses stays as it is, so look again afterwards."""
    with contextlib.suppress(OSError):
        try:
            _write(path, said)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            root = "/proc/sys" if path.startswith("/proc/sys/") else "/sys"
            libc.remount(root, "nosuid,nodev,noexec")
            try:
                _write(path, said)
            finally:
                libc.remount(root, "ro,nosuid,nodev,noexec")


def _write(path: str, said: str) -> None:
    with open(path, "w", encoding="utf-8") as target:
        target.write(said + "\n")
