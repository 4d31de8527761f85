"""Prometheus's HTTP service discovery: which hosts it lists, how they are labelled, and who may ask."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import SecretStr

from api.allocations.discovery import socket_address
from api.core.db import Database
from api.core.operations.lifecycle import Event as OperationEvent
from api.fleet import service as fleet_service
from api.fleet.lifecycle import Event
from tests.conftest import Client
from tests.support import ledger

PATH = "/api/v1/discovery/prometheus"
TOKEN = "a-discovery-token-of-forty-characters-xx"


def listed(client: Client, exporter: str = "node") -> dict[str, Any]:
    return {
        entry["labels"]["__meta_ironyard_host"]: entry for entry in client.ok("GET", f"{PATH}/{exporter}")
    }


def test_a_host_is_a_target_with_its_labels(client: Client, fleet: Any) -> None:
    host_id = fleet("gpu-01", labels={"rack": "b12", "example.org/row-2": "c"})
    response = client.get(f"{PATH}/node")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == [
        {
            "targets": ["198.51.100.1:9100"],
            "labels": {
                "__meta_ironyard_host": "gpu-01",
                "__meta_ironyard_host_id": str(host_id),
                "__meta_ironyard_state": "idle",
                "__meta_ironyard_region": "test",
                "__meta_ironyard_models": "NVIDIA H100 80GB HBM3",
                "__meta_ironyard_gpus": "8",
                "__meta_ironyard_workspaces": "",
                "__meta_ironyard_label_rack": "b12",
                "__meta_ironyard_label_example_org_row_2": "c",
            },
        }
    ]
    assert listed(client, "dcgm")["gpu-01"]["targets"] == ["198.51.100.1:9400"]


def test_the_ports_are_settings(client: Client, app: FastAPI, fleet: Any) -> None:
    fleet("a")
    app.state.settings = app.state.settings.model_copy(update={"node_exporter_port": 19100})
    assert listed(client)["a"]["targets"] == ["198.51.100.1:19100"]


def test_holders_are_named_and_gpus_counted_once(client: Client, fleet: Any) -> None:
    fleet("a")
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "vision", "name": "Vision", "gpus": 8})
    for workspace, gpus in (("vision", 2), ("default", 1), ("vision", 1)):
        client.ok("POST", "/api/v1/allocations", 201, json={"workspace": workspace, "gpus": gpus})
    labels = listed(client)["a"]["labels"]
    assert labels["__meta_ironyard_workspaces"] == "default,vision"
    assert labels["__meta_ironyard_gpus"] == "8"
    assert labels["__meta_ironyard_state"] == "allocated"
    for allocation in client.ok("GET", "/api/v1/allocations")["items"]:
        client.ok("POST", f"/api/v1/allocations/{allocation['id']}/release")
    labels = listed(client)["a"]["labels"]
    assert (labels["__meta_ironyard_workspaces"], labels["__meta_ironyard_state"]) == ("", "reclaiming")


def test_a_host_is_listed_from_its_first_enrollment_to_its_retirement(
    client: Client, app: FastAPI, database: Database
) -> None:
    host_id = ledger.register(database, app.state.secret_box, "a", "198.51.100.1")
    assert listed(client) == {}
    fire(database, host_id, Event.ENROLL, fleet_service.ENROLL)
    assert listed(client) == {}, "nothing answers on a host that is being enrolled for the first time"
    ledger.finish(database, host_id, ledger.report("enroll", facts=ledger.facts(2), manifest={}))
    assert state(client) == "cleaning"
    ledger.finish(database, host_id, ledger.report("reclaim"))
    assert state(client) == "idle"
    fire(database, host_id, Event.MAINTAIN)
    assert state(client) == "maintenance"
    fire(database, host_id, Event.ENROLL, fleet_service.ENROLL)
    assert state(client) == "enrolling", "it was enrolled before"
    ledger.finish(database, host_id, event=OperationEvent.FAIL, reason="no way in")
    assert state(client) == "maintenance"
    client.ok("POST", f"/api/v1/admin/machines/{host_id}/retire", 202)
    assert listed(client) == {}


def test_a_host_that_never_came_through_enrollment_is_not_listed(
    client: Client, app: FastAPI, database: Database
) -> None:
    host_id = ledger.register(database, app.state.secret_box, "a", "198.51.100.1")
    fire(database, host_id, Event.MAINTAIN)
    assert listed(client) == {}


def fire(database: Database, host_id: UUID, event: Event, operation: str | None = None) -> None:
    with database.transaction() as tx:
        host = fleet_service.fire(tx, ledger.SYSTEM, host_id, event)
        if operation:
            fleet_service.start(tx, ledger.SYSTEM, host, operation)


def state(client: Client) -> str:
    found: str = listed(client)["a"]["labels"]["__meta_ironyard_state"]
    return found


def test_one_statement_whatever_the_number_of_hosts(client: Client, database: Database, fleet: Any) -> None:
    for number in range(5):
        fleet(f"host-{number}")
    client.ok("GET", f"{PATH}/node")
    seen: list[str] = []
    listener = sa.event.listens_for(database.engine, "before_cursor_execute")
    listener(lambda _c, _cursor, statement, *_: seen.append(statement))
    assert len(listed(client)) == 5
    assert len([statement for statement in seen if statement.startswith("SELECT")]) == 1, seen


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("198.51.100.7", "198.51.100.7:9100"),
        ("2001:db8::7", "[2001:db8::7]:9100"),
        ("gpu-01.example.org", "gpu-01.example.org:9100"),
        ("fe80::1", "[fe80::1]:9100"),
    ],
)
def test_addresses_and_ports(address: str, written: str) -> None:
    assert socket_address(address, 9100) == written


def test_an_unknown_exporter_is_not_found(client: Client) -> None:
    client.problem("GET", f"{PATH}/redis", 404, "not-found")


def test_only_operators_may_ask(client: Client) -> None:
    client.as_new("operator").ok("GET", f"{PATH}/node")
    for role in ("member", "viewer"):
        client.as_new(role).problem("GET", f"{PATH}/node", 403, "forbidden")


@pytest.fixture
def prometheus(app: FastAPI) -> Client:
    """Holds the discovery token and nothing else."""
    app.state.settings = app.state.settings.model_copy(update={"discovery_token": SecretStr(TOKEN)})
    made = Client(app)
    made.headers["Authorization"] = f"Bearer {TOKEN}"
    return made


def test_the_token_opens_discovery(prometheus: Client, fleet: Any) -> None:
    fleet("a")
    assert set(listed(prometheus)) == {"a"}
    prometheus.problem("GET", f"{PATH}/redis", 404, "not-found")


def test_the_token_opens_nothing_else(prometheus: Client, app: FastAPI) -> None:
    tried = 0
    for path, methods in app.openapi()["paths"].items():
        if path.startswith(("/health", "/metrics", PATH)) or path in (
            "/api/v1/auth/token",
            "/api/v1/proof/keys",
        ):
            continue
        for method in methods:
            prometheus.problem(method.upper(), path, 401, "unauthenticated")
            tried += 1
    assert tried > 30


@pytest.mark.parametrize("wrong", [TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "x", ""])
def test_another_token_is_refused(prometheus: Client, wrong: str) -> None:
    prometheus.headers["Authorization"] = f"Bearer {wrong}"
    prometheus.problem("GET", f"{PATH}/node", 401, "unauthenticated")


def test_without_a_token_in_the_settings_none_is_taken(app: FastAPI) -> None:
    anonymous = Client(app)
    for header in ("Bearer ", "Bearer x"):
        anonymous.headers["Authorization"] = header
        anonymous.problem("GET", f"{PATH}/node", 401, "unauthenticated")


def test_users_ask_also_where_a_token_is_set(prometheus: Client, client: Client) -> None:
    assert client.ok("GET", f"{PATH}/node") == []
