"""The API describes itself whole, and refuses what it does not know in the same form everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.core.access import GRANTS, Permission, Role, requirement_of
from api.core.db import Tx
from api.core.errors import Conflict
from api.workspaces.models import Organisation, Workspace
from tests.conftest import Client

PUBLIC = {"/health/live", "/health/ready", "/metrics", "/api/v1/auth/token", "/api/v1/proof/keys"}


def operations(app: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_route_is_described(app: FastAPI) -> None:
    for method, path, operation in operations(app):
        assert operation.get("summary"), f"{method} {path} has no summary"
        assert operation.get("tags"), f"{method} {path} has no tag"
        problems = {int(code): answer for code, answer in operation["responses"].items() if int(code) >= 400}
        assert path in PUBLIC or {401, 403} <= problems.keys(), f"{method} {path}: {sorted(problems)}"
        assert "{" not in path or 404 in problems, f"{method} {path} can be not found"
        for code, answer in problems.items():
            if path != "/health/ready":
                assert "application/problem+json" in answer["content"], f"{method} {path} {code}"


def test_every_body_has_an_example(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    for method, path, operation in operations(app):
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            references = [schema] if "$ref" in schema else schema.get("allOf", schema.get("anyOf", []))
            (name,) = [part["$ref"].rsplit("/", 1)[1] for part in references if "$ref" in part]
            assert "example" in schemas[name], f"{method} {path}: {name} has no example"


def test_examples_are_valid(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    shown = {name: schema for name, schema in schemas.items() if "example" in schema}
    assert len(shown) > 10
    for name, schema in shown.items():
        missing = set(schema.get("required", [])) - schema["example"].keys()
        unknown = schema["example"].keys() - schema["properties"].keys()
        assert not missing | unknown, f"the example of {name}: {missing | unknown}"


def routes(app: FastAPI) -> Iterator[APIRoute]:
    pending: list[Any] = list(app.routes)
    while pending:
        route = pending.pop()
        if isinstance(route, APIRoute):
            yield route
        else:
            inner = getattr(route, "original_router", None) or getattr(route, "router", None)
            pending.extend(inner.routes if inner is not None else [])


def test_every_route_names_what_it_needs(app: FastAPI) -> None:
    found = {route.path: route for route in routes(app)}
    assert len(found) > 30
    for path, route in found.items():
        needed = [requirement_of(dependency.call) for dependency in route.dependant.dependencies]
        named = [permission for permission in needed if permission is not None]
        assert bool(named) != (path in PUBLIC), f"{path} needs {named}"


def test_roles_grow(app: FastAPI) -> None:
    assert GRANTS[Role.VIEWER] < GRANTS[Role.MEMBER] < GRANTS[Role.OPERATOR] < GRANTS[Role.ADMINISTRATOR]
    assert GRANTS[Role.ADMINISTRATOR] == set(Permission)


def test_without_credentials_everything_is_refused(app: FastAPI) -> None:
    anonymous = Client(app)
    for method, path, _ in operations(app):
        if path not in PUBLIC:
            anonymous.problem(method.upper(), path, 401, "unauthenticated")


@pytest.mark.parametrize(
    ("role", "method", "path", "allowed"),
    [
        ("viewer", "GET", "/api/v1/hosts", True),
        ("viewer", "POST", "/api/v1/allocations", False),
        ("member", "POST", "/api/v1/hosts", False),
        ("member", "GET", "/api/v1/inventory", False),
        ("member", "GET", "/api/v1/admin/reports/usage", False),
        ("operator", "GET", "/api/v1/inventory", True),
        ("operator", "GET", "/api/v1/admin/audit", False),
        ("operator", "POST", "/api/v1/admin/users", False),
        ("operator", "POST", "/api/v1/workspaces", False),
    ],
)
def test_roles_open_and_close_routes(
    client: Client, role: str, method: str, path: str, allowed: bool
) -> None:
    status = client.as_new(role).request(method, path).status_code
    assert (status != 403) == allowed


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/nowhere"])
def test_unknown_paths_and_methods_are_problems(client: Client, path: str) -> None:
    client.problem("GET", path, 404, "not-found")
    client.problem("DELETE", "/api/v1/hosts", 405, "method-not-allowed")


def test_large_bodies_are_refused_declared_or_not(client: Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b"x" * 100_000 for _ in range(100))

    client.problem("POST", "/api/v1/hosts", 413, "body-too-large", content=b"x" * 10_000_000)
    client.problem("POST", "/api/v1/hosts", 413, "body-too-large", content=chunks())
    assert client.ok("GET", "/api/v1/hosts")["items"] == []


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"text"', '{"gpus": 1e400}', '{"gpus": NaN}'])
def test_bodies_that_are_no_object_are_problems(client: Client, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/api/v1/allocations", content=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid-request"


def test_negative_quotas_are_refused(client: Client) -> None:
    for body in ({"gpus": -1}, {"gpus": 1, "models": {"x": -1}}, {"gpus": 10**12}):
        client.problem("PUT", "/api/v1/workspaces/default/quotas", 422, "invalid-request", json=body)
    assert client.ok("GET", "/api/v1/workspaces/default/quotas")[0]["gpu_limit"] == 8


def test_an_unforeseen_error_is_a_problem_without_secrets(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("api.workspaces.service.visible", broken)
    problem = client.problem("GET", "/api/v1/workspaces", 500, "internal-error")
    assert "secret" not in str(problem)
    assert problem["request_id"]


def test_health_and_metrics(client: Client, fleet: Any) -> None:
    host_id = fleet("a")
    assert client.ok("GET", "/health/live") == {"status": "live"}
    ready = client.ok("GET", "/health/ready", 503)
    assert ready["checks"]["database"]["ok"]
    assert ready["checks"]["migrations"]["ok"]
    assert ready["checks"]["worker"] == {"ok": False, "detail": "0 alive"}
    alone = client.ok("GET", "/health/ready?worker=false")
    assert set(alone["checks"]) == {"database", "migrations"}
    text = client.get("/metrics").text
    assert 'ironyard_hosts{state="idle"} 1.0' in text
    assert f'ironyard_host_info{{host_id="{host_id}",hostname="a",region="test",state="idle"}} 1.0' in text
    assert 'ironyard_gpus{model="NVIDIA H100 80GB HBM3",use="free"} 8.0' in text
    assert 'ironyard_http_requests_total{method="GET",route="/health/live",status="200"}' in text


def test_a_route_of_any_kind_commits_and_a_failing_one_does_not(app: FastAPI, client: Client) -> None:
    @app.post("/plain/{ending}")
    def plain(ending: str, tx: Tx) -> None:
        organisation = tx.execute(sa.select(Organisation)).scalars().one()
        tx.add(Workspace(slug=ending, name=ending, organisation_id=organisation.id))
        tx.flush()
        if ending == "failing":
            raise Conflict("on purpose")

    client.ok("POST", "/plain/done")
    client.problem("POST", "/plain/failing", 409, "conflict")
    found = client.ok("GET", "/api/v1/workspaces")["items"]
    assert {row["slug"] for row in found} == {"default", "done"}
