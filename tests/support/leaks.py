"""Looking for leaks with a Prometheus that says what a test wants, at moments that it chooses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import time_machine

from api.core.db import Database
from api.monitoring import runner
from api.monitoring.prometheus import Unanswered
from api.settings import Settings
from tests.conftest import Client

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LEAKS, ADMIN, CLAIMS, HOSTS = "/api/v1/leaks", "/api/v1/admin/leaks", "/api/v1/allocations", "/api/v1/hosts"
ASKED = re.compile(r'(max|avg|min|count)_over_time\((\w+)\{UUID=~"([^"]*)"\}\[(\d+)s\]\)')
COVERAGE = re.compile(r'count_over_time\(\(.*UUID=~"([^"]*)".*\)\[(\d+)s:(\d+)s\]\)')
RECLAIM = {"leak_policy_idle": "reclaim-after-warning"}


class Fake:
    """`shows`: UUID → (percent, MiB), always the same over a window; `covers`: share of the window."""

    def __init__(self) -> None:
        self.shows: dict[str, tuple[float, float]] = {}
        self.covers: dict[str, float] = {}
        self.down = False
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, url: str) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, query: str, label: str) -> dict[str, float]:
        self.meanwhile()
        if self.down:
            raise Unanswered("Prometheus cannot be reached (ConnectError).")
        if found := ASKED.search(query):
            function, metric, uuids, window = found.groups()
            return {
                uuid: int(window) / 30 if function == "count" else self._value(uuid, metric)
                for uuid in uuids.split("|")
                if uuid in self.shows and metric in ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED")
            }
        covered = COVERAGE.search(query)
        assert covered, query
        uuids, window, step = covered.groups()
        moments = int(window) / int(step)
        return {uuid: moments * self.covers.get(uuid, 1) for uuid in uuids.split("|") if uuid in self.shows}

    def _value(self, uuid: str, metric: str) -> float:
        return self.shows[uuid][metric == "DCGM_FI_DEV_FB_USED"]


class Watch:
    """The platform's own look at leaks, at `NOON` and so many seconds."""

    def __init__(self, client: Client, database: Database, settings: Settings, fake: Fake) -> None:
        self.client, self.database, self.settings, self.fake = client, database, settings, fake

    @contextmanager
    def at(self, seconds: float) -> Iterator[None]:
        with time_machine.travel(NOON + timedelta(seconds=seconds), tick=False):
            yield

    def scan(self, seconds: float, **settings: Any) -> runner.ScanRead:
        given = {"prometheus_url": "http://prometheus"} | settings
        with self.at(seconds):
            return runner.scan(self.database, self.settings.model_copy(update=given))

    def claim(self, gpus: int = 1, seconds: float = 0, **asked: Any) -> Any:
        body = {"gpus": gpus, "duration_seconds": 30 * 86400} | asked
        with self.at(seconds):
            return self.client.ok("POST", CLAIMS, 201, json=body)

    def show(self, allocation: Any, percent: float, memory: float = 0) -> None:
        self.fake.shows |= {gpu["uuid"]: (percent, memory) for gpu in allocation["gpus"]}

    def findings(self, **query: Any) -> list[Any]:
        found: list[Any] = self.client.ok("GET", LEAKS, params=query)["items"]
        return found

    def one(self, **query: Any) -> Any:
        (found,) = self.findings(**query)
        return found
