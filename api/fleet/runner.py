"""Runs one playbook against one host with ansible-runner, in a directory that goes away with the run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import ansible_runner
from pydantic import ValidationError

from api.core.operations.execution import Reporter
from api.core.operations.lifecycle import Event
from api.core.operations.models import LogLine
from api.fleet.playbooks import Playbook, Run
from api.fleet.reports import PlayReport

DIRECTORY_PREFIX = "ironyard-"
INDEX = "index.xz"
MESSAGE_LIMIT = 8000
# New host keys are announced before they take effect, so that a run cut short can still be repeated.
ARGUMENT_CHECK = "validate_argument_spec"
ANNOUNCED = "announced_host_keys"
ANOTHER_KEY = "REMOTE HOST IDENTIFICATION HAS CHANGED"
OTHER_HOST = (
    "The host answers with other SSH host keys than the ledger knows. If it was installed anew, enroll it "
    "again and trust its new keys (`ironyard host re-enroll HOST --trust-new-host-key`); if not, find out "
    "who answers at its address."
)
TASK_STATUS = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
}


@dataclass(frozen=True, slots=True)
class Target:
    """One host as a play sees it. `key` is a private key in clear and lives in memory only."""

    operation_id: UUID
    host_id: UUID
    name: str
    address: str
    port: int
    user: str
    key: str | None = field(repr=False)
    key_file: str | None
    host_keys: list[str]
    variables: dict[str, Any] = field(repr=False)
    index: bytes | None = field(default=None, repr=False)


@dataclass(slots=True)
class _Watcher:
    """Turns ansible-runner's events into log lines; called in the runner's thread, so it only enqueues."""

    playbook: Playbook
    reporter: Reporter
    step: str = "start"
    report: dict[str, Any] | None = None
    stats: dict[str, int] = field(default_factory=dict)
    failure: str | None = None
    failed_step: str | None = None

    def __call__(self, event: dict[str, Any]) -> bool:
        try:
            self._take(event.get("event", ""), event.get("event_data") or {})
        except Exception as error:  # noqa: BLE001 - an exception here would end the run without a word
            self.reporter.line(LogLine(status="info", message=f"unreadable event: {error!r}"[:MESSAGE_LIMIT]))
        return False

    def _take(self, kind: str, data: dict[str, Any]) -> None:
        role = data.get("role")
        if kind == "playbook_on_task_start" and role in self.playbook.steps and role != self.step:
            self.step = role
            self.reporter.step(role, self.playbook.progress(role))
        elif kind == "runner_on_ok" and str(data.get("task_action")).endswith(ARGUMENT_CHECK):
            return  # every role begins with one; only a failing one is worth a line
        elif kind in TASK_STATUS:
            self._take_result(kind, data)
        elif kind == "playbook_on_stats":
            names = {"ok": "ok", "changed": "changed", "failures": "failures", "dark": "unreachable"}
            names |= {"skipped": "skipped"}
            self.stats = {ours: sum((data.get(theirs) or {}).values()) for theirs, ours in names.items()}

    def _take_result(self, kind: str, data: dict[str, Any]) -> None:
        result = data.get("res") or {}
        stats = (result.get("ansible_stats") or {}).get("data") or {}
        if "ironyard_report" in stats:
            self.report = stats["ironyard_report"]
        if result.get(ANNOUNCED):
            self.reporter.note(ANNOUNCED, result[ANNOUNCED])
        status = TASK_STATUS[kind]
        message = str(result.get("msg") or "")
        if status == "unreachable" and ANOTHER_KEY in message:
            message = OTHER_HOST
        if status in ("failed", "unreachable") and not data.get("ignore_errors"):
            self.failure = message or "failed without a message"
            self.failed_step = "connect" if status == "unreachable" else data.get("role") or self.step
        if status == "ok" and result.get("changed"):
            status = "changed"
        self.reporter.line(
            LogLine(
                step=data.get("role"),
                task=str(data.get("task") or "")[:256],
                status=status,
                message=message[:MESSAGE_LIMIT],
                seconds=data.get("duration"),
            )
        )


def run(
    playbook: Playbook, target: Target, reporter: Reporter, *, playbooks: Path, timeout: int, ssh_timeout: int
) -> Run:
    """Blocks until the play has ended, was cancelled or ran out of time. Never raises for a failed play."""
    host_keys = target.host_keys or scan_host_keys(target.address, target.port, timeout=ssh_timeout)
    if not host_keys:
        reason = f"No SSH server answers at {target.address}:{target.port}."
        return Run(Event.FAIL, reason, "connect")
    end_leftovers(target.operation_id)
    directory = Path(tempfile.mkdtemp(prefix=f"{DIRECTORY_PREFIX}{reporter.claim.worker}-"))
    watcher = _Watcher(playbook, reporter)
    try:
        runner = _launch(playbook, target, watcher, directory, host_keys, playbooks, timeout, ssh_timeout)
        tail = _last_words(runner)
    finally:
        end_leftovers(target.operation_id)
        shutil.rmtree(directory, ignore_errors=True)
    return _judge(playbook, watcher, runner.status, host_keys, tail, timeout)


def _launch(
    playbook: Playbook,
    target: Target,
    watcher: _Watcher,
    directory: Path,
    host_keys: list[str],
    playbooks: Path,
    timeout: int,
    ssh_timeout: int,
) -> Any:
    (directory / "known_hosts").write_text("".join(f"{target.host_id} {key}\n" for key in host_keys))
    if target.index is not None:
        (directory / INDEX).write_bytes(target.index)
    return ansible_runner.run(
        private_data_dir=str(directory),
        project_dir=str(playbooks.parent),
        playbook=str(playbooks / f"{playbook.name}.yml"),
        inventory={"all": {"hosts": {target.name: _host_variables(target, directory, ssh_timeout)}}},
        limit=target.name,
        ssh_key=target.key,
        envvars=_environment(target, directory, playbooks),
        settings={"suppress_ansible_output": True, "idle_timeout": 0, "job_timeout": timeout},
        event_handler=watcher,
        cancel_callback=watcher.reporter.should_stop,
        timeout=timeout,
        quiet=True,
    )


def _host_variables(target: Target, directory: Path, ssh_timeout: int) -> dict[str, Any]:
    options = {
        "UserKnownHostsFile": directory / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": target.host_id,
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": ssh_timeout,
    }
    variables = {
        "ansible_host": target.address,
        "ansible_port": target.port,
        "ansible_user": target.user,
        "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
    }
    if target.index is not None:
        variables["ironyard_index_file"] = str(directory / INDEX)
    if target.key_file:
        variables["ansible_ssh_private_key_file"] = target.key_file
    return variables | target.variables


def _environment(target: Target, directory: Path, playbooks: Path) -> dict[str, str]:
    return {
        "ANSIBLE_CONFIG": str(playbooks.parent / "ansible.cfg"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory / "cp"),
        "ANSIBLE_LOCAL_TEMP": str(directory / "tmp"),
        "IRONYARD_OPERATION": str(target.operation_id),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _judge(
    playbook: Playbook, watcher: _Watcher, status: str, host_keys: list[str], tail: str, timeout: int
) -> Run:
    report, unreadable = _read_report(watcher.report)
    reason = (report.failed_reason if report else None) or watcher.failure or unreadable
    step = (report.failed_step if report else None) or watcher.failed_step or watcher.step
    if watcher.reporter.cancelled.is_set() or status == "canceled":
        return Run(Event.CANCEL, "Cancelled while it ran.", watcher.step, report, watcher.stats, host_keys)
    if status == "successful" and unreadable is None:
        return Run(Event.SUCCEED, None, None, report, watcher.stats, host_keys)
    if status == "timeout":
        reason = f"{playbook.name} did not end within {timeout} seconds."
        step = watcher.step
    reason = reason or f"ansible-runner ended with status {status}: {tail}"
    return Run(Event.FAIL, reason[:MESSAGE_LIMIT], step, report, watcher.stats, host_keys)


def _read_report(document: dict[str, Any] | None) -> tuple[PlayReport | None, str | None]:
    if document is None:
        return None, None
    try:
        return PlayReport.model_validate(document), None
    except ValidationError as error:
        return None, f"The playbook's report cannot be read: {error.errors()[0]['msg']}"


def _last_words(runner: Any) -> str:
    try:
        with runner.stdout as stream:
            return "".join(stream.readlines()[-8:]).strip()[-1500:]
    except (OSError, AttributeError, ansible_runner.exceptions.AnsibleRunnerException):
        return "no output"


def scan_host_keys(address: str, port: int, *, timeout: int) -> list[str]:
    """The public keys that the SSH server presents, as `type base64`; empty when none answers."""
    command = ["ssh-keyscan", "-T", str(timeout), "-p", str(port), "--", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + 5, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return []
    lines = (line for line in done.stdout.splitlines() if line and not line.startswith("#"))
    return sorted(line.split(" ", 1)[1] for line in lines if " " in line)


def end_leftovers(operation_id: UUID) -> None:
    """Kill what an earlier or a cancelled run of the operation left on this machine.

    Ansible's forks have sessions of their own, so they outlive their killed parent; they are known by the
    environment that they inherited.
    """
    mark = f"IRONYARD_OPERATION={operation_id}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0") and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue


def sweep(worker_id: str) -> None:
    """Remove what a dead worker's runs left on this machine."""
    for left in Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}{worker_id}-*"):
        shutil.rmtree(left, ignore_errors=True)
