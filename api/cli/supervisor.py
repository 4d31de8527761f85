"""Child processes of `ironyard up`: started, logged to files, restarted when they die, stopped cleanly."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path

from api.cli.local import OWNER_ONLY, SUPERVISOR

PATIENCE = 20.0  # seconds between SIGTERM and SIGKILL
STEADY = 60.0  # seconds alive after which earlier deaths are forgotten
LONGEST_WAIT = 30.0  # seconds
LOG_BYTES, LOG_FILES = 10_000_000, 3
LOUD = re.compile(r"\b(ERROR|CRITICAL)\b")

Say = Callable[[str], None]


class Child:
    """One program that is to run for as long as the platform does."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, say: Say) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.deaths = 0
        self.last: deque[str] = deque(maxlen=20)
        self._say = say
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._began = 0.0
        self._due = 0.0
        self._file = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(message)s"))

    def start(self) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - our own commands
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {SUPERVISOR: str(os.getpid())},
            umask=OWNER_ONLY,
            start_new_session=True,  # a Ctrl-C at the terminal reaches us alone
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def tend(self) -> None:
        """Notice a death; start again when its waiting time is over."""
        if self._process is None:
            if time.monotonic() >= self._due:
                self.start()
            return
        code = self._process.poll()
        if code is None:
            return
        if time.monotonic() - self._began > STEADY:
            self.deaths = 0
        wait = min(LONGEST_WAIT, 2.0**self.deaths)
        self.deaths += 1
        self.finish()
        self._due = time.monotonic() + wait
        self._say(
            f"{self.name} {_ended(code)}{self.why()}; starting it again in {wait:.0f} s. Its log: {self.log}"
        )

    def why(self) -> str:
        return f" ({self.last[-1].strip()})" if self.last else ""

    def terminate(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def finish(self) -> None:
        """End it with force if it has not ended yet, and whatever it left behind."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._reader is not None:
            self._reader.join(2.0)
        self._process = None

    def close(self) -> None:
        self._file.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                text = line.rstrip("\n")
                if text.strip():
                    self.last.append(text)
                self._file.emit(logging.makeLogRecord({"msg": text}))
                if LOUD.search(text):
                    self._say(f"{self.name}: {text}")


class Supervisor:
    """Runs children until told to stop."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = children
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervise", daemon=True)

    def start(self) -> None:
        for child in self.children:
            child.start()
        self._thread.start()

    def stop(self, hurry: threading.Event) -> None:
        """SIGTERM to all, SIGKILL to what is left after 20 s, or as soon as `hurry` is set."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for child in self.children:
            child.terminate()
        deadline = time.monotonic() + PATIENCE
        while any(child.alive() for child in self.children) and time.monotonic() < deadline:
            if hurry.wait(0.05):
                break
        for child in self.children:
            child.finish()
            child.close()

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            for child in self.children:
                child.tend()


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
