"""One sync of a cluster by Pulumi's Automation API: `python -m stacks.tenancy.sync`.

Standard input: one JSON line `{"job": …, "snapshot": …}`, then it stays open; when it closes, Pulumi is asked
to stop cleanly. Standard output: one JSON document a line, `{"event": "step" | "line" | "result", …}`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from stacks.tenancy.locks import are_left_over, holders_of, locked_by, wait_for
from stacks.tenancy.settings import PROJECT
from stacks.tenancy.snapshot import Snapshot

NO_PULUMI = "The Pulumi CLI is not on this worker's PATH: install `pulumi` there and try again."
COLOUR = re.compile(r"<\{%[^%]*%\}>|\x1b\[[0-9;]*m")
STATUS = {"error": "failed", "warning": "info"}
ENDED = "an unhandled error occurred: "  # the engine repeats so how the program ended
BEGUN, DONE = 10, 95  # percent


class Job(BaseModel):
    """What the worker asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str
    backend: str
    passphrase: str
    config: str
    config_required: bool
    kubeconfig: str
    registry_password: str
    refresh: bool
    again: bool
    dead_machines: list[str]


@dataclass
class Teller:
    """Prints what happens; called from several threads."""

    out: IO[str]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, event: str, **more: Any) -> None:
        with self.lock:
            self.out.write(json.dumps({"event": event, **more}) + "\n")
            self.out.flush()


@dataclass
class Progress:
    """Follows the engine: a resource that changes is a line, one that is done a bit of the way."""

    tell: Teller
    registered: int = 0
    done: int = 0
    percent: int = BEGUN
    errors: list[str] = field(default_factory=list)
    changes: dict[str, int] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def registering(self, _args: Any) -> None:
        self.registered += 1

    def __call__(self, event: Any) -> None:
        if event.res_outputs_event:
            self._outputs(event.res_outputs_event.metadata)
        elif event.res_op_failed_event:
            metadata = event.res_op_failed_event.metadata
            self._line("failed", f"{metadata.op.value} {_name(metadata.urn)}")
        elif event.diagnostic_event:
            self._diagnostic(event.diagnostic_event)
        elif event.summary_event:
            self.changes = {str(op): n for op, n in event.summary_event.resource_changes.items()}

    def _outputs(self, metadata: Any) -> None:
        self.done += 1
        if metadata.op.value not in ("same", "refresh", "read"):
            self._line("changed", f"{metadata.op.value} {_name(metadata.urn)}")
        percent = BEGUN + (DONE - BEGUN) * min(self.done, self.registered) // max(self.registered, 1)
        if percent > self.percent:
            self.percent = percent
            self.tell("step", name="up", progress=percent)

    def _diagnostic(self, found: Any) -> None:
        message = COLOUR.sub("", found.message or "").strip().removeprefix(ENDED)
        severity = str(found.severity)
        where = f"{_name(found.urn)}: " if found.urn else ""
        if message in ("", "update failed") or severity not in STATUS or where + message in self.said:
            return
        self.said.add(where + message)
        if severity == "error":
            self.errors.append(where + message)
        self._line(STATUS[severity], where.rstrip(": "), message)

    def _line(self, status: str, task: str, message: str = "") -> None:
        self.tell("line", step="up", status=status, task=task, message=message)


def _name(urn: str) -> str:
    """`ResourceQuota ws-vision-quota` of a resource's URN."""
    kinds, _, name = urn.rpartition("::")
    return f"{kinds.rpartition('$')[2].rpartition('::')[2].rpartition(':')[2]} {name}"


