"""`ironyard up --enroll-from`: a program names hosts, one JSON a line; they are enrolled and followed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from api.cli.client import Client
from api.cli.display import display
from api.cli.exits import Exit, Failure
from api.cli.follow import AT_REST, WELL, Hosts

PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL
MAY_ENROLL = frozenset({"new", "idle", "maintenance"})

Say = Callable[[str], None]


class Described(NamedTuple):
    """A host as the program names it. `fresh`: its machine was made anew, so what we know of it is void."""

    name: str
    address: str
    key_file: str
    port: int = 22
    user: str = "root"
    region: str = "default"
    labels: dict[str, str] = {}  # noqa: RUF012 - never written to
    fresh: bool = False
    host_key: str | None = None

    @classmethod
    def read(cls, line: str) -> Described:
        """Raises ValueError."""
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("not an object")  # noqa: TRY004 - of a value that was read
        known = {name: value for name, value in found.items() if name in cls._fields}
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def request(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "address": self.address,
            "port": self.port,
            "ssh_user": self.user,
            "key_reference": self.key_file,
            "host_keys": [self.host_key] if self.host_key else [],
            "region": self.region,
            "labels": self.labels,
        }


class Program:
    """Runs beside the start of the platform.

    Its standard error is passed on one line late: the last line of a failure says what is missing.
    """

    def __init__(self, command: str, say: Say) -> None:
        self._say = say
        self._out: list[str] = []
        self._held: str | None = None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the person's own command
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except (OSError, ValueError, IndexError) as error:
            raise Failure(f"{command!r} cannot be run: {error}") from error
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._read_hosts, self._read_progress)
        ]
        for reader in self._readers:
            reader.start()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def hosts(self) -> list[Described]:
        """What it named. Raises Failure with its last words when it did not end well."""
        self._process.wait()
        for reader in self._readers:
            reader.join(2.0)
        if self._process.returncode != 0:
            raise Failure(self._held or f"the program ended with exit code {self._process.returncode}")
        if self._held:
            self._say(self._held)
        return [self._described(line) for line in self._out if line.strip()]

    def stop(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for reader in self._readers:
            reader.join(2.0)

    def _described(self, line: str) -> Described:
        try:
            return Described.read(line)
        except ValueError as error:
            raise Failure(
                f"the program printed something that is no host ({error}): {line.strip()}"
            ) from error

    def _read_hosts(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            self._out += stream

    def _read_progress(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                if self._held is not None:
                    self._say(self._held)
                self._held = line.rstrip() or None


class Fleet:
    """Brings the ledger to what the program named, and follows each host until it is at rest."""

    def __init__(self, client: Client, say: Say, stopping: threading.Event) -> None:
        self.client = client
        self.say = say
        self.stopping = stopping
        self._renewed: dict[str, Described] = {}

    def enroll(self, described: list[Described]) -> list[Any]:
        """The hosts as they came to rest; fewer when stopped before."""
        known = {host["name"]: host for host in self.client.pages("/hosts")}
        names = {}
        for wanted in described:
            try:
                host = self._one(wanted, known.get(wanted.name))
            except Failure as failure:
                if failure.code is Exit.UNREACHABLE:
                    raise
                self.say(f"{wanted.name} is not enrolled: {failure.sentence}")
            else:
                names[host["id"]] = host["name"]
        if not names:
            return []
        with display() as shown:
            follower = Hosts(self.client, shown, names)
            found = follower.run(stopped=self.stopping.is_set, sleep=self.stopping.wait, again=self._again)
        return list(found.values())

    def _one(self, wanted: Described, host: Any) -> Any:
        if host is None:
            return self._add(wanted)
        moved = (host["address"], host["port"]) != (wanted.address, wanted.port)
        if moved and host["state"] in MAY_ENROLL:
            self.say(f"{wanted.name} moved to {wanted.address}:{wanted.port}: another machine of that name.")
            reason = {"reason": f"replaced by a machine at {wanted.address}:{wanted.port}"}
            self.client.post(f"/admin/machines/{host['id']}/retire", reason)
            return self._add(wanted)
        if moved or (wanted.fresh and host["state"] == "allocated"):
            self.say(
                f"{wanted.name} is another machine than the ledger's, which is {host['state']}; "
                "release what it holds, then start again."
            )
        elif wanted.fresh:
            self._renewed[host["id"]] = wanted
            self._again(host)
        return host

    def _add(self, wanted: Described) -> Any:
        return self.client.post("/hosts", wanted.request())["host"]

    def _again(self, host: Any) -> bool:
        """Enroll a re-created machine again as soon as its state allows; True when that has begun."""
        if host["id"] not in self._renewed or host["state"] not in MAY_ENROLL:
            return False
        del self._renewed[host["id"]]
        try:
            self.client.post(f"/admin/machines/{host['id']}/enroll", {"trust_new_host_key": True})
        except Failure as failure:
            self.say(f"{host['name']} is not enrolled again: {failure.sentence}")
            return False
        return True


def summary(hosts: list[Any]) -> str:
    well = [host for host in hosts if host["state"] in WELL]
    gpus = sum(host["gpus"] for host in well)
    text = f"{len(well)} of {len(hosts)} hosts ready, {gpus} GPUs"
    failed = [host["name"] for host in hosts if host["state"] in AT_REST - WELL]
    return text + (f"; see `ironyard host show {failed[0]}`" if failed else "")
