"""A change under an Idempotency-Key is made once and answered alike, whoever asks again and however often."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from fastapi import FastAPI
from sqlalchemy import event

from api.core import idempotency
from api.core.db import Database
from api.core.ids import new_id
from api.settings import Settings
from api.worker import WorkerProcess
from tests.conftest import Client

CLAIMS, HOSTS, USERS = "/api/v1/allocations", "/api/v1/hosts", "/api/v1/admin/users"
HOST = {"name": "gpu-01", "address": "192.0.2.1", "key_reference": "/etc/key", "region": "eu-west"}
KEY = {"Idempotency-Key": "k1"}
REUSED = "idempotency-key-reused"
HARMLESS = {"/api/v1/auth/token", "/api/v1/admin/leaks/scan"}  # asked for twice they do no harm


def stored(database: Database) -> list[Any]:
    with database.snapshot() as tx:
        return list(tx.execute(sa.select(idempotency.KEYS)))


def twice(client: Client, method: str, path: str, status: int, *, key: str = "k1", **more: Any) -> Any:
    """Ask, ask again: the same answer, said to be one. Gives the first response."""
    headers = {"Idempotency-Key": key}
    first, again = (client.request(method, path, headers=headers, **more) for _ in range(2))
    assert (first.status_code, again.status_code) == (status, status), first.text + again.text
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.content == first.content
    for name in ("content-type", "etag"):
        assert again.headers.get(name) == first.headers.get(name)
    return first


def test_a_claim_is_made_once(client: Client, fleet: Any) -> None:
    fleet("a")
    made = twice(client, "POST", CLAIMS, 201, json={"gpus": 2}).json()
    assert [row["id"] for row in client.ok("GET", CLAIMS)["items"]] == [made["id"]]


def test_the_answer_is_what_it_is_without_a_key(client: Client, fleet: Any) -> None:
    fleet("a")
    plain = client.post(CLAIMS, json={"gpus": 1, "same_host": True})
    keyed = client.post(CLAIMS, json={"gpus": 1, "same_host": True}, headers=KEY)
    assert list(keyed.json()) == list(plain.json())
    own = {"content-length", "x-request-id"}
    assert set(keyed.headers) - own == set(plain.headers) - own
    assert keyed.headers["content-type"] == plain.headers["content-type"]


def test_every_kind_of_change_is_made_once(client: Client, fleet: Any) -> None:
    fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 2})
    one = f"{CLAIMS}/{made['id']}"
    end = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    password = {"current_password": client.password, "new_password": "a much better password"}
    changes: list[tuple[str, str, int, Any]] = [
        ("POST", f"{one}/extend", 200, {"expires_at": end}),
        ("POST", f"{one}/release", 200, None),
        ("POST", HOSTS, 202, HOST),
        ("POST", "/api/v1/workspaces", 201, {"slug": "w", "name": "W"}),
        ("PUT", "/api/v1/workspaces/w/quotas", 200, {"gpus": 3}),
        ("POST", "/api/v1/auth/password", 204, password),
    ]
    for number, (method, path, status, body) in enumerate(changes):
        twice(client, method, path, status, key=f"k{number}", json=body)


def test_what_can_only_be_done_once_is_answered_again(client: Client) -> None:
    """The second request alone would not be found."""
    user = client.ok("POST", USERS, 201, json={"email": "ada@example.org", "name": "Ada"})["id"]
    client.ok("PUT", f"/api/v1/workspaces/default/members/{user}", json={"role": "member"})
    twice(client, "DELETE", f"/api/v1/workspaces/default/members/{user}", 204)


def test_a_secret_shown_once_is_shown_again_and_lies_nowhere_in_the_clear(
    client: Client, database: Database
) -> None:
    made = twice(client, "POST", USERS, 201, json={"email": "ada@example.org", "name": "Ada"}).json()
    client.signed_in("ada@example.org", made["one_time_password"])
    (row,) = stored(database)
    assert row.status == 201
    assert made["one_time_password"] not in str(row)
    assert "ada" not in str(row)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CLAIMS, {"gpus": 2}),
        ("POST", f"{CLAIMS}?dry_run=true", {"gpus": 1}),
        ("POST", "/api/v1/workspaces", {"gpus": 1, "slug": "w", "name": "W"}),
    ],
)
def test_a_key_belongs_to_one_request(
    client: Client, fleet: Any, method: str, path: str, body: dict[str, Any]
) -> None:
    fleet("a")
    client.ok("POST", CLAIMS, 201, json={"gpus": 1}, headers=KEY)
    problem = client.problem(method, path, 409, REUSED, json=body, headers=KEY)
    assert (problem["method"], problem["path"]) == ("POST", CLAIMS)
    assert len(client.ok("GET", CLAIMS)["items"]) == 1


def test_the_order_and_the_spaces_of_json_do_not_matter(client: Client, fleet: Any) -> None:
    fleet("a")
    headers = KEY | {"Content-Type": "application/json"}
    first = client.post(CLAIMS, content=b'{"gpus": 1, "workspace": "default"}', headers=headers)
    again = client.post(CLAIMS, content=b'{"workspace":"default",\n"gpus":1}', headers=headers)
    assert first.json()["id"] == again.json()["id"]


def test_keys_of_two_users_are_two_keys(client: Client, fleet: Any) -> None:
    fleet("a")
    other = client.as_new("operator")
    made = {one.ok("POST", CLAIMS, 201, json={"gpus": 1}, headers=KEY)["id"] for one in (client, other)}
    assert len(made) == 2


def test_what_failed_may_be_tried_again(client: Client, database: Database, fleet: Any) -> None:
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1}, headers=KEY)
    client.problem("POST", CLAIMS, 422, "invalid-request", json={"gpus": 0}, headers=KEY)
    assert stored(database) == []
    fleet("a")
    twice(client, "POST", CLAIMS, 201, json={"gpus": 1})


@pytest.mark.parametrize("key", ["", "x" * 129])
def test_what_is_no_key_is_refused(client: Client, fleet: Any, key: str) -> None:
    fleet("a")
    body, headers = {"gpus": 1}, {"Idempotency-Key": key}
    client.problem("POST", CLAIMS, 422, "invalid-request", json=body, headers=headers)


def test_nobody_replays_without_signing_in(client: Client, app: FastAPI) -> None:
    client.ok("POST", HOSTS, 202, json=HOST, headers=KEY)
    Client(app).problem("POST", HOSTS, 401, "unauthenticated", json=HOST, headers=KEY)
    client.as_new("member").problem("POST", HOSTS, 403, "forbidden", json=HOST, headers=KEY)


def test_sixteen_twins_make_one_claim(app: FastAPI, client: Client, fleet: Any) -> None:
    fleet("a")

    def ask(_: int) -> tuple[int, str, str | None]:
        twin = Client(app, raise_server_exceptions=False)
        twin.headers["Authorization"] = client.headers["Authorization"]
        answer = twin.post(CLAIMS, json={"gpus": 1}, headers=KEY)
        return answer.status_code, answer.json()["id"], answer.headers.get("Idempotency-Replayed")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert {(status, made) for status, made, _ in answers} == {(201, answers[0][1])}
    assert sorted(replayed or "" for *_, replayed in answers) == [""] + ["true"] * 15
    assert len(client.ok("GET", CLAIMS)["items"]) == 1


def test_a_key_is_kept_for_a_day_and_then_forgotten(
    client: Client, settings: Settings, database: Database, fleet: Any
) -> None:
    fleet("a")
    worker = WorkerProcess(settings)
    password = {"current_password": client.password, "new_password": "a much better password"}
    client.ok("POST", "/api/v1/auth/password", 204, json=password)  # the first one lives no longer than a key
    client = client.signed_in("admin@ironyard.local", password["new_password"])
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 1}, headers=KEY)
    now = datetime.now(UTC)
    with time_machine.travel(now + timedelta(hours=23, minutes=59)):
        worker.forget_keys()
        assert len(stored(database)) == 1
    with time_machine.travel(now + timedelta(hours=24, minutes=1)):
        anew = client.signed_in("admin@ironyard.local", password["new_password"])
        later = anew.ok("POST", CLAIMS, 201, json={"gpus": 1}, headers=KEY)
        assert later["id"] != made["id"]
        assert len(stored(database)) == 1
        worker.forget_keys()
        assert len(stored(database)) == 1
    with time_machine.travel(now + timedelta(hours=49)):
        worker.forget_keys()
        assert stored(database) == []
    worker.database.engine.dispose()


def test_keys_are_forgotten_in_portions(database: Database) -> None:
    past = datetime(2026, 1, 1, tzinfo=UTC)
    old = {"actor": "a", "method": "POST", "path": "/", "digest": "", "created_at": past}
    rows = [old | {"id": new_id(), "key": str(number)} for number in range(5)]
    database.run(lambda tx: tx.execute(sa.insert(idempotency.KEYS), rows))
    database.run(lambda tx: idempotency.purge(tx, lifetime=60, limit=3))
    assert len(stored(database)) == 2
    assert database.run(lambda tx: idempotency.any_outlived(tx, lifetime=60), reading=True)


@pytest.fixture
def statements(database: Database) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def test_without_a_key_it_costs_nothing(client: Client, fleet: Any, statements: list[str]) -> None:
    fleet("a")
    statements.clear()
    client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    assert statements
    assert not [statement for statement in statements if "idempotency" in statement]


def test_the_description_says_which_requests_take_a_key(app: FastAPI) -> None:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            names = [one["name"] for one in operation.get("parameters", []) if one["in"] == "header"]
            takes = method != "get" and path not in HARMLESS
            assert names.count("Idempotency-Key") == int(takes), f"{method} {path}"
            assert not takes or "409" in operation["responses"]
