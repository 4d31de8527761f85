"""Programs that run beside the tests: started with a log, waited for, ended by pid."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.run import LabError

STOP_SECONDS = 15.0
_SET_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now, each another one."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


class Daemon:
    """One program in the background; its pid and log lie in `folder` under its name."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.pid_file = folder / f"{name}.pid"

    def start(self, *argv: str, tied: bool) -> None:
        """`tied`: the kernel ends the program when the one that started it dies."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            program = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent if tied else None,  # noqa: PLW1509 (no threads touch it)
            )
        self.pid_file.write_text(f"{program.pid} {_born(program.pid)}")
        # it is followed by its pid; this keeps the interpreter from warning about a child it forgot
        program.returncode = 0

    @property
    def pid(self) -> int | None:
        """While it runs, else None; a pid that another program has now does not count."""
        with contextlib.suppress(OSError, ValueError):
            pid, born = self.pid_file.read_text().split()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), os.WNOHANG)
            if _born(int(pid)) == born:
                return int(pid)
        return None

    def stop(self) -> None:
        if (pid := self.pid) is None:
            self.pid_file.unlink(missing_ok=True)
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.pid is not None:
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.pid_file.unlink(missing_ok=True)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " ".join(lines[-3:])[-600:]

    def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        """Raises LabError with the end of its log when it dies or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid is None:
                raise LabError(f"{self.name} ended at once; see {self.log}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name} is not ready after {seconds:.0f} s; see {self.log}: {self.last_words()}"
                )
            time.sleep(0.1)


def _born(pid: int) -> str | None:
    """When a living process began, in the kernel's ticks."""
    with contextlib.suppress(OSError):
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else numbers[18]
    return None


def answers(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
