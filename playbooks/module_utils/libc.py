"""System calls that have no Python function on 3.9, called directly: no program of the host takes part."""

from __future__ import annotations

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MNT_DETACH = 2
FLAGS = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}


def _call(name: str, *arguments: object) -> None:
    """Raises OSError with the kernel's reason."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def umount(point: str, *, detach: bool = False) -> None:
    """Unmount the topmost mount of a path; detached, it vanishes at once and ends with its last user."""
    _call("umount2", os.fsencode(point), MNT_DETACH if detach else 0)


def remount(point: str, options: str) -> None:
    """Give one mount these of the words ro, rw, nosuid, nodev, noexec, and none of the others."""
    flags = MS_REMOUNT | MS_BIND
    for word in options.split(","):
        flags |= FLAGS.get(word, 0)
    _call("mount", None, os.fsencode(point), None, ctypes.c_ulong(flags), None)


def join_mounts(pid: int = 1) -> bool:
    """See the file systems as another process does; False when that is how it is anyway."""
    own, other = "/proc/self/ns/mnt", f"/proc/{pid}/ns/mnt"
    if os.readlink(own) == os.readlink(other):
        return False
    descriptor = os.open(other, os.O_RDONLY)
    try:
        _call("setns", descriptor, 0x00020000)
    finally:
        os.close(descriptor)
    os.chdir("/")
    return True
