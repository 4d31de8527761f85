"""What a reclaim of a used host takes, what four at once take, and what the platform adds to a bare play.

Prints a table, or with `--json` one object: reclaim_s (median seconds from the request to `idle` for one lab
host that a tenant with root has used), four_hosts_s and four_hosts_ratio (four such hosts at once, and that
over reclaim_s), bare_s (the same play on such a host by `ansible-playbook` alone, no ledger and no callback),
overhead_ratio ((reclaim_s - bare_s) / bare_s), steps (median seconds of each step).
"""

from __future__ import annotations

import sys
from pathlib import Path

# for `tests`; and this folder's platform.py must not hide the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx2 as httpx

from api.core.access import Actor
from api.core.db import Database, make_engine
from api.core.operations.background import DbosDispatcher
from api.core.operations.service import QUEUE
from api.identity import service as identity
from api.migrations import upgrade
from api.settings import Settings
from tests.lab import Host, Lab, LabError
from tests.lab.fleet import load
from tests.support import ledger
from tests.support.server import ROOT, api_server, worker_process

HOSTS = 4
PACE = 0.25  # seconds between looks at the hosts
DIRTY = ROOT / "tests" / "playbooks" / "dirty.sh"


@dataclass
class Result:
    reclaim_s: float
    four_hosts_s: float
    four_hosts_ratio: float
    bare_s: float
    overhead_ratio: float
    steps: dict[str, float]


class Stage:
    """A platform with four lab hosts in it."""

    def __init__(self, lab: Lab, hosts: list[Host], url: str, key: str, directory: Path) -> None:
        self.lab, self.hosts, self.directory = lab, hosts, directory
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        self.ids: dict[str, str] = {}

    def call(self, method: str, path: str, **more: Any) -> Any:
        answer = self.client.request(method, path, **more)
        if not answer.is_success:
            sys.exit(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def enroll(self) -> None:
        for host in self.hosts:
            body = {
                "name": host.name,
                "address": host.address,
                "port": host.port,
                "ssh_user": host.user,
                "key_reference": host.key_file,
                "region": host.region,
                "labels": host.labels,
            }
            self.ids[host.name] = self.call("POST", "/api/v1/hosts", json=body)["host"]["id"]
        self.wait([host.name for host in self.hosts])

    def wait(self, names: list[str]) -> None:
        """Until the hosts are idle. A host that fails ends the benchmark."""
        ids = {self.ids[name] for name in names}
        while True:
            hosts = [host for host in self.call("GET", "/api/v1/hosts")["items"] if host["id"] in ids]
            for host in hosts:
                if host["state"] == "maintenance":
                    sys.exit(f"{host['name']}: {host['failed_step']}: {host['failed_reason']}")
            if all(host["state"] == "idle" for host in hosts):
                return
            time.sleep(PACE)

    def use(self, names: list[str]) -> None:
        """A tenant with root is on the hosts."""
        for name in names:
            address = next(host.address for host in self.hosts if host.name == name)
            with DIRTY.open() as script:
                subprocess.run(
                    [*self.lab.ssh(address), "bash -s"], stdin=script, check=True, capture_output=True
                )

    def reclaim(self, names: list[str]) -> float:
        self.use(names)
        began = time.monotonic()
        for name in names:
            self.call("POST", f"/api/v1/admin/machines/{self.ids[name]}/reclaim")
        self.wait(names)
        return time.monotonic() - began

    def steps(self, name: str) -> dict[str, float]:
        newest = self.call("GET", "/api/v1/operations", params={"subject_id": self.ids[name]})["items"][0]
        return {step["name"]: step["seconds"] for step in newest["outcome"]["report"]["steps"]}

    def bare(self, name: str) -> float:
        """The same play without the platform. The host's new keys are unknown to the ledger afterwards."""
        inventory = self.directory / "bare.json"
        inventory.write_text(json.dumps({"all": {"hosts": {name: self._variables(name)}}}))
        self.use([name])
        env = {key: said for key, said in os.environ.items() if not key.startswith("IRONYARD_")}
        env |= {"ANSIBLE_CALLBACKS_ENABLED": "minimal", "ANSIBLE_HOST_KEY_CHECKING": "False"}
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(inventory), "playbooks/reclaim.yml", "--limit", name),
        ]
        began = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"the bare play failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        return time.monotonic() - began

    def _variables(self, name: str) -> dict[str, Any]:
        host = next(host for host in self.hosts if host.name == name)
        manifest = self.call("GET", f"/api/v1/hosts/{self.ids[name]}/manifest")
        index = self.directory / "index.xz"
        index.write_bytes(self.client.get(f"/api/v1/hosts/{self.ids[name]}/manifest/index").content)
        return {
            "ansible_host": host.address,
            "ansible_user": host.user,
            "ansible_ssh_private_key_file": host.key_file,
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o StrictHostKeyChecking=no"
            " -o UserKnownHostsFile=/dev/null",
            "ironyard_host_name": name,
            "ironyard_manifest": manifest["manifest"],
            "ironyard_index_file": str(index),
        }


@contextmanager
def stage() -> Iterator[Stage]:
    lab = Lab(ROOT / ".ironyard" / "bench", prefix="bench")
    with tempfile.TemporaryDirectory(prefix="ironyard-bench-", ignore_cleanup_errors=True) as place:
        directory = Path(place)
        url = f"sqlite:///{directory / 'ironyard.db'}"
        settings = Settings(_env_file=None, data_dir=directory, database_url=url)
        upgrade(settings)
        key = _key(settings)
        with ExitStack() as stack:
            stack.callback(lab.down)
            lab.ensure_engine()
            lab.down()
            hosts = lab.up([load()[-1]] * HOSTS)
            address = stack.enter_context(api_server(directory, url))
            stack.enter_context(worker_process(directory, url))
            made = Stage(lab, hosts, address, key, directory)
            began = time.monotonic()
            made.enroll()
            told(f"{HOSTS} hosts enrolled and clean", time.monotonic() - began)
            yield made


def _key(settings: Settings) -> str:
    engine = make_engine(settings)
    database = Database(engine, **{QUEUE: DbosDispatcher(engine)})
    user, _ = ledger.first_administrator(database, quota=100)
    with database.transaction() as tx:
        _, key = identity.create_key(tx, Actor(user.email, user.role, user.id), "bench")
    engine.dispose()
    return key


def told(what: str, seconds: float) -> float:
    print(f"{what}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def measure(made: Stage, rounds: int) -> Result:
    names = [host.name for host in made.hosts]
    single, steps = [], []
    for number in range(rounds):
        single.append(told("one host", made.reclaim([names[number % 2]])))
        steps.append(made.steps(names[number % 2]))
    together = told(f"{HOSTS} hosts at once", made.reclaim(names))
    bare = statistics.median(told("the bare play", made.bare(names[-1])) for _ in range(rounds))
    one = statistics.median(single)
    return Result(
        reclaim_s=round(one, 2),
        four_hosts_s=round(together, 2),
        four_hosts_ratio=round(together / one, 2),
        bare_s=round(bare, 2),
        overhead_ratio=round((one - bare) / bare, 3),
        steps={name: statistics.median(found[name] for found in steps) for name in steps[0]},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        with stage() as made:
            result = measure(made, chosen.rounds)
    except LabError as error:
        sys.exit(str(error))
    if chosen.json:
        print(json.dumps(asdict(result)))
        return
    for name, said in asdict(result).items():
        print(f"{name:18} {said}")


if __name__ == "__main__":
    main()
