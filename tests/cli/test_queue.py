"""Waiting for GPUs, as it looks from a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from api.allocations import turns
from api.cli.exits import Exit
from api.core.db import Database
from api.settings import Settings
from tests.cli.conftest import Cli
from tests.support.ledger import SYSTEM

pytestmark = pytest.mark.timeout(120)


def test_wait_look_and_be_granted(cli: Cli, fleet: Any, database: Database, settings: Settings) -> None:
    fleet("gpu-01", gpus=2)
    keeper = cli.json("allocate", "--gpus", "1", "--preemptible")
    held = cli.json("allocate", "--gpus", "1", "--for", "2h")
    assert "[capacity-exceeded]" in cli.refused("allocate", "--gpus", "1", code=Exit.CONFLICT)
    shown = cli("allocate", "--gpus", "1", "--for", "1h", "--wait", "--priority", "7")
    assert "state       queued" in shown
    assert "1 GPUs as asked for are not free together" in shown
    row = cli("queue").splitlines()[1].split()
    assert (row[0], row[2], row[4], row[5]) == ("1", "default", "1", "7")
    waiting = cli.json("queue")["items"][0]["id"]
    assert f"ironyard release {waiting}" in shown
    assert waiting in cli("allocations", "--state", "queued")
    turns.serve(database, SYSTEM, settings)
    assert "yields at" in cli("allocation", "show", keeper["id"])
    cli("release", held["id"])
    turns.serve(database, SYSTEM, settings)
    assert cli.json("allocation", "show", waiting)["state"] == "active"
    assert cli.json("queue") == {"length": 0, "items": []}


def test_a_claim_that_waits_is_withdrawn(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=1)
    cli.json("allocate", "--gpus", "1")
    waiting = cli.json("allocate", "--gpus", "1", "--wait")["id"]
    assert "is cancelled; it held nothing." in cli("release", waiting[-12:])
    assert cli("queue").splitlines()[1:] == []
