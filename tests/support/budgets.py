"""A platform at a fixed moment in the middle of a month, its prices and budgets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import time_machine

from api.allocations import timekeeping
from api.core.db import Database
from api.settings import Settings
from tests.conftest import Client
from tests.support import ledger
from tests.support.ledger import SYSTEM

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)
MARCH, APRIL = (datetime(2027, month, 1, tzinfo=UTC) for month in (3, 4))
CLAIMS = "/api/v1/allocations"
DEFAULT = "/api/v1/workspaces/default"
ORGANISATION = "/api/v1/organisations/default"


def settings_of(database_url: str, folder: Any, **more: Any) -> Settings:
    """Nothing expires by itself while a test moves its clock by months."""
    lasting = {"token_lifetime": 10**8, "health_max_age": 0}
    return Settings(_env_file=None, data_dir=folder, database_url=database_url, **(lasting | more))


@dataclass
class Bank:
    client: Client
    database: Database
    settings: Settings
    clock: time_machine.Traveller

    def wait(self, hours: float) -> None:
        self.clock.shift(timedelta(hours=hours))

    def work(self) -> None:
        timekeeping.keep(self.database, SYSTEM, self.settings)

    def budget(self, where: str = DEFAULT, **asked: Any) -> list[Any]:
        found: list[Any] = self.client.ok("PUT", f"{where}/budgets", json=asked)
        return found

    def committed(self, where: str = DEFAULT, kind: str = "gpu_hours") -> list[Any]:
        """Of each period from the present one on."""
        return [Decimal(period["committed"]) for period in self.periods(where, kind)]

    def periods(self, where: str = DEFAULT, kind: str = "gpu_hours") -> list[Any]:
        rows = self.client.ok("GET", f"{where}/budgets")
        (budget,) = [row for row in rows if row["resource"] == kind]
        found: list[Any] = budget["periods"]
        return found

    def claim(self, gpus: int = 1, hours: float = 1, **more: Any) -> Any:
        asked = {"gpus": gpus, "duration_seconds": round(hours * 3600)} | more
        return self.client.ok("POST", CLAIMS, 201, json=asked)

    def refused(self, code: str, gpus: int = 1, hours: float = 1, **more: Any) -> dict[str, Any]:
        asked = {"gpus": gpus, "duration_seconds": round(hours * 3600)} | more
        return self.client.problem("POST", CLAIMS, 409, code, json=asked)

    def release(self, made: Any) -> Any:
        """Its hosts are cleaned at once."""
        ended = self.client.ok("POST", f"{CLAIMS}/{made['id']}/release")
        self.clean()
        return ended

    def clean(self) -> None:
        for host in self.client.ok("GET", "/api/v1/hosts", params={"state": "reclaiming"})["items"]:
            ledger.finish(self.database, UUID(host["id"]), ledger.report("reclaim"))

    def rate(self, per_gpu_hour: str, **more: Any) -> Any:
        return self.client.ok("POST", "/api/v1/admin/rates", 201, json={"per_gpu_hour": per_gpu_hour} | more)

    def told(self, kind: str) -> list[Any]:
        found: list[Any] = self.client.ok("GET", "/api/v1/notices", params={"kind": kind})["items"]
        return found
