"""Sign-in, tokens, keys, roles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import OctKey

from api.core.db import Database
from api.identity.models import ApiKey, User
from tests.conftest import Client

TOKEN = "/api/v1/auth/token"
NEW = "a better password than before"


def test_sign_in_and_me(client: Client) -> None:
    assert client.ok("GET", "/api/v1/auth/me")["email"] == "admin@ironyard.local"


@pytest.mark.parametrize("email", ["admin@ironyard.local", "nobody@example.org"])
def test_a_wrong_password_says_the_same_for_everybody(client: Client, email: str) -> None:
    body = {"email": email, "password": "wrong"}
    problem = client.problem("POST", TOKEN, 401, "unauthenticated", json=body)
    assert problem["detail"] == "The e-mail address or the password is wrong."


def test_a_new_password_ends_every_session(client: Client) -> None:
    change = {"current_password": client.password, "new_password": NEW}
    assert client.ok("POST", TOKEN, json={"email": "admin@ironyard.local", "password": client.password})[
        "must_change_password"
    ]
    client.ok("POST", "/api/v1/auth/password", 204, json=change)
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=2)):
        client.app.state.authenticator._known.clear()  # type: ignore[attr-defined]
        client.problem("GET", "/api/v1/auth/me", 401, "unauthenticated")
        body = {"email": "admin@ironyard.local", "password": NEW}
        assert client.ok("POST", TOKEN, json=body)["must_change_password"] is False


def test_one_time_passwords_expire(client: Client) -> None:
    made = client.ok("POST", "/api/v1/admin/users", 201, json={"email": "ada@example.org", "name": "Ada"})
    with time_machine.travel(datetime.now(UTC) + timedelta(days=2)):
        body = {"email": "ada@example.org", "password": made["one_time_password"]}
        assert "expired" in client.problem("POST", TOKEN, 401, "unauthenticated", json=body)["detail"]


def test_short_passwords_and_repeats_are_refused(client: Client) -> None:
    for new in ("short", client.password):
        change = {"current_password": client.password, "new_password": new}
        client.problem("POST", "/api/v1/auth/password", 422, "invalid-request", json=change)


def test_an_api_key_is_shown_once_stored_hashed_and_revocable(client: Client, database: Database) -> None:
    made = client.ok("POST", "/api/v1/api-keys", 201, json={"name": "nightly"})
    assert made["key"].startswith("iry_")
    with database.snapshot() as tx:
        stored = tx.execute(sa.select(ApiKey)).scalar_one()
    assert made["key"] not in str(stored)
    keyed = Client(client.app)
    keyed.headers["Authorization"] = f"Bearer {made['key']}"
    assert keyed.ok("GET", "/api/v1/auth/me")["email"] == "admin@ironyard.local"
    (listed,) = keyed.ok("GET", "/api/v1/api-keys")
    assert "key" not in listed
    assert listed["last_used_at"] is not None
    client.ok("DELETE", f"/api/v1/api-keys/{made['id']}")
    client.app.state.authenticator._known.clear()  # type: ignore[attr-defined]
    keyed.problem("GET", "/api/v1/auth/me", 401, "unauthenticated")


def test_somebody_elses_key_is_not_found(client: Client) -> None:
    made = client.ok("POST", "/api/v1/api-keys", 201, json={"name": "mine"})
    client.as_new("administrator").problem("DELETE", f"/api/v1/api-keys/{made['id']}", 404, "not-found")


def forged(app: FastAPI, user: User, *, key: str | None = None, **claims: Any) -> str:
    now = int(datetime.now(UTC).timestamp())
    own = {"iss": "ironyard", "sub": str(user.id), "iat": now, "exp": now + 60, "gen": user.token_generation}
    secret = OctKey.import_key(key or app.state.settings.signing_key)
    return jwt.encode({"alg": "HS256"}, {k: v for k, v in (own | claims).items() if v is not None}, secret)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "x" * 40},
        {"iss": "somebody-else"},
        {"exp": 1},
        {"exp": None},
        {"sub": "not-an-id"},
        {"gen": 99},
        {"sub": "00000000-0000-7000-8000-000000000000"},
    ],
)
def test_forged_tokens_are_refused(
    client: Client, app: FastAPI, database: Database, change: dict[str, Any]
) -> None:
    with database.snapshot() as tx:
        user = tx.execute(sa.select(User)).scalar_one()
    client.headers["Authorization"] = f"Bearer {forged(app, user)}"
    client.ok("GET", "/api/v1/auth/me")
    client.headers["Authorization"] = f"Bearer {forged(app, user, **change)}"
    client.problem("GET", "/api/v1/auth/me", 401, "unauthenticated")


@pytest.mark.parametrize("value", ["Bearer", "Bearer x", "Basic YTpi", "Bearer iry_nonsense", ""])
def test_other_credentials_are_refused(client: Client, value: str) -> None:
    client.headers["Authorization"] = value
    client.problem("GET", "/api/v1/auth/me", 401, "unauthenticated")


def test_a_suspended_user_is_out(client: Client) -> None:
    member = client.as_new("member")
    client.ok("PATCH", f"/api/v1/admin/users/{member.user_id}", json={"active": False})
    client.app.state.authenticator._known.clear()  # type: ignore[attr-defined]
    member.problem("GET", "/api/v1/auth/me", 401, "unauthenticated")
    client.problem("PATCH", f"/api/v1/admin/users/{client.user_id}", 409, "conflict", json={"role": "viewer"})


def test_users_are_unique_and_listed(client: Client) -> None:
    body = {"email": "Ada@Example.org", "name": "Ada"}
    client.ok("POST", "/api/v1/admin/users", 201, json=body)
    client.problem("POST", "/api/v1/admin/users", 409, "already-exists", json=body)
    found = client.ok("GET", "/api/v1/admin/users", params={"email": "ada@example.org"})["items"]
    assert [row["name"] for row in found] == ["Ada"]
    assert "password" not in str(found)


def test_the_audit_trail_tells_who_did_what(client: Client) -> None:
    made = client.ok("POST", "/api/v1/admin/users", 201, json={"email": "ada@example.org", "name": "Ada"})
    rows = client.ok("GET", "/api/v1/admin/audit", params={"subject_id": made["id"]})["items"]
    assert [row["action"] for row in rows] == ["user.created", "user.one_time_password_set"]
    assert {row["actor"] for row in rows} == {"admin@ironyard.local"}
    assert rows[0]["request_id"]
    assert made["one_time_password"] not in str(rows)
