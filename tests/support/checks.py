"""Health checks over HTTP, as tests ask for them and end them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from api.core.db import Database
from tests.conftest import Client
from tests.support import ledger

HOSTS, CLAIMS = "/api/v1/hosts", "/api/v1/allocations"
Fleet = Callable[..., UUID]


def detail(client: Client, host: UUID) -> Any:
    return client.ok("GET", f"{HOSTS}/{host}")


def ask(client: Client, host: UUID, level: int = 1) -> Any:
    return client.ok("POST", f"{HOSTS}/{host}/health-checks", 202, json={"level": level})


def checked(
    database: Database, client: Client, host: UUID, *faults: dict[str, Any], level: int = 1, **run: Any
) -> Any:
    """A check of its own that said this; the host afterwards."""
    ask(client, host, level)
    made = None if run else ledger.report("health", health=ledger.verdicts(*faults, level=level))
    ledger.finish(database, host, made, **run)
    return detail(client, host)


def uuids(client: Client, host: UUID) -> list[str]:
    return [gpu["uuid"] for gpu in detail(client, host)["gpu_list"]]


def by_hand(client: Client, host: UUID, playbook: str = "reclaim") -> str:
    body = {"playbook": playbook, "hosts": [str(host)], "controller": "ada@bastion"}
    return str(client.ok("POST", "/api/v1/runs", 201, json=body)["operations"][0]["operation_id"])
