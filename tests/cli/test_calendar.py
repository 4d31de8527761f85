"""Windows and notices at a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from api.allocations import timekeeping
from api.cli.exits import Exit
from api.core.db import Database
from api.settings import Settings
from tests.cli.conftest import Cli
from tests.support.ledger import SYSTEM

pytestmark = pytest.mark.timeout(120)


def at(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")


def test_gpus_are_set_aside_shown_moved_and_given_up(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=2)
    begin = at(2)
    said = cli("allocate", "--gpus", "2", "--from", begin, "--for", "3h")
    (made,) = cli.json("allocations", "--state", "reserved")
    for words in ("state       reserved", f"ironyard reservations --allocation {made['id']}", "begins"):
        assert words in said
    heading, *lines = cli("reservations", "--allocation", made["id"]).splitlines()
    assert heading.split()[:2] == ["WORKSPACE", "HOST"]
    assert [line.split()[1:3] for line in lines] == [["gpu-01", "0"], ["gpu-01", "1"]]
    assert "[reservation-conflict]" in cli.refused(
        "allocate", "--gpus", "1", "--from", at(4), "--for", "1h", code=Exit.CONFLICT
    )
    assert cli.json("reservations", "--host", "gpu-01", "--from", at(6)) == []
    assert cli.json("reservations", "--to", at(1)) == []
    cli("extend", made["id"][-12:], "--for", "1h")
    (end,) = {row["ends_at"] for row in cli.json("reservations")}
    assert datetime.fromisoformat(end) == datetime.fromisoformat(begin) + timedelta(hours=4)
    cli("release", made["id"][-12:])
    assert cli.json("reservations") == []
    assert len(cli.json("reservations", "--closed")) == 4


def test_notices_tell_of_an_end(cli: Cli, fleet: Any, database: Database, settings: Settings) -> None:
    fleet("gpu-01", gpus=2)
    made = cli.json("allocate", "--gpus", "1", "--for", "2h")
    assert cli.json("notices") == []
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=61)):
        timekeeping.keep(database, SYSTEM, settings)
    shown = cli("notices", "--kind", "allocation.expiring", "--about", made["id"])
    assert f"Allocation {made['id']} of admin@ironyard.local ends in 58 min" in shown
    assert cli.json("notices", "--kind", "allocation.late") == []
    assert len(cli.json("notices", "--workspace", "default")) == 1
