"""What a file has beyond mode and owner: flags such as immutable, ACLs, capabilities and other xattrs."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import stat
import struct

from ansible.module_utils.index import meant, shown

GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS of linux/fs.h
# those a person sets with chattr(1): secrm, unrm, sync, immutable, append, nodump, noatime, dirsync, topdir
SETTABLE = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x10000 | 0x20000
LOCKING = 0x10 | 0x20
NO_SUCH_THING = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODATA)


def read(handle: int | str) -> str:
    """The attributes of an open file, or of a path that is not followed, as one word; '' when it has none."""
    found = []
    flags = get_flags(handle) if isinstance(handle, int) else 0
    if flags:
        found.append(f"flags={flags:x}")
    for name, value in xattrs(handle).items():
        found.append(f"{shown(name)}={base64.b64encode(value).decode()}")
    return ",".join(found)


def xattrs(handle: int | str) -> dict[str, bytes]:
    follow = isinstance(handle, int)
    try:
        names = sorted(os.listxattr(handle, follow_symlinks=follow))
        return {name: os.getxattr(handle, name, follow_symlinks=follow) for name in names}
    except OSError as error:
        if error.errno in NO_SUCH_THING:
            return {}
        raise


def get_flags(handle: int) -> int:
    try:
        raw = fcntl.ioctl(handle, GET_FLAGS, b"\0" * 8)
    except OSError as error:
        if error.errno in NO_SUCH_THING:
            return 0
        raise
    return int(struct.unpack("q", raw)[0]) & SETTABLE


def set_flags(handle: int, wanted: int, mask: int = SETTABLE) -> None:
    """Set and clear the flags in the mask, others stay as they are."""
    try:
        now = struct.unpack("q", fcntl.ioctl(handle, GET_FLAGS, b"\0" * 8))[0]
        if now & mask != wanted & mask:
            fcntl.ioctl(handle, SET_FLAGS, struct.pack("q", (now & ~mask) | (wanted & mask)))
    except OSError as error:
        if error.errno not in NO_SUCH_THING:
            raise


def unlock(path: str) -> None:
    """Clear the immutable and the append-only flag of a file or folder; other kinds have none."""
    if not os.path.lexists(path) or stat.S_IFMT(os.lstat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        set_flags(handle, 0, LOCKING)
    finally:
        os.close(handle)


def apply(path: str, word: str) -> None:
    """Give a file exactly these attributes; the flags come last, since they may forbid the rest."""
    wanted = dict(part.split("=", 1) for part in word.split(",") if part)
    flags = int(wanted.pop("flags", "0"), 16)
    values = {meant(name): base64.b64decode(value) for name, value in wanted.items()}
    now = xattrs(path)
    for name in now.keys() - values.keys():
        os.removexattr(path, name, follow_symlinks=False)
    for name, value in values.items():
        if now.get(name) != value:
            os.setxattr(path, name, value, follow_symlinks=False)
    if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            set_flags(handle, flags)
        finally:
            os.close(handle)
