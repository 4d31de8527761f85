"""Block devices by their kernel names, whatever a tenant did to /dev."""

from __future__ import annotations

import glob
import os
import stat

SYS = "/sys/class/block"
OWN = "/run/ironyard/dev"


def number(name: str) -> tuple[int, int]:
    """(major, minor) as the kernel has it. Raises OSError when there is no such device."""
    with open(f"{SYS}/{name}/dev", encoding="ascii") as source:
        major, minor = source.read().split(":")
    return int(major), int(minor)


def node(name: str) -> str | None:
    """A path that opens the device, made anew where /dev has none or another device under its name.

    None when this system is not allowed to open it: a container sees its machine's disks in /sys.
    """
    path = f"/dev/{name.replace('!', '/')}"
    wanted = os.makedev(*number(name))
    try:
        found = os.stat(path)
        right = stat.S_ISBLK(found.st_mode) and found.st_rdev == wanted
    except OSError:
        right = False
    if not right:
        path = f"{OWN}/{name}"
        os.makedirs(OWN, mode=0o700, exist_ok=True)
        if not os.path.exists(path):
            try:
                os.mknod(path, 0o600 | stat.S_IFBLK, wanted)
            except OSError:
                return None
    return path if _opens(path) else None


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def loops() -> dict[str, str]:
    """Loop devices in use and the file behind each, those of other systems left out."""
    found = {}
    for path in sorted(glob.glob("/sys/block/loop*/loop/backing_file")):
        name = path.split("/")[3]
        if node(name):
            with open(path, encoding="utf-8", errors="surrogateescape") as source:
                found[name] = source.read().rstrip("\n")
    return found
