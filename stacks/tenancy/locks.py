"""The lock of a stack: who holds it, and whether that is a run which was killed."""

from __future__ import annotations

import platform
import re
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 60.0  # seconds for somebody else's run to end
POLL = 1.0
HELD = re.compile(r"created by (?P<user>[^\s@]*)@(?P<machine>\S+) \(pid (?P<pid>\d+)\)")


@dataclass(frozen=True)
class Holder:
    user: str
    machine: str
    pid: int


def holder_of(message: str) -> Holder | None:
    """Who holds the lock, as a backend of files or buckets says; None where it does not."""
    found = HELD.search(message)
    return Holder(found["user"], found["machine"], int(found["pid"])) if found else None


def is_left_over(holder: Holder | None, *, dead_machines: Collection[str], again: bool) -> bool:
    """Whether the holder is gone: a process of this machine that has ended, or a machine whose workers died.

    `again`: this is another attempt of a sync whose worker died, so a lock that names nobody was its own.
    """
    if holder is None:
        return again
    if holder.machine == platform.node():
        return not _runs_pulumi(holder.pid)
    return holder.machine in dead_machines


def wait_for(holder: Holder | None, stopped: threading.Event) -> bool:
    """Wait a while for a run on this machine to end; True when it has."""
    if holder is None or holder.machine != platform.node():
        return False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not stopped.wait(POLL):
        if not _runs_pulumi(holder.pid):
            return True
    return False


def _runs_pulumi(pid: int) -> bool:
    try:
        return "pulumi" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return False
