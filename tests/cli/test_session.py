"""Signing in and out, passwords and API keys."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from fastapi import FastAPI

from api.cli.exits import Exit
from tests.cli.conftest import Cli

pytestmark = pytest.mark.timeout(120)

ADMIN = "admin@ironyard.local"
OWN = "a password of my own"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_login_keeps_the_session_readable_by_the_owner_only(cli: Cli, kept: Path) -> None:
    kept.unlink()
    old = os.umask(0)
    try:
        text = cli("login", "--url", cli.url, "--email", ADMIN, "--password-stdin", stdin=f"{cli.password}\n")
    finally:
        os.umask(old)
    assert f"Signed in to {cli.url} as {ADMIN}" in text
    assert "set your own with `ironyard password`" in cli.stderr
    assert mode(kept) == 0o600
    assert mode(kept.parent) == 0o700
    assert set(json.loads(kept.read_text())) == {"url", "token"}
    assert cli.json("whoami")["email"] == ADMIN


def test_a_one_time_password_is_replaced_at_sign_in(cli: Cli, kept: Path) -> None:
    kept.unlink()
    both = ("--password-stdin", "--new-password-stdin")
    cli("login", "--url", cli.url, "--email", ADMIN, *both, stdin=f"{cli.password}\n{OWN}\n")
    assert cli.json("whoami")["role"] == "administrator"
    cli("login", "--email", ADMIN, "--password-stdin", stdin=f"{OWN}\n")
    assert "one-time" not in cli.stderr


def test_login_asks_for_what_is_not_given(cli: Cli) -> None:
    cli("login", stdin=f"{ADMIN}\n{cli.password}\n")
    assert "E-mail" in cli.stderr


def test_a_wrong_password_exits_4_and_keeps_the_old_session(cli: Cli, kept: Path) -> None:
    before = kept.read_text()
    said = cli.refused(
        "login", "--email", ADMIN, "--password-stdin", stdin="wrong, so wrong\n", code=Exit.DENIED
    )
    assert said == (
        "ironyard: Sign in first: The e-mail address or the password is wrong. [unauthenticated]\n"
    )
    assert kept.read_text() == before


def test_logout_forgets(cli: Cli, kept: Path) -> None:
    cli("logout")
    assert not kept.exists()
    assert "ironyard login" in cli.refused("whoami", code=Exit.DENIED)
    assert "Nobody" in cli("logout")


def test_the_password_changes_and_the_session_goes_on(cli: Cli) -> None:
    cli("password", "--stdin", stdin=f"{cli.password}\n{OWN}\n")
    assert cli.json("whoami")["email"] == ADMIN
    said = cli.refused("password", "--stdin", stdin=f"{OWN}\nshort\n", code=Exit.INVALID)
    assert "12" in said


def test_an_ended_session_says_how_to_go_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONYARD_TOKEN", "not.a.token")
    assert "Run `ironyard login`." in cli.refused("whoami", code=Exit.DENIED)


def test_keys_are_shown_once_and_revoked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    key = cli("key", "create", "nightly").strip()
    assert key.startswith("iry_")
    assert "shown this once" in cli.stderr
    monkeypatch.setenv("IRONYARD_TOKEN", key)
    assert cli.json("whoami")["email"] == ADMIN
    monkeypatch.delenv("IRONYARD_TOKEN")
    assert "nightly" in cli("key", "list")
    assert key not in cli("key", "list")
    assert "is revoked" in cli("key", "revoke", "nightly")
    cli.refused("key", "revoke", "nightly", code=Exit.NOT_FOUND)


def test_users_and_what_a_viewer_may_not(cli: Cli, kept: Path) -> None:
    made = cli.json("user", "create", "vera@example.org", "--role", "viewer", "--name", "Vera")
    assert [row["email"] for row in cli.json("user", "list")] == [ADMIN, "vera@example.org"]
    admin = kept.read_text()
    cli("login", "--email", "vera@example.org", "--password-stdin", stdin=f"{made['one_time_password']}\n")
    said = cli.refused("allocate", "--gpus", "1", code=Exit.DENIED)
    assert "[forbidden]" in said
    kept.write_text(admin)
    assert "operator, suspended" in cli(
        "user", "change", "vera@example.org", "--role", "operator", "--suspended"
    )
    cli.refused("user", "change", "nobody@example.org", "--active", code=Exit.NOT_FOUND)
    cli.refused("user", "change", "vera@example.org", code=Exit.USAGE)


def test_a_password_is_reset_without_a_server(
    cli: Cli, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONYARD_DATABASE_URL", app.state.settings.database_url)
    monkeypatch.setenv("IRONYARD_DATA_DIR", str(app.state.settings.data_dir))
    fresh = cli.json("user", "reset-password", ADMIN)["one_time_password"]
    cli("login", "--email", ADMIN, "--password-stdin", stdin=f"{fresh}\n")
    cli.refused("user", "reset-password", "nobody@example.org", code=Exit.NOT_FOUND)


def test_workspaces_members_and_quotas(cli: Cli) -> None:
    cli("workspace", "create", "vision", "--gpus", "4")
    assert {row["slug"] for row in cli.json("workspace", "list")} == {"default", "vision"}
    cli("workspace", "quota", "vision", "--gpus", "6", "--model", "NVIDIA T4=2")
    limits = {row["model"]: row["gpu_limit"] for row in cli.json("workspace", "quota", "vision")}
    assert limits == {None: 6, "NVIDIA T4": 2}
    cli("workspace", "quota", "vision", "--model", "NVIDIA T4=3")
    assert "NVIDIA T4  3      -     0" in cli("workspace", "quota", "vision")
    assert "GPUs       6      -     0" in cli("workspace", "quota", "vision")
    cli("user", "create", "ada@example.org")
    cli("workspace", "add-member", "vision", "ada@example.org", "--role", "admin")
    assert {row["email"]: row["role"] for row in cli.json("workspace", "members", "vision")} == {
        ADMIN: "owner",
        "ada@example.org": "admin",
    }
    cli("workspace", "remove-member", "vision", "ada@example.org")
    assert len(cli.json("workspace", "members", "vision")) == 1
    cli.refused("workspace", "quota", "vision", "--gpus", "-1", code=Exit.USAGE)
    cli.refused("workspace", "create", "vision", code=Exit.CONFLICT)
    cli.refused("workspace", "members", "nowhere", code=Exit.NOT_FOUND)
