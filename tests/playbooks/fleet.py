"""Plays on lab hosts, run as an operator runs them.

The ledger's inventory, the callback plugin, strict host keys.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import Host, Lab
from tests.playbooks.conftest import ROOT
from tests.playbooks.ledger import TOKEN, Ledger


@dataclass(frozen=True)
class Played:
    code: int
    output: str
    report: dict[str, Any]
    stats: dict[str, int]

    def step(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(step for step in self.report["steps"] if step["name"] == name)
        return found


class Fleet:
    """Lab hosts and the ledger that knows them; what a play reports is what the next play gets."""

    def __init__(self, lab: Lab, hosts: list[Host], ledger: Ledger, home: Path) -> None:
        self.lab, self.ledger, self.home = lab, ledger, home
        self.ids = {host.name: f"id-{host.name}" for host in hosts}
        ledger.hosts = [
            {
                "id": self.ids[host.name],
                "name": host.name,
                "address": host.address,
                "port": host.port,
                "user": host.user,
                "key_reference": host.key_file,
                "host_keys": [host.host_key],
                "state": "idle",
                "cordoned": False,
                "region": host.region,
                "labels": host.labels,
                "models": [],
                "workspaces": [],
                "manifest": None,
            }
            for host in hosts
        ]

    def row(self, name: str) -> dict[str, Any]:
        return next(host for host in self.ledger.hosts if host["name"] == name)

    def start(self, playbook: str, limit: str, *extra: str, **env: str) -> subprocess.Popen[str]:
        program = str(Path(sys.executable).parent / "ansible-playbook")
        clean = {
            key: said for key, said in os.environ.items() if not key.startswith(("IRONYARD_", "ANSIBLE_"))
        }
        settings = {
            "IRONYARD_URL": self.ledger.url,
            "IRONYARD_TOKEN": TOKEN,
            "IRONYARD_CACHE": str(self.home),
            "HOME": str(self.home),
        }
        arguments = ["-i", "inventory/ironyard.yml", f"playbooks/{playbook}.yml", "--limit", limit, *extra]
        return subprocess.Popen(
            [program, *arguments],
            cwd=ROOT,
            env={**clean, **settings, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(self, playbook: str, limit: str, *extra: str, **env: str) -> dict[str, Played]:
        """Run a playbook to its end; by host what was reported (nothing in check mode)."""
        self.ledger.finished.clear()
        process = self.start(playbook, limit, *extra, **env)
        output, _ = process.communicate(timeout=900)
        played = {}
        for name, host_id in self.ids.items():
            end = self.ledger.finished.get(self.ledger.operation(host_id))
            if end:
                report = end["report"] or {}
                played[name] = Played(process.returncode, output, report, end["stats"])
                self._learn(name, report)
        if not played:
            played[limit] = Played(process.returncode, output, {}, {})
        return played

    def _learn(self, name: str, report: dict[str, Any]) -> None:
        for key in ("manifest", "host_keys"):
            if report.get(key):
                self.row(name)[key] = report[key]
        if report.get("index"):
            self.ledger.indexes[self.ids[name]] = base64.b64decode(report["index"])

    def sh(self, name: str, script: str, *, check: bool = True) -> str:
        """Run a script on the host from outside, past sshd."""
        return self.lab.exec(name, "bash", "-c", script, check=check).strip()

    def as_tenant(self, name: str, script: Path) -> None:
        """Run a script on the host over SSH, as a tenant with root does."""
        command = [*self.lab.ssh(self.row(name)["address"]), "bash -s"]
        with script.open() as source:
            subprocess.run(command, stdin=source, check=True, capture_output=True, timeout=120)
