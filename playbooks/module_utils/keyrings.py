"""Keys in the kernel: every user's keyring and persistent keyring, which outlive the user's processes."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

from ansible.module_utils import pseudo
from ansible.module_utils.steps import Step, StepFailed

CALL = {"x86_64": 250, "aarch64": 219}
CLEAR, READ, GET_PERSISTENT = 7, 11, 22  # keyctl(2)
USER, PROCESS = -4, -2


def users() -> list[int]:
    """Users of whom the kernel keeps keys."""
    lines = (pseudo.read("/proc/key-users") or "").splitlines()
    return sorted(int(line.split(":")[0]) for line in lines)


def record() -> dict[str, int]:
    """By user the number of keys in the user keyring and the persistent one."""
    return {str(uid): count for uid, count in held().items() if count}


def held() -> dict[int, int]:
    return {uid: _as_user(uid, clear=False) for uid in users()}


def shared_kernel(marker: str = "/run/systemd/container") -> bool:
    """Whether this system is a container: its kernel then holds the keys of its neighbours as well."""
    return os.path.exists(marker)


def findings(before: dict[str, Any]) -> list[str]:
    if shared_kernel():
        return []
    return [f"user {uid} has {count} keys in the kernel" for uid, count in extra(before).items()]


def extra(before: dict[str, Any]) -> dict[int, int]:
    return {uid: count for uid, count in held().items() if count > before.get(str(uid), 0)}


def clean(step: Step, before: dict[str, Any]) -> None:
    for uid, count in extra(before).items():
        step.gone("kernel keys", f"user {uid}", count)
        if not step.check:
            _as_user(uid, clear=True)
    left = {} if step.check else extra(before)
    if left:
        raise StepFailed("keys in the kernel could not be removed", [str(left)])


def _as_user(uid: int, *, clear: bool) -> int:
    """Count or remove keys from inside a child that is the user: each sees only its own keyrings."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(0)
            os.setresuid(uid, uid, 0)
            os.write(writing, str(_count(uid, clear=clear)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as source:
        said = source.read()
    os.waitpid(child, 0)
    if not said:
        raise StepFailed(f"the kernel's keys of user {uid} cannot be read")
    return int(said)


def _count(uid: int, *, clear: bool) -> int:
    rings = [USER, _keyctl(GET_PERSISTENT, uid, PROCESS)]
    total = 0
    for ring in (ring for ring in rings if ring != -1):
        if clear:
            _keyctl(CLEAR, ring)
        else:
            total += max(_keyctl(READ, ring, 0, 0), 0) // 4
    return total


def _keyctl(*words: int) -> int:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return int(call(CALL[platform.machine()], *(ctypes.c_long(word) for word in words)))
