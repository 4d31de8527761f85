"""Windows over HTTP with a worker process: they begin by themselves and end by themselves."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from api.core.access import Actor
from api.core.db import Database
from api.identity import service as identity
from api.identity.models import User
from api.settings import Settings
from tests.conftest import Client
from tests.support.server import api_server, worker_process

pytestmark = pytest.mark.timeout(120)
QUICK = {"expiry_interval": "0.2", "cleaning_gap": "1", "expiry_warnings": "[2]", "allocation_grace": "1"}
IDLE = {"queue_polling": "600"}  # the clean that follows is not what this is about
SECONDS = 60


def test_a_window_begins_and_ends_by_itself(
    client: Client, fleet: Any, database: Database, settings: Settings, tmp_path: Path
) -> None:
    host = fleet("a", gpus=2)
    with database.transaction() as tx:
        user = tx.execute(sa.select(User)).scalar_one()
        _, key = identity.create_key(tx, Actor(user.email, user.role, user.id), "test")
    with (
        api_server(tmp_path, settings.database_url, **QUICK) as url,
        worker_process(tmp_path, settings.database_url, **QUICK, **IDLE),
        httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {key}"}) as over_http,
    ):

        def get(path: str, **params: Any) -> Any:
            answer = over_http.get(path, params=params)
            assert answer.status_code == 200, answer.text
            return answer.json()

        begin = datetime.now(UTC) + timedelta(seconds=3)
        end = begin + timedelta(seconds=4)
        asked = {"gpus": 2, "not_before": begin.isoformat(), "expires_at": end.isoformat()}
        made = over_http.post("/allocations", json=asked)
        assert made.status_code == 201, made.text
        path, states = f"/allocations/{made.json()['id']}", []
        booked = {row["gpu_id"] for row in get("/reservations")["items"]}
        deadline = time.monotonic() + SECONDS
        while states[-1:] != ["expired"]:
            found = get(path)
            if found["state"] not in states:
                states.append(found["state"])
            if found["state"] == "active":
                assert {gpu["gpu_id"] for gpu in found["gpus"]} == booked
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        assert states == ["reserved", "active", "expired"]
        assert begin <= datetime.fromisoformat(found["started_at"]) < begin + timedelta(seconds=3)
        assert end + timedelta(seconds=1) <= datetime.fromisoformat(found["ended_at"])
        told = [row["kind"] for row in get("/notices", subject_id=found["id"])["items"]]
        assert told == ["allocation.grace_begun", "allocation.expiring"]
        assert get(f"/hosts/{host}")["state"] == "reclaiming"
        assert get("/reservations")["items"] == []
