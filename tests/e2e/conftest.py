"""A whole platform: API and worker processes on either database, and lab hosts over SSH."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

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
from tests.support.postgres import PostgresServer
from tests.support.server import ROOT, api_server, worker_process

PREFIX = f"e2e{os.environ.get('PYTEST_XDIST_WORKER', '')}"  # each test process has hosts of its own
QUICK = {"worker_timeout": "6", "worker_heartbeat": "1"}


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    made = Lab(ROOT / ".ironyard" / PREFIX, prefix=PREFIX)
    try:
        made.ensure_engine()
        made.down()
    except LabError as error:
        pytest.skip(str(error))
    yield made
    made.down()


@pytest.fixture(scope="session")
def hosts(lab: Lab) -> list[Host]:
    """A big host (8 H100) and a small one (2 L40S)."""
    big, _, small = load()
    return lab.up([big, small])


@dataclass
class Platform:
    """What a user reaches: the URL and a key. And what an operator can do to the processes."""

    url: str
    token: str
    data_dir: Path
    database_url: str
    lab: Lab
    hosts: dict[str, Host]
    stack: ExitStack = field(default_factory=ExitStack)
    worker_settings: dict[str, str] = field(default_factory=dict)
    worker: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    def ok(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        response = self.client.request(method, path, **more)
        assert response.status_code == status, response.text
        return response.json()

    def start_worker(self) -> None:
        settings = QUICK | self.worker_settings
        self.worker = self.stack.enter_context(worker_process(self.data_dir, self.database_url, **settings))

    def kill_worker(self) -> None:
        assert self.worker
        os.kill(self.worker.pid, signal.SIGKILL)
        self.worker.wait()

    def enroll(self, name: str, *, at: str | None = None, **change: Any) -> Any:
        """Register a lab host under `name` and start its enrollment."""
        host = self.hosts[at or name]
        body = {
            "name": name,
            "address": host.address,
            "port": host.port,
            "ssh_user": host.user,
            "key_reference": host.key_file,
            "region": host.region,
            "labels": host.labels,
        }
        return self.ok("POST", "/api/v1/hosts", 202, json=body | change)

    def host(self, host_id: str) -> Any:
        return self.ok("GET", f"/api/v1/hosts/{host_id}")

    def operations(self, host_id: str) -> list[Any]:
        found: list[Any] = self.ok("GET", "/api/v1/operations", params={"subject_id": host_id})["items"]
        return found

    def settled(self, host_id: str, *, seconds: float = 420) -> Any:
        """The host once nothing works on it any more."""
        self.until(
            lambda: (
                all(row["ended_at"] for row in self.operations(host_id))
                and self.host(host_id)["state"] not in ("enrolling", "cleaning", "reclaiming")
            ),
            seconds=seconds,
            what=lambda: [(row["kind"], row["state"], row["step"]) for row in self.operations(host_id)],
        )
        return self.host(host_id)

    def until(self, true: Callable[[], bool], *, seconds: float, what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"after {seconds} s: {what()}"
            time.sleep(0.2)

    def at_step(self, host_id: str, kind: str, steps: tuple[str, ...]) -> None:
        """Wait until the newest operation of `kind` is at one of `steps`."""

        def there() -> bool:
            newest = self.operations(host_id)[0]
            return newest["kind"] == kind and newest["step"] in steps

        self.until(there, seconds=120, what=lambda: self.operations(host_id)[0])

    def retire(self, host_id: str) -> None:
        if self.host(host_id)["state"] != "retired":
            self.settled(host_id)
            self.ok("POST", f"/api/v1/admin/machines/{host_id}/retire", 202)
            self.until(
                lambda: all(row["ended_at"] for row in self.operations(host_id)),
                seconds=60,
                what=lambda: self.operations(host_id)[0],
            )


@pytest.fixture(scope="module")
def platform(
    request: pytest.FixtureRequest, lab: Lab, hosts: list[Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A platform on the database that the test module names as its ENGINE, with its SETTINGS and WORKER."""
    data_dir = tmp_path_factory.mktemp("platform")
    database_url = f"sqlite:///{data_dir / 'ironyard.db'}"
    if request.module.ENGINE == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        database_url = server.create(f"e2e_{os.getpid()}_{time.monotonic_ns()}")
    settings = Settings(_env_file=None, data_dir=data_dir, database_url=database_url)
    upgrade(settings)
    engine = make_engine(settings)
    database = Database(engine, **{QUEUE: DbosDispatcher(engine)})
    user, _ = ledger.first_administrator(database, quota=100)
    with database.transaction() as tx:
        _, key = identity.create_key(tx, Actor(user.email, user.role, user.id), "e2e")
    engine.dispose()
    with ExitStack() as stack:
        url = stack.enter_context(
            api_server(data_dir, database_url, **getattr(request.module, "SETTINGS", {}))
        )
        known = {host.name: host for host in hosts}
        of_worker = getattr(request.module, "WORKER", {})
        made = Platform(url, key, data_dir, database_url, lab, known, stack, of_worker)
        made.start_worker()
        yield made
        made.client.close()
