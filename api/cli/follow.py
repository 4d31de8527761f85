"""Following operations, and hosts through the operations that move them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from api.cli.client import Client
from api.cli.display import Display
from api.cli.exits import Exit, Failure
from api.cli.output import one_line

INTERVAL, WIDE_INTERVAL, WIDE = 0.5, 2.0, 50  # seconds; the wider one from that many hosts on
ENDED = frozenset({"succeeded", "failed", "cancelled"})
AT_REST = frozenset({"new", "idle", "allocated", "maintenance", "retired"})
WELL = frozenset({"idle", "allocated"})
HALF = 50
MINUTES_FROM = 100  # seconds

Sleep = Callable[[float], object]


def operation(client: Client, operation_id: str, display: Display, *, log: bool) -> tuple[Any, list[Any]]:
    """Wait for its end. Returns the operation and its log."""
    lines: list[Any] = []
    for event, told in client.events(f"/operations/{operation_id}/events"):
        if event == "line":
            lines.append(told)
            if log:
                display.line(log_line(told))
            continue
        ended = event == "end"
        display.show(
            f"{told['kind']} {told['subject']}",
            told["progress"],
            _standing(told),
            well=told["state"] == "succeeded" if ended else None,
        )
        if ended:
            break
    return client.get(f"/operations/{operation_id}"), lines


def interruptible(follow: Callable[[], Any], cancel: Callable[[], Any]) -> Any:
    """What `follow` returns. Ctrl-C asks whether to cancel what is followed, or only to look away."""
    while True:
        try:
            return follow()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            typed = input("\nIt goes on. Type cancel to stop it, Enter to stop watching: ")  # Ctrl-C ends it
            if typed.strip() != "cancel":
                raise Failure("It goes on without being watched.", Exit.OK) from None
            cancel()


def log_line(line: Any) -> str:
    where = (line["status"].ljust(9), (line["step"] or "").ljust(9), line["task"] or "")
    parts = [line["at"][11:19], line["host"], *where]
    if line["message"]:
        parts.append(line["message"])
    return "  ".join(parts).rstrip()


def _standing(found: Any) -> str:
    if found["state"] in ENDED:
        return str(found["state"]) + (f": {one_line(found['reason'])}" if found["reason"] else "")
    parts = [found["state"], found["step"], left(found.get("eta_seconds"))]
    return ", ".join(str(part) for part in parts if part)


def left(seconds: float | None) -> str:
    """`about 40 s left`; nothing where nobody knows"""
    if not seconds:
        return ""
    return f"about {seconds:.0f} s left" if seconds < MINUTES_FROM else f"about {seconds / 60:.0f} min left"


class Hosts:
    """Follows hosts until each is at rest. An enrollment is half of the way; the first clean the other."""

    def __init__(self, client: Client, display: Display, names: Mapping[str, str]) -> None:
        self.client = client
        self.display = display
        self.names = dict(names)
        self.found: dict[str, Any] = {}
        self._enrolled: set[str] = set()

    def run(
        self,
        *,
        stopped: Callable[[], bool] = lambda: False,
        sleep: Sleep = time.sleep,
        again: Callable[[Any], bool] = lambda _host: False,
    ) -> dict[str, Any]:
        """The hosts by id. `again` may start something on a host at rest, and then says True."""
        open_ids = set(self.names)
        while open_ids and not stopped():
            self._look(open_ids)
            open_ids -= {host_id for host_id in self._in_order(open_ids) if self._settled(host_id, again)}
            if open_ids:
                sleep(WIDE_INTERVAL if len(self.names) > WIDE else INTERVAL)
        return self.found

    def _look(self, ids: set[str]) -> None:
        try:
            if len(ids) < WIDE:
                hosts = [self.client.get(f"/hosts/{host_id}") for host_id in self._in_order(ids)]
            else:
                hosts = self.client.pages("/hosts")
            running = {row["subject_id"]: row for row in self.client.pages("/operations", state="running")}
        except Failure as failure:
            if failure.code is not Exit.UNREACHABLE:
                raise
            return  # the server restarts; the operations go on
        for host in hosts:
            if host["id"] in ids:
                self.found[host["id"]] = host
                self._show(host, running.get(host["id"]))

    def _in_order(self, ids: set[str]) -> list[str]:
        return [host_id for host_id in self.names if host_id in ids]

    def _settled(self, host_id: str, again: Callable[[Any], bool]) -> bool:
        host = self.found.get(host_id)
        if host is None or host["state"] not in AT_REST or again(host):
            return False
        self.display.show(host["name"], 100, standing(host), well=host["state"] in WELL)
        return True

    def _show(self, host: Any, running: Any) -> None:
        state = host["state"]
        if state in AT_REST:
            return
        step, progress = (running["step"], running["progress"]) if running else (None, 0)
        if state == "enrolling":
            self._enrolled.add(host["id"])
        if host["id"] in self._enrolled:
            progress = progress / 2 + (0 if state == "enrolling" else HALF)
        self.display.show(host["name"], progress, f"{state}, {step or 'queued'}")


def standing(host: Any) -> str:
    """A host at rest, in a phrase."""
    if host["state"] == "maintenance":
        where = f" at {host['failed_step']}" if host["failed_step"] else ""
        return f"maintenance, failed{where}: {one_line(host['failed_reason'])}"
    gpus = f"{host['gpus']} GPUs ({', '.join(host['gpu_models'])})" if host["gpus"] else "no GPUs"
    return f"{host['state']}, {gpus}"
