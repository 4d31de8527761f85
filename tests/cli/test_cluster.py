"""`ironyard tenancy`: the cluster that follows the ledger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from api.cli.exits import Exit
from api.core.db import Database
from api.core.operations import syncs
from api.core.operations.execution import Executor, Outcome
from api.core.operations.lifecycle import Event, State
from api.core.operations.models import Operation
from api.settings import Settings
from tests.cli.conftest import Cli, meanwhile

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path, database_url=database_url, tenancy_stack="lab")


class Handler:
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def prepare(self, tx: Any, operation: Operation) -> None:
        return None

    def act(self, work: Any, reporter: Any) -> Outcome:
        return self.outcome

    def apply(self, tx: Any, actor: Any, operation: Operation, outcome: Outcome) -> None:
        syncs.follow_up(tx, actor, operation)


def run_next(database: Database, outcome: Outcome) -> None:
    """As a worker does, once there is one that was asked for by hand."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with database.snapshot() as tx:
            rows = tx.execute(sa.select(Operation).where(Operation.state == State.QUEUED)).scalars()
            found = [row.id for row in rows if row.arguments.get("refresh")]
        for operation_id in found:
            Executor(database, {"tenancy": Handler(outcome)}, "w1", attempts=3).run(operation_id)
            return
        time.sleep(0.05)
    raise AssertionError("nobody asked for a sync")


def test_the_cluster_is_brought_in_line(cli: Cli, database: Database) -> None:
    with meanwhile(lambda: run_next(database, Outcome(Event.SUCCEED))):
        assert "tenancy lab: succeeded" in cli("tenancy", "sync")


def test_a_sync_that_fails_says_why_and_ends_with_1(cli: Cli, database: Database) -> None:
    with meanwhile(lambda: run_next(database, Outcome(Event.FAIL, "the cluster is away"))):
        cli("tenancy", "sync", code=Exit.FAILED)
    assert "tenancy of lab failed: the cluster is away" in cli.stderr


def test_one_that_ran_already_is_followed_by_the_one_asked_for(cli: Cli, database: Database) -> None:
    (running,) = cli.json("operations", "list", "--kind", "tenancy")

    class Slow(Handler):
        def act(self, work: Any, reporter: Any) -> Outcome:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with database.snapshot() as tx:
                    if syncs.AGAIN in tx.get_one(Operation, UUID(running["id"])).arguments:
                        return self.outcome
                time.sleep(0.05)
            raise AssertionError("nobody asked while it ran")

    def work() -> None:
        Executor(database, {"tenancy": Slow(Outcome(Event.FAIL, "old"))}, "w1", attempts=3).run(
            UUID(running["id"])
        )
        run_next(database, Outcome(Event.SUCCEED))

    with meanwhile(work):
        deadline = time.monotonic() + 60
        while cli.json("operations", "list", "--kind", "tenancy")[0]["state"] != "running":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found = cli.json("tenancy", "sync")
    assert found["id"] != running["id"]
    assert found["state"] == "succeeded"


def test_it_need_not_be_waited_for(cli: Cli) -> None:
    assert "ironyard operations watch" in cli("tenancy", "sync", "--no-wait")
    assert cli.json("tenancy", "sync", "--no-wait")["state"] == "queued"


def test_what_the_cluster_follows(cli: Cli) -> None:
    assert "admin@ironyard.local" in cli("tenancy", "show")
    assert cli.json("tenancy", "show")["workspaces"][0]["slug"] == "default"


class TestWithoutACluster:
    @pytest.fixture
    def settings(self, database_url: str, tmp_path: Path) -> Settings:
        return Settings(_env_file=None, data_dir=tmp_path, database_url=database_url)

    def test_it_says_what_to_set(self, cli: Cli) -> None:
        assert "IRONYARD_TENANCY_STACK" in cli.refused("tenancy", "sync", code=Exit.CONFLICT)
