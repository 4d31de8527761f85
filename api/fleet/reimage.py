"""Reclaim for those who trust nothing: install the machine anew by a command of their own, enroll, verify.

The command is the operator's: a template whose `{name}`, `{address}`, `{port}` and `{id}` are filled in, run
without a shell. It has to end only when the machine has been installed and starts; ending well with 0.
"""

from __future__ import annotations

import base64
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO

from api.core.operations.execution import Reporter
from api.core.operations.lifecycle import Event
from api.core.operations.models import LogLine
from api.fleet.playbooks import PLAYBOOKS, Playbook, Run
from api.fleet.proofs import REIMAGED
from api.fleet.reports import PlayReport
from api.fleet.runner import Target, end_leftovers, scan_host_keys

STEP = "reimage"
MESSAGE_LIMIT = 4000
PATIENCE = 10  # seconds between asking the command to end and killing it
AGAIN = 2.0  # seconds between two looks for the SSH server
Play = Callable[[Playbook, Target], Run]


@dataclass(frozen=True, slots=True)
class Work:
    """`target` knows neither keys nor manifest; `old_keys` are what the machine presented before."""

    target: Target
    command: str
    timeout: int
    ssh_timeout: int
    old_keys: list[str]
    gpus: frozenset[str]
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        return self.timeout - (time.monotonic() - self.started)


def arguments(template: str, target: Target) -> list[str]:
    """Raises ValueError for a template that is empty, has an open quote or an unknown name in braces."""
    known = {"name": target.name, "address": target.address, "port": target.port, "id": target.host_id}
    try:
        made = [part.format(**known) for part in shlex.split(template)]
    except (KeyError, IndexError) as error:
        raise ValueError(f"{error} is none of name, address, port and id") from error
    if not made:
        raise ValueError("no command is set")
    return made


def run(work: Work, reporter: Reporter, play: Play) -> Run:
    """The whole way. Never raises for what fails on the way."""
    began = time.monotonic()
    reporter.step(STEP, 0)
    reason = _command(work, reporter)
    keys = [] if reason else _new_keys(work, reporter)
    if not keys and reason is None:
        reason = f"No SSH server with new host keys answered at {work.target.address}:{work.target.port}."
    if reporter.should_stop():
        return Run(Event.CANCEL, "Cancelled while it ran.", STEP, method=REIMAGED)
    if reason is not None:
        return Run(Event.FAIL, reason, STEP, method=REIMAGED)
    step = {"name": STEP, "status": "ok", "changed": True, "seconds": round(time.monotonic() - began, 3)}
    enrolled = play(PLAYBOOKS["enroll"], replace(work.target, host_keys=keys))
    if enrolled.event is not Event.SUCCEED or enrolled.report is None:
        return replace(enrolled, method=REIMAGED)
    missing = work.gpus - _gpus(enrolled.report)
    if missing:
        told = f"GPUs of its record are gone after it was reimaged: {', '.join(sorted(missing))}."
        return replace(enrolled, event=Event.FAIL, reason=told, step="discover", method=REIMAGED)
    return _verified(work, play, enrolled, enrolled.report, step)


def _verified(work: Work, play: Play, enrolled: Run, report: PlayReport, step: dict[str, object]) -> Run:
    variables = work.target.variables | {"ironyard_manifest": report.manifest}
    target = replace(
        work.target,
        host_keys=report.host_keys or enrolled.host_keys,
        variables=variables,
        index=base64.b64decode(report.index) if report.index else None,
    )
    verified = play(PLAYBOOKS["verify"], target)
    if verified.report is None:
        return replace(verified, method=REIMAGED)
    whole = {
        "steps": [step, *report.steps, *verified.report.steps],
        "facts": report.facts,
        "manifest": report.manifest,
        "index": report.index,
        "health": verified.report.health or report.health,
    }
    return replace(verified, report=verified.report.model_copy(update=whole), method=REIMAGED)


def _gpus(report: PlayReport) -> set[str]:
    return {str(gpu.get("uuid")) for gpu in (report.facts or {}).get("gpus") or []}


def _command(work: Work, reporter: Reporter) -> str | None:
    """Why it failed, None when it ended well. Its output is the operation's log."""
    end_leftovers(work.target.operation_id)
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
            arguments(work.command, work.target),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env=os.environ | {"IRONYARD_OPERATION": str(work.target.operation_id)},
        )
    except (OSError, ValueError) as error:
        return f"The reimage command cannot be run: {error}."
    assert process.stdout is not None
    reading = threading.Thread(target=_tell, args=(process.stdout, reporter), daemon=True)
    reading.start()
    try:
        while process.poll() is None and not reporter.should_stop() and work.left() > 0:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        late = process.poll() is None
    finally:
        _end(process, work)
    reading.join(PATIENCE)
    if late:
        return f"The reimage command did not end within {work.timeout} seconds."
    return f"The reimage command ended with exit code {process.returncode}." if process.returncode else None


def _tell(stream: IO[str], reporter: Reporter) -> None:
    with stream:
        for line in stream:
            reporter.line(
                LogLine(step=STEP, task="Run the reimage command", message=line.rstrip()[:MESSAGE_LIMIT])
            )


def _end(process: subprocess.Popen[str], work: Work) -> None:
    """With all that it started: those have the operation's mark in their environment."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    end_leftovers(work.target.operation_id)
    process.wait()


def _new_keys(work: Work, reporter: Reporter) -> list[str]:
    """The keys of the machine once it presents none of its old ones; empty when stopped or too late."""
    target = work.target
    while not reporter.should_stop() and work.left() > 0:
        found = scan_host_keys(target.address, target.port, timeout=work.ssh_timeout)
        if found and not set(found) & set(work.old_keys):
            return found
        time.sleep(AGAIN)
    return []
