"""Runs one sync of the cluster in a process of its own, and turns what it says into the operation's log.

A process, because Pulumi's runtime is large, keeps global state and is ended by a signal. It reads the job
on standard input, which stays open: when it closes, by a cancelled operation or a dead worker, the process
lets Pulumi stop cleanly and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from api.core.operations.execution import Outcome, Reporter
from api.core.operations.lifecycle import Event
from api.core.operations.models import LogLine
from api.fleet.runner import DIRECTORY_PREFIX, end_leftovers
from api.settings import ROOT

COMMAND = (sys.executable, "-m", "stacks.tenancy.sync")
LIMIT = 8000  # characters of a log line or reason
PATIENCE = 60.0  # seconds for Pulumi to stop cleanly
PATIENCE_OF_A_STOPPING_WORKER = 10.0  # less than it has itself
POLL = 0.2


@dataclass(frozen=True, slots=True)
class Job:
    """One sync as its process is told. `again`: an earlier attempt's worker died, its lock is left over."""

    stack: str
    backend: str
    passphrase: str = field(repr=False)
    config: str
    config_required: bool
    kubeconfig: str
    registry_password: str = field(repr=False)
    refresh: bool
    again: bool
    dead_machines: list[str]


def run(job: Job, snapshot: dict[str, Any], reporter: Reporter, *, timeout: float) -> Outcome:
    """Blocks until the sync has ended, was cancelled or ran out of time. Never raises for a failed one."""
    operation_id = reporter.claim.operation_id
    if job.again:
        end_leftovers(operation_id)
    directory = Path(tempfile.mkdtemp(prefix=f"{DIRECTORY_PREFIX}{reporter.claim.worker}-"))
    try:
        process = _Process(directory, job, snapshot, operation_id)
        result, cut_short = _follow(process, reporter, time.monotonic() + timeout)
        words = process.last_words()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if reporter.cancelled.is_set() and result.get("status") != "succeeded":
        return Outcome(Event.CANCEL, "Cancelled while it ran; the next sync goes on from there.", result)
    interrupted = reporter.lost.is_set() or (reporter.stopping.is_set() and cut_short)
    if result.get("status") == "succeeded":
        return Outcome(Event.SUCCEED, None, result)
    reason = result.get("reason") or f"The sync ended without a result: {words}"
    if cut_short and not interrupted:
        reason = f"The sync did not end within {timeout:.0f} seconds."
    return Outcome(Event.FAIL, reason[:LIMIT], result, interrupted=interrupted)


class _Process:
    """The process and the events that it prints, one JSON document a line."""

    def __init__(self, directory: Path, job: Job, snapshot: dict[str, Any], operation_id: UUID) -> None:
        self.operation_id = operation_id
        self.errors = directory / "stderr"
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603
                COMMAND,
                cwd=directory,
                env=_environment(operation_id, job.kubeconfig),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError):  # it has ended already; its last words say why
            self._input.write(json.dumps({"job": asdict(job), "snapshot": snapshot}).encode() + b"\n")
            self._input.flush()

    def _read(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                self._lines.put(line)
        self._lines.put(None)

    def events(self) -> Iterator[dict[str, Any] | None]:
        """Events as they come, None at least every `POLL` seconds."""
        while True:
            try:
                line = self._lines.get(timeout=POLL)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            yield json.loads(line)

    def stop(self) -> None:
        """Ask it to stop cleanly."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def end(self) -> None:
        """What is left of it is killed: the lock that this may leave is found by the next sync."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        end_leftovers(self.operation_id)
        self._process.wait()
        self._reader.join()

    def last_words(self) -> str:
        return self.errors.read_text(errors="replace").strip()[-1500:] or "no output"


def _follow(process: _Process, reporter: Reporter, deadline: float) -> tuple[dict[str, Any], bool]:
    """The result that it printed, empty without one, and whether it was told to stop."""
    result: dict[str, Any] = {}
    told: float | None = None
    try:
        for event in process.events():
            if event is not None:
                result = _take(event, reporter) or result
            now = time.monotonic()
            if told is None and (reporter.should_stop() or now > deadline):
                process.stop()
                told = now
            patience = PATIENCE_OF_A_STOPPING_WORKER if reporter.stopping.is_set() else PATIENCE
            if told is not None and now > told + patience:
                break
    finally:
        process.end()
    return result, told is not None


def _take(event: dict[str, Any], reporter: Reporter) -> dict[str, Any] | None:
    """One event: a step, a line of the log, or the result."""
    kind = event.pop("event")
    if kind == "result":
        return event
    if kind == "step":
        reporter.step(event["name"], event["progress"])
    else:
        event["message"] = event.get("message", "")[:LIMIT]
        event["task"] = (event.get("task") or "")[:256] or None
        reporter.line(LogLine.model_validate(event))
    return None


def _environment(operation_id: UUID, kubeconfig: str) -> dict[str, str]:
    """Of the worker, without the platform's own settings and secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IRONYARD_")}
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(ROOT),
        "IRONYARD_OPERATION": str(operation_id),  # by which leftovers are known
    }
    return kept | own | ({"KUBECONFIG": kubeconfig} if kubeconfig else {})
