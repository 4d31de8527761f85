"""`ironyard leaks`: look for leaks, see them, decide about them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from api.cli.exits import Exit
from api.core.db import Database
from api.fleet.lifecycle import State
from api.fleet.models import Host
from tests.cli.conftest import Cli

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def leak(cli: Cli, fleet: Any, database: Database) -> str:
    """A host that is lent to nobody, as a scan has found it; the finding's id."""
    host = fleet("gpu-01", gpus=2)
    with database.transaction() as tx:
        tx.execute(sa.update(Host).where(Host.id == host).values(state=State.ALLOCATED))
    (found,) = cli.json("leaks", "list", "--scan")
    assert "1 findings are there: 1 opened" in cli.stderr
    assert "2 could not be looked at" in cli.stderr
    return str(found["id"])


def test_a_leak_is_listed_shown_and_dismissed(cli: Cli, leak: str) -> None:
    heading, line = cli("leaks", "list").splitlines()
    assert heading.split()[:4] == ["ID", "KIND", "STATE", "SUBJECT"]
    assert line.split()[1:4] == ["host-without-hold", "open", "gpu-01"]
    shown = cli("leaks", "show", leak[-8:])
    assert "gpu-01 is allocated and no allocation holds any of its GPUs." in shown
    assert "reclaim-host, notify" in shown
    assert "is dismissed" in cli("leaks", "dismiss", leak, "--reason", "a test of ours")
    assert "a test of ours" in cli("leaks", "show", leak)
    assert cli.json("leaks", "list", "--state", "open") == []
    again = cli.json("leaks", "scan")
    assert (again["opened"], again["unresolved"]) == (0, 1)
    refused = cli.refused("leaks", "act", leak, "--reason", "now", "--yes", code=Exit.CONFLICT)
    assert "[wrong-state]" in refused


def test_an_operator_does_what_a_finding_asks_for(cli: Cli, leak: str) -> None:
    assert "--yes" in cli.refused("leaks", "act", leak, "--reason", "forgotten", code=Exit.USAGE)
    assert "gpu-01 is acted" in cli("leaks", "act", leak, "--reason", "forgotten", "--yes")
    assert cli.json("host", "show", "gpu-01")["state"] == "reclaiming"
    assert cli.json("leaks", "list") == []
    assert cli.json("leaks", "list", "--all")[0]["resolution"] == "forgotten"


def test_a_scan_says_what_is_unknown_and_looks_at_hosts(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=2)
    printed = cli("leaks", "scan", "--hosts")
    assert "0 findings are there: 0 opened, 0 warned, 0 acted, 0 resolved." in printed
    assert "unknown: unexplained of 2: " in printed
    group = printed.split()[-1]
    assert cli.json("group", "show", group)["action"] == "verify"


def test_an_unknown_finding_is_not_found(cli: Cli) -> None:
    assert "There is no finding 123" in cli.refused("leaks", "show", "123", code=Exit.NOT_FOUND)
