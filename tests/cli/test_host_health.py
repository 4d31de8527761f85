"""`ironyard host health`: a check from the terminal, its verdicts, and what a script sees of them."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest

from api.cli.exits import Exit
from api.core.db import Database
from tests.cli.conftest import Cli, meanwhile
from tests.support import ledger

pytestmark = pytest.mark.timeout(120)


def end(database: Database, host: UUID, *faults: dict[str, Any], **run: Any) -> Any:
    def later() -> None:
        time.sleep(1)
        made = None if run else ledger.report("health", health=ledger.verdicts(*faults, level=1))
        ledger.finish(database, host, made, **run)

    return meanwhile(later)


def test_a_host_that_is_well(cli: Cli, fleet: Any, database: Database) -> None:
    host = fleet("a", gpus=2)
    with end(database, host, ledger.verdict("host", "INFO", name="diag")):
        text = cli("host", "health", "a")
    assert "INFO: level 1, 3 checks passed, 1 did not." in text
    shown = cli("host", "show", "a")
    assert "INFO, last checked" in shown


def test_a_sick_gpu_exits_1_and_is_named_with_what_to_do(cli: Cli, fleet: Any, database: Database) -> None:
    host = fleet("a", gpus=2)
    sick = cli.json("host", "show", "a")["gpu_list"][1]["uuid"]
    with end(database, host, ledger.verdict(sick, "CRITICAL", "reset")):
        text = cli("host", "health", "a", "--level", "1", code=Exit.FAILED)
    row = next(line for line in text.splitlines() if "GPU 1" in line)
    assert [word in row for word in ("CRITICAL", "ecc", "reset", "as read")] == [True] * 4
    shown = next(line for line in cli("host", "show", "a").splitlines() if sick in line)
    assert [word in shown for word in ("failed", "reset", "ecc: as read")] == [True] * 3
    (newest, *_) = cli.json("host", "health-checks", "a")
    assert (newest["verdict"], newest["level"]) == ("CRITICAL", 1)
    assert "CRITICAL ecc" in cli("host", "health-checks", "a")


def test_a_check_that_could_not_run_says_why(cli: Cli, fleet: Any, database: Database) -> None:
    host = fleet("a", gpus=1)
    with end(database, host, event=ledger.OperationEvent.FAIL, reason="no route"):
        cli("host", "health", "a", code=Exit.FAILED)
    assert "no route" in cli.stderr
    assert "not lent until a check passes" in cli("host", "show", "a")


def test_a_check_without_waiting_says_how_to_follow(cli: Cli, fleet: Any) -> None:
    fleet("a", gpus=1)
    assert "ironyard operations watch" in cli("host", "health", "a", "--no-wait")
    assert cli.json("operations", "list")[0]["kind"] == "host.health"
