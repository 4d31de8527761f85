"""The locks of a stack: who holds them, and whether those are runs which were killed."""

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

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.machine}"


def holders_of(message: str) -> list[Holder]:
    """Who holds the locks, as a backend of files or buckets says; nobody where it does not."""
    return [Holder(row["user"], row["machine"], int(row["pid"])) for row in HELD.finditer(message)]


def are_left_over(holders: Collection[Holder], *, dead_machines: Collection[str], again: bool) -> bool:
    """Whether all are gone: processes of this machine that have ended, or machines whose workers died.

    `again`: this is another attempt of a sync whose worker died, so a lock that names nobody was its own.
    """
    if not holders:
        return again
    return all(
        not _runs_pulumi(holder.pid) if holder.machine == platform.node() else holder.machine in dead_machines
        for holder in holders
    )


def wait_for(holders: Collection[Holder], stopped: threading.Event) -> bool:
    """Wait a while for runs on this machine to end; True when they have."""
    if not holders or any(holder.machine != platform.node() for holder in holders):
        return False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not stopped.wait(POLL):
        if not any(_runs_pulumi(holder.pid) for holder in holders):
            return True
    return False


def locked_by(holders: Collection[Holder]) -> str:
    """What to do about locks that somebody may still need."""
    who = " and ".join(map(str, holders)) or "somebody else"
    return f"The stack is locked by {who}; if nothing runs there, `pulumi cancel` takes the lock away."


def _runs_pulumi(pid: int) -> bool:
    try:
        return "pulumi" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return False
