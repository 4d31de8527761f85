"""Moments of a test, and what workers do at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine

from api.allocations import timekeeping
from api.core.db import Database
from api.settings import Settings
from tests.conftest import Client
from tests.support.ledger import SYSTEM

CLAIMS, BOOKINGS, NOTICES = "/api/v1/allocations", "/api/v1/reservations", "/api/v1/notices"
GAP = timedelta(seconds=900)


@dataclass
class Times:
    """Hours are counted from the begin of the test."""

    client: Client
    database: Database
    settings: Settings
    zero: datetime

    def at(self, hours: float) -> datetime:
        return self.zero + timedelta(hours=hours)

    def window(self, begin: float, end: float, **more: Any) -> dict[str, Any]:
        return {
            "gpus": 1,
            "not_before": self.at(begin).isoformat(),
            "expires_at": self.at(end).isoformat(),
        } | more

    def until(self, end: float, **more: Any) -> dict[str, Any]:
        return {"gpus": 1, "expires_at": self.at(end).isoformat()} | more

    def claim(self, asked: dict[str, Any]) -> Any:
        return self.client.ok("POST", CLAIMS, 201, json=asked)

    def refused(self, code: str, asked: dict[str, Any]) -> dict[str, Any]:
        return self.client.problem("POST", CLAIMS, 409, code, json=asked)

    def look(self, made: Any) -> Any:
        return self.client.ok("GET", f"{CLAIMS}/{made['id']}")

    def reserved(self, **params: Any) -> list[Any]:
        found: list[Any] = self.client.ok("GET", BOOKINGS, params=params)["items"]
        return found

    def told(self, kind: str, **params: Any) -> list[Any]:
        found: list[Any] = self.client.ok("GET", NOTICES, params={"kind": kind} | params)["items"]
        return found

    @contextmanager
    def when(self, hours: float, *, worker: bool = True) -> Iterator[None]:
        """It is then, and a worker has looked at the clock."""
        with time_machine.travel(self.at(hours), tick=False):
            if worker:
                self.work()
            yield

    def work(self) -> None:
        timekeeping.keep(self.database, SYSTEM, self.settings)


def begin(client: Client, database: Database, settings: Settings) -> Times:
    now = datetime.now(UTC)
    return Times(client, database, settings, now)
