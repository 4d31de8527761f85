"""Callback plugin: tells the ledger about plays that are run by hand."""

from __future__ import annotations

import atexit
import getpass
import json
import os
import socket
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

sys.path.insert(0, str(Path(__file__).parent.parent / "callback_support"))
from ironyard_client import Client, Refused, Sender, configured

DOCUMENTATION = r"""
name: ironyard
type: notification
short_description: Report plays to Ironyard
description:
  - Begins a run for all hosts of the play before its first task, sends events while it goes on, and
    finishes each host's operation.
  - When the ledger refuses the run, no task starts. When it cannot be reached later, the play goes
    on and events are kept.
  - Does nothing in check mode, without credentials, for hosts that are not the ledger's, and under
    Ironyard's own worker.
author: Ironyard
options: {}
"""
PLAYBOOKS = ("enroll", "verify", "reclaim", "health", "retire")
EXIT_REFUSED = 5


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "ironyard"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.playbook: str | None = None
        self.operations: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.sender: Sender | None = None
        self.client: Client | None = None
        self.considered = False
        self.started: dict[tuple[str, str], float] = {}
        self.pid = os.getpid()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        name = Path(playbook._file_name).stem  # noqa: SLF001 - Ansible has no public name for it
        self.playbook = name if name in PLAYBOOKS else None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self.considered or not self.playbook or os.environ.get("IRONYARD_OPERATION"):
            return
        self.considered = True
        if context.CLIARGS.get("check"):
            self._say("check mode: nothing is reported")
            return
        manager = play.get_variable_manager()
        hosts = manager._inventory.get_hosts(play.hosts, ignore_restrictions=True)  # noqa: SLF001 - all batches at once
        ids = {
            host.name: str(host.vars["ironyard_host_id"])
            for host in hosts
            if host.vars.get("ironyard_host_id")
        }
        settings = configured()
        if not settings or not ids or len(ids) != len(hosts):
            self._say(self._why_silent(bool(settings), len(ids), len(hosts)))
            return
        self._begin(Client(*settings), ids)

    @staticmethod
    def _why_silent(has_settings: bool, known: int, total: int) -> str:
        if not has_settings:
            return "no address or token is set, so this run is not reported"
        return f"{total - known} of {total} hosts have no ironyard_host_id, so this run is not reported"

    def _begin(self, client: Client, ids: dict[str, str]) -> None:
        body = {
            "playbook": self.playbook,
            "hosts": sorted(ids.values()),
            "controller": f"{getpass.getuser()}@{socket.gethostname()}",
        }
        try:
            answer = client.post("/api/v1/runs", body)
        except (Refused, OSError, ValueError) as error:
            self._display.error(
                f"Ironyard did not begin this run, so nothing was started: {error}", wrap_text=False
            )
            # an Exception would be logged by the task queue manager and the play would go on
            raise SystemExit(EXIT_REFUSED) from error
        operations = {row["host_id"]: str(row["operation_id"]) for row in answer["operations"]}
        self.aliases = ids
        self.operations = {
            name: operations[host_id] for name, host_id in ids.items() if host_id in operations
        }
        self.client = client
        self.sender = Sender(client, list(self.operations.values()))
        self.sender.start()
        atexit.register(self._abandon)
        self._say(f"reporting {self.playbook} of {len(self.operations)} hosts")

    def _say(self, text: str) -> None:
        self._display.display(f"Ironyard: {text}")

    # events

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.started[(host.name, task._uuid)] = time.monotonic()  # noqa: SLF001

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task.action.endswith("validate_argument_spec"):
            return  # every role begins with one; only a failing one is worth a line
        self._event(result, "changed" if result.result.get("changed") else "ok")
        self._announce(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002
        self._event(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._event(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._event(result, "skipped")

    def _event(self, result: Any, status: str) -> None:
        operation = self.operations.get(result.host.name)
        if not operation or not self.sender:
            return
        task, said = result.task, result.result
        began = self.started.pop((result.host.name, task._uuid), None)  # noqa: SLF001
        role = task._role.get_name() if task._role else ""  # noqa: SLF001
        # private results say only that something happened
        hidden = bool(said.get("_ansible_no_log"))
        message = "" if hidden else str(said.get("msg") or "; ".join(said.get("evidence") or []))
        self.sender.put(
            operation,
            {
                "at": datetime.now(timezone.utc).isoformat(),
                "step": role,
                "task": task.get_name().split(" : ", 1)[-1],
                "status": status,
                "message": message[:4000],
                "seconds": None if began is None else round(time.monotonic() - began, 3),
            },
        )

    def _announce(self, result: Any) -> None:
        """Keep new host keys before they are in force: an interrupted run must still be able to come back."""
        keys, alias = result.result.get("announced_host_keys"), self.aliases.get(result.host.name)
        if not keys or not alias:
            return
        folder = Path(os.environ.get("IRONYARD_CACHE", "~/.cache/ironyard")).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = "".join(f"{alias} {key}\n" for key in keys)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(os.open(folder / "known_hosts.announced", flags, 0o600), "a") as target:
            target.write(lines)

    # the end

    def v2_playbook_on_stats(self, stats: Any) -> None:
        custom = getattr(stats, "custom", {})
        for name, operation in self.operations.items():
            counts = stats.summarize(name)
            report = (custom.get(name) or {}).get("ironyard_report")
            seen = any(counts.values())
            good = (
                seen
                and bool(report and report["ok"])
                and not counts["failures"]
                and not counts["unreachable"]
            )
            self._finish(
                operation, "succeeded" if good else "failed", counts, report, self._reason(counts, report)
            )
        self._close()

    @staticmethod
    def _reason(counts: dict[str, int], report: dict[str, Any] | None) -> str | None:
        if report and not report["ok"]:
            return f"{report['failed_step']}: {report['failed_reason']}"
        if counts["unreachable"]:
            return "the host is unreachable"
        if report is None:
            return "the play ended without a report"
        return None if not counts["failures"] else "a task failed"

    def _finish(
        self,
        operation: str,
        status: str,
        counts: dict[str, int],
        report: dict[str, Any] | None,
        reason: str | None,
    ) -> None:
        stats = {key: counts.get(key, 0) for key in ("ok", "changed", "failures", "unreachable", "skipped")}
        # plain JSON: Ansible's own types carry tags
        body = json.loads(
            json.dumps({"status": status, "stats": stats, "report": report, "reason": reason}, default=str)
        )
        if self.sender:
            self.sender.finish(operation, body)

    def _close(self) -> None:
        if self.sender:
            problems = self.sender.close()
            self.sender = None
            for problem in problems:
                self._display.warning(f"Ironyard: {problem}")
        self.operations = {}

    def _abandon(self) -> None:
        """The play was interrupted: say so instead of leaving the operations to time out."""
        if os.getpid() != self.pid or not self.sender:
            return
        for operation in self.operations.values():
            self._finish(operation, "cancelled", {}, None, "ansible-playbook was interrupted")
        self._close()
