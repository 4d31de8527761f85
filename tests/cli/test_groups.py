"""Many hosts from the command line."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from api.cli.exits import Exit
from api.core.db import Database
from api.core.operations.lifecycle import Event
from api.core.operations.models import Operation
from api.fleet import group_router, groups
from tests.cli.conftest import Cli, meanwhile
from tests.support import ledger

pytestmark = pytest.mark.timeout(120)
BULK = ("host", "bulk", "reclaim", "--label", "rack=b1", "--at-once", "1")


@pytest.fixture
def rack(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, UUID]:
    monkeypatch.setattr(group_router, "POLL_SECONDS", 0.05)
    return {name: fleet(name, gpus=1, labels={"rack": "b1"}) for name in ("gpu-1", "gpu-2", "gpu-3")}


def under_way(database: Database, host: UUID) -> bool:
    with database.snapshot() as tx:
        found = sa.select(Operation.id).where(Operation.subject_id == host, Operation.ended_at.is_(None))
        return tx.execute(found).first() is not None


def finish(database: Database, host: UUID, *, well: bool = True) -> None:
    """End a host's operation, and do what the worker does every second."""
    while not under_way(database, host):
        time.sleep(0.05)
    time.sleep(0.3)
    if well:
        ledger.finish(database, host, ledger.report("reclaim"))
    else:
        ledger.finish(database, host, event=Event.FAIL, reason="disk full", step="wipe")
    with database.transaction() as tx:
        for group_id in groups.running(tx):
            groups.advance(tx, groups.lock(tx, group_id))


def test_bulk_is_watched_to_its_end(cli: Cli, rack: dict[str, UUID], database: Database) -> None:
    def work() -> None:
        for host in rack.values():
            finish(database, host)

    with meanwhile(work):
        told = cli(*BULK, "--yes", "--watch")
    for name in rack:
        assert f"{name}: succeeded" in told
    assert "reclaim: 3 succeeded" in told
    (listed,) = cli.json("group", "list")
    assert listed["hosts"] == {"succeeded": 3}
    assert "3 succeeded" in cli("group", "list")


def test_a_spent_budget_exits_1_and_the_failed_are_tried_again(
    cli: Cli, rack: dict[str, UUID], database: Database
) -> None:
    with meanwhile(lambda: finish(database, rack["gpu-1"], well=False)):
        cli(*BULK, "--yes", "--watch", code=Exit.FAILED)
    assert "Stopped after 1 failures, of 0 allowed; 2 hosts were not begun." in cli.stderr
    group_id = cli.json("group", "list")[0]["id"]
    shown = cli("group", "show", group_id[-12:])
    assert "disk full" in shown
    assert "failures allowed  0" in shown
    again = cli("group", "retry", group_id)
    assert "reclaim of 1 hosts is running: 1 running." in again
    newest = cli.json("group", "list")[0]["id"]
    with meanwhile(lambda: finish(database, rack["gpu-1"])):
        assert cli.json("group", "watch", newest)["state"] == "succeeded"
    skipped = cli.json("group", "retry", group_id, "--skipped")
    assert len(skipped["members"]) == 3
    assert "No more hosts are begun" in cli("group", "cancel", skipped["id"], "--running")
    assert cli.json("group", "show", skipped["id"])["cancel_requested"]


def test_what_destroys_asks_for_yes_and_for_hosts(cli: Cli, rack: dict[str, UUID]) -> None:
    assert "--yes" in cli.refused(*BULK, code=Exit.USAGE)
    assert "--name" in cli.refused("host", "bulk", "cordon", code=Exit.USAGE)
    assert cli.json("group", "list") == []
    assert "3 succeeded" in cli("host", "bulk", "cordon", "--label", "rack=b1")
    cli.refused("group", "show", "ffffff", code=Exit.NOT_FOUND)


def test_drain(cli: Cli, rack: dict[str, UUID]) -> None:
    assert cli("host", "drain", "gpu-1") == "gpu-1 is maintenance.\n"
    assert "--yes" in cli.refused("host", "drain", "gpu-2", "--to", "retired", code=Exit.USAGE)
    cli("allocate", "--gpus", "1")
    lent = next(row["name"] for row in cli.json("host", "list") if row["gpus_held"])
    assert cli("host", "drain", lent) == f"{lent} is allocated, cordoned; then maintenance.\n"
    assert cli.json("host", "uncordon", lent)["drains_to"] is None
