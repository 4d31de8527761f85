"""Idle allocations, measured by a real Prometheus that scrapes what dcgm-exporter would say."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.settings import Settings
from tests.conftest import Client
from tests.support.prometheus import (
    ENCODER,
    ENGINE,
    MEMORY,
    UTIL,
    Exporter,
    exporting,
    prometheus,
    until_scraped,
)

pytestmark = pytest.mark.timeout(120)
LEAKS, ADMIN, CLAIMS = "/api/v1/leaks", "/api/v1/admin/leaks", "/api/v1/allocations"
WINDOW, WARNING = 5, 2  # seconds


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture
def prometheus_url(exporter: Exporter, tmp_path: Path) -> Iterator[str]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed (`make setup` as root installs it)")
    with exporting(exporter) as target, prometheus(program, tmp_path / "prometheus", [target]) as url:
        yield url


@pytest.fixture
def database_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    """One engine: what differs between engines is tested without waiting for windows to pass."""
    copy = tmp_path / "ironyard.db"
    shutil.copy(migrated_sqlite, copy)
    return f"sqlite:///{copy}"


@pytest.fixture
def settings(database_url: str, tmp_path: Path, prometheus_url: str) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=tmp_path,
        database_url=database_url,
        prometheus_url=prometheus_url,
        leak_window=WINDOW,
        leak_warning=WARNING,
        leak_policy_idle="reclaim-after-warning",
    )


def claim(client: Client, gpus: int = 1) -> Any:
    return client.ok("POST", CLAIMS, 201, json={"gpus": gpus})


def uuids(allocation: Any) -> list[str]:
    return [gpu["uuid"] for gpu in allocation["gpus"]]


def test_an_idle_allocation_is_warned_and_released_and_no_other(
    client: Client, fleet: Any, exporter: Exporter, prometheus_url: str
) -> None:
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 16})
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        fleet(name, gpus=1)
    fleet("two", gpus=2)
    idle, busy, unseen, gap, sliced, video, spare = (claim(client) for _ in range(7))
    mixed = client.ok("POST", CLAIMS, 201, json={"gpus": 2, "same_host": True})
    stranger = next(gpu for gpu in client.ok("GET", "/api/v1/gpus?held=false")["items"])
    quiet = {UTIL: 0.0, ENCODER: 0.0, MEMORY: 74166.0}
    gone, late = uuids(gap)[0], uuids(spare)[0]
    exporter.shows = {
        uuids(idle)[0]: quiet,
        uuids(busy)[0]: quiet | {UTIL: 83.0},
        gone: quiet,
        uuids(sliced)[0]: {ENGINE: 0.7, MEMORY: 10.0},
        uuids(video)[0]: quiet | {ENCODER: 40.0},
        uuids(mixed)[0]: quiet,
        uuids(mixed)[1]: quiet | {UTIL: 99.0},
        stranger["uuid"]: {UTIL: 55.0, MEMORY: 4000.0},
    }
    exporter.instances = {uuids(sliced)[0]}
    until_scraped(prometheus_url, UTIL)
    assert client.ok("POST", f"{ADMIN}/scan")["opened"] == 0, "nothing is idle before the window is over"
    time.sleep(WINDOW / 2)
    shown = exporter.shows.pop(gone)
    exporter.shows[late] = quiet
    time.sleep(1)
    exporter.shows[gone] = shown
    time.sleep(WINDOW / 2 + 0.5)

    found = client.ok("POST", f"{ADMIN}/scan")
    assert (found["warned"], found["acted"]) == (1, 0)
    by_subject = {row["subject_id"]: row for row in client.ok("GET", LEAKS)["items"]}
    assert by_subject.keys() == {idle["id"], mixed["id"], stranger["id"]}
    warned = by_subject[idle["id"]]
    assert (warned["kind"], warned["state"], warned["action"]) == ("idle-gpu", "warned", "release-allocation")
    assert warned["owner"] == "admin@ironyard.local"
    (reading,) = warned["evidence"]["readings"]
    assert (reading["most_percent"], reading["memory_most_mib"]) == (0, 74166)
    assert reading["samples"] >= 5
    part = by_subject[mixed["id"]]
    assert (part["state"], part["action"], part["policy"]) == ("open", "look", "notify")
    assert part["evidence"]["gpus"] == {"idle": 1, "busy": 1, "unknown": 0}
    assert by_subject[stranger["id"]]["kind"] == "unexplained"
    unknown = {(row["kind"], row["reason"]): row["subjects"] for row in found["unknown"]}
    assert unknown["idle-gpu", "Prometheus has no utilisation of it in the whole window."] == 1
    assert sum(number for (kind, _), number in unknown.items() if kind == "idle-gpu") == 3, unknown

    time.sleep(WARNING + 0.2)
    exporter.shows[uuids(mixed)[1]] = quiet
    found = client.ok("POST", f"{ADMIN}/scan")
    assert found["acted"] == 1
    ended = client.ok("GET", f"{CLAIMS}/{idle['id']}")
    assert ended["state"] == "released"
    host = client.ok("GET", f"/api/v1/hosts/{idle['gpus'][0]['host_id']}")
    assert host["state"] == "reclaiming"
    for other in (busy, unseen, gap, sliced, video, spare, mixed):
        assert client.ok("GET", f"{CLAIMS}/{other['id']}")["state"] == "active"
    acted = client.ok("GET", f"{LEAKS}/{warned['id']}")
    assert (acted["state"], acted["resolved_by"]) == ("acted", "ironyard")