def sync(job: Job, snapshot: Snapshot, tell: Teller, stopped: threading.Event) -> dict[str, Any]:
    """Bring the cluster in line. Returns the result: status, reason, changes by kind."""
    if shutil.which("pulumi") is None:
        return {"status": "failed", "reason": NO_PULUMI}
    if job.config_required and not Path(job.config).is_file():
        return {
            "status": "failed",
            "reason": f"The stack's configuration {job.config} is not on this worker.",
        }
    tell("step", name="prepare", progress=5)
    from pulumi import automation

    progress = Progress(tell)
    try:
        stack = _stack(job, _program(job, snapshot, progress))
        tell("step", name="up", progress=BEGUN)
        _up(job, stack, progress, stopped)
    except automation.errors.CommandError as error:
        if stopped.is_set():
            return {"status": "cancelled", "reason": "Told to stop.", "changes": progress.changes}
        reason = "\n".join(progress.errors) or _complaint(str(error))
        return {"status": "failed", "reason": reason, "changes": progress.changes}
    return {"status": "succeeded", "changes": progress.changes}


def _program(job: Job, snapshot: Snapshot, progress: Progress) -> Callable[[], None]:
    def program() -> None:
        import pulumi

        from stacks.tenancy.program import load, tenancy

        pulumi.runtime.register_stack_transformation(progress.registering)
        tenancy(snapshot, load(registry_password=job.registry_password))

    return program


def _stack(job: Job, program: Callable[[], None]) -> Any:
    """The stack, in this process's own folder; its secrets' passphrase is in a file that only we read."""
    from pulumi import automation

    folder = Path.cwd()
    passphrase = folder / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text(job.passphrase)
    config = Path(job.config)
    if config.exists():
        shutil.copy(config, folder / f"Pulumi.{job.stack}.yaml")
    options = automation.LocalWorkspaceOptions(
        work_dir=str(folder),
        project_settings=automation.ProjectSettings(name=PROJECT, runtime="python"),
        secrets_provider="passphrase",
        env_vars={
            "PULUMI_BACKEND_URL": without_side_files(job.backend),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_SKIP_CONFIRMATIONS": "true",
        },
    )
    return automation.create_or_select_stack(job.stack, project_name=PROJECT, program=program, opts=options)


def without_side_files(backend: str) -> str:
    """A backend of files keeps a second file beside each, not written at once: a run killed then leaves a
    state that cannot be read. They hold nothing that is needed.
    """
    parts = urlsplit(backend)
    if parts.scheme != "file" or "metadata=" in parts.query:
        return backend
    query = "&".join(filter(None, (parts.query, "metadata=skip")))
    return f"file://{parts.netloc}{parts.path}?{query}"


def _up(job: Job, stack: Any, progress: Progress, stopped: threading.Event) -> None:
    """`up`, after taking away the lock of a run that was killed."""
    from pulumi import automation

    def up() -> None:
        stack.up(on_event=progress, refresh=job.refresh or None, color="never", message="ironyard")

    try:
        up()
    except automation.errors.ConcurrentUpdateError as error:
        holders = holders_of(str(error))
        if are_left_over(holders, dead_machines=job.dead_machines, again=job.again):
            said = f"A lock of {holders[0] if holders else 'ours'} is left over from a run that was killed."
            progress.tell("line", step="up", status="info", message=f"{said} It is taken away.")
            stack.cancel()
        elif not wait_for(holders, stopped):
            progress.errors.append(locked_by(holders))
            raise
        up()


def _complaint(text: str) -> str:
    """What Pulumi printed on standard error, without its frame."""
    _, _, errors = text.partition("\n stderr: ")
    return COLOUR.sub("", errors or text).strip()


def watch(stdin: IO[str], stopped: threading.Event) -> None:
    """Until standard input closes; then every process of ours but this one is interrupted, as by Ctrl-C."""
    stdin.read()
    stopped.set()
    os.killpg(os.getpgrp(), signal.SIGINT)


def main() -> None:
    # Whatever else prints must not mix with the events.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    stopped = threading.Event()

    def interrupted(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=watch, args=(sys.stdin, stopped), daemon=True).start()
    tell = Teller(out)
    try:
        result = sync(Job(**asked["job"]), Snapshot.model_validate(asked["snapshot"]), tell, stopped)
    except Exception as error:  # noqa: BLE001 - the worker shall know why, whatever it is
        result = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    tell("result", **result)


if __name__ == "__main__":
    main()
