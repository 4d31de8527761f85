"""Asking and deciding from the command line, as two people do."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from api.cli.exits import Exit
from api.core.db import Database
from api.identity import service as identity
from tests.cli.conftest import Cli
from tests.support.ledger import H100


class Kim:
    """A member of `default`, whose claims need the approval of whoever is signed in otherwise."""

    def __init__(self, cli: Cli, token: str, patch: pytest.MonkeyPatch) -> None:
        self.cli, self.token, self.patch = cli, token, patch

    def __call__(self, *arguments: str, code: int = 0) -> str:
        with self.patch.context() as patch:
            patch.setenv("IRONYARD_TOKEN", self.token)
            return self.cli(*arguments, code=code)

    def json(self, *arguments: str) -> Any:
        with self.patch.context() as patch:
            patch.setenv("IRONYARD_TOKEN", self.token)
            return self.cli.json(*arguments)


@pytest.fixture
def kim(cli: Cli, app: FastAPI, database: Database, monkeypatch: pytest.MonkeyPatch) -> Kim:
    made = cli.json("user", "create", "kim@example.org", "--name", "Kim")
    cli("workspace", "add-member", "default", "kim@example.org")
    assert "approved by: workspace" in cli("workspace", "approval", "default", "--by", "workspace")
    with database.transaction() as tx:
        user = identity.get_user(tx, UUID(made["id"]))
        token = app.state.tokens.issue(user)
    return Kim(cli, token, monkeypatch)


def test_a_request_is_listed_approved_and_renewed(cli: Cli, kim: Kim, fleet: Any) -> None:
    fleet("gpu-01")
    text = kim("allocate", "--gpus", "2", "--for", "2h", "--purpose", "the paper")
    assert "requested" in text
    assert "the approval of an owner or admin" in text
    heading, asked = cli("requests").splitlines()
    assert "PURPOSE" in heading
    assert "2 GPUs" in asked
    assert " 2 h " in asked
    (row,) = cli.json("requests")
    assert row["purpose"] == "the paper"
    assert kim.json("requests") == []
    assert f"{row['id']} is active." in cli("approve", row["id"][-12:], "--reason", "go")
    assert "waits for approval" in kim("renew", row["id"][-12:], "--for", "1h", "--purpose", "one more run")
    kim("extend", row["id"], "--for", "1h", code=Exit.CONFLICT)
    (change,) = cli.json("requests")
    assert change["kind"] == "extend"
    assert "is done" in cli("approve", change["id"])
    assert "waits for approval" in kim("extend", row["id"], "--for", "1h")
    assert "decided by" in cli("allocation", "show", row["id"])


def test_a_denial_names_its_reason(cli: Cli, kim: Kim, fleet: Any) -> None:
    fleet("gpu-01")
    asked = kim.json("allocate", "--gpus", "1")["id"]
    cli("deny", asked, code=Exit.USAGE)
    assert "is denied" in cli("deny", asked, "--reason", "not this week")
    assert "not this week" in kim("allocation", "show", asked)
    cli.refused("approve", asked, code=Exit.CONFLICT)
    cli.refused("approve", "ffff", code=Exit.NOT_FOUND)


def test_more_gpus_are_asked_for(cli: Cli, kim: Kim, fleet: Any) -> None:
    fleet("gpu-01")
    asked = kim.json("allocate", "--gpus", "1")["id"]
    cli("approve", asked)
    waits = kim.json("grow", asked, "--gpus", "2", "--purpose", "a larger batch")
    assert waits["state"] == "requested"
    assert "is denied" in cli("deny", waits["id"], "--reason", "no")
    assert "is done" in cli("grow", asked, "--gpus", "2")
    assert len(cli.json("allocation", "show", asked)["gpus"]) == 3


def test_an_allocation_is_handed_over(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    cli("workspace", "create", "vision")
    made = cli.json("allocate", "--gpus", "1")["id"]
    cli("transfer", made, "--to", "vision", code=Exit.USAGE)
    assert "is held by vision now" in cli("transfer", made, "--to", "vision", "--reason", "theirs")


def test_rules_say_who_approves_a_model(cli: Cli) -> None:
    assert "approved by: operator" in cli("approval", "set", H100, "--by", "operator")
    assert cli.json("approval", "set", "*", "--by", "workspace")["model"] is None
    text = cli("approval", "list")
    assert "any" in text
    assert H100 in text
    cli("approval", "remove", "*")
    assert [row["model"] for row in cli.json("approval", "list")] == [H100]
    cli.refused("approval", "remove", "*", code=Exit.NOT_FOUND)


def test_a_rule_for_a_model_that_nobody_has_says_so(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01")
    cli("approval", "set", "H100", "--by", "operator")
    assert "No GPU of the fleet is of the model H100 today" in cli.stderr
    cli("approval", "set", "NVIDIA H100 80GB HBM3", "--by", "operator")
    assert not cli.stderr
