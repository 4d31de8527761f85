"""A real worker looks for leaks by itself, and so does one that takes over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from api.core.db import Database
from api.fleet.lifecycle import State
from api.fleet.models import Host
from tests.conftest import Client
from tests.support.leaks import LEAKS
from tests.support.server import worker_process

pytestmark = pytest.mark.timeout(120)
PACE = {"leak_interval": "0.3", "worker_heartbeat": "0.3", "worker_timeout": "1.5", "health_interval": "0"}


def unresolved(client: Client) -> list[Any]:
    found: list[Any] = client.ok("GET", LEAKS, params={"unresolved": True})["items"]
    return found


def wait_for(client: Client, number: int) -> None:
    deadline = time.monotonic() + 30
    while len(unresolved(client)) != number:
        assert time.monotonic() < deadline, unresolved(client)
        time.sleep(0.1)


def put(database: Database, host: UUID, state: State) -> None:
    with database.transaction() as tx:
        tx.execute(sa.update(Host).where(Host.id == host).values(state=state))


def test_a_worker_finds_and_resolves_and_another_goes_on(
    client: Client, fleet: Any, database: Database, database_url: str, tmp_path: Path
) -> None:
    host = fleet("gpu-01", gpus=1)
    put(database, host, State.ALLOCATED)
    with worker_process(tmp_path, database_url, **PACE) as first:
        wait_for(client, 1)
        with worker_process(tmp_path, database_url, **PACE):
            first.kill()
            first.wait()
            put(database, host, State.IDLE)
            wait_for(client, 0)


def test_without_an_interval_leaks_are_looked_for_only_when_asked(
    client: Client, fleet: Any, database: Database, database_url: str, tmp_path: Path
) -> None:
    put(database, fleet("gpu-01", gpus=1), State.ALLOCATED)
    with worker_process(tmp_path, database_url, **PACE | {"leak_interval": "0"}):
        time.sleep(1.5)
        assert unresolved(client) == []
        assert client.ok("POST", "/api/v1/admin/leaks/scan")["opened"] == 1
