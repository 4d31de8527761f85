"""The ledger as a cluster follows it, and the syncs that changes lead to."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy import event

from api.core.db import Database
from api.core.operations import syncs, workers
from api.core.operations.execution import Executor, Outcome
from api.core.operations.lifecycle import Event, State
from api.core.operations.models import Operation, Worker
from api.settings import Settings
from api.tenancy import queries, service
from api.tenancy.models import Tenancy
from stacks.tenancy.snapshot import Snapshot
from tests.conftest import Client
from tests.support.ledger import H100, SYSTEM

STACK = "lab"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path, database_url=database_url, tenancy_stack=STACK)


def all_syncs(database: Database) -> list[Operation]:
    with database.snapshot() as tx:
        own = sa.select(Operation).where(Operation.kind == service.KIND).order_by(Operation.id)
        return list(tx.execute(own).scalars())


def newest(database: Database) -> Operation:
    return all_syncs(database)[-1]


class Handler:
    """Does what the test tells it to while the sync runs."""

    def __init__(self, during: Any = lambda: None, outcome: Outcome | None = None) -> None:
        self.during = during
        self.outcome = outcome or Outcome(Event.SUCCEED)

    def prepare(self, tx: Any, operation: Operation) -> None:
        return None

    def act(self, work: Any, reporter: Any) -> Outcome:
        self.during()
        return self.outcome

    def apply(self, tx: Any, actor: Any, operation: Operation, outcome: Outcome) -> None:
        syncs.follow_up(tx, actor, operation)


def run(database: Database, **how: Any) -> None:
    """Run the sync that waits, as a worker does."""
    executor = Executor(database, {service.KIND: Handler(**how)}, "w1", attempts=3)
    executor.run(newest(database).id)


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    seen: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)
    yield seen
    event.remove(database.engine, "before_cursor_execute", count)


def test_one_document_says_who_may_hold_what_and_where(client: Client, fleet: Any) -> None:
    fleet("gpu-02", gpus=2)
    fleet("gpu-01", gpus=4, model="NVIDIA L40S", region="west")
    quota = {"gpus": 6, "models": {H100: 2}}
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json=quota)
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "audio", "name": "Audio", "gpus": 1})
    ada = client.as_new("member", "ada@example.org")
    client.ok("PUT", f"/api/v1/workspaces/default/members/{ada.user_id}", json={"role": "viewer"})
    client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 1, "model": H100})

    seen = client.ok("GET", "/api/v1/tenancy")
    assert [row["slug"] for row in seen["workspaces"]] == ["audio", "default"]
    default = seen["workspaces"][1]
    assert default["quota"] == quota
    assert default["members"] == [
        {"email": "ada@example.org", "role": "viewer"},
        {"email": "admin@ironyard.local", "role": "owner"},
    ]
    assert seen["hosts"] == [
        {
            "name": "gpu-01",
            "state": "idle",
            "region": "west",
            "models": ["NVIDIA L40S"],
            "gpus": 4,
            "workspaces": [],
        },
        {
            "name": "gpu-02",
            "state": "allocated",
            "region": "test",
            "models": [H100],
            "gpus": 2,
            "workspaces": ["default"],
        },
    ]
    assert seen == client.ok("GET", "/api/v1/tenancy")
    read = Snapshot.model_validate(seen)
    assert read.model_dump(mode="json") == seen, "the stack reads every member of the answer"


def test_a_suspended_member_is_no_member_of_the_cluster(client: Client) -> None:
    ada = client.as_new("member", "ada@example.org")
    client.ok("PUT", f"/api/v1/workspaces/default/members/{ada.user_id}", json={"role": "member"})
    client.ok("PATCH", f"/api/v1/admin/users/{ada.user_id}", json={"active": False})
    (default,) = client.ok("GET", "/api/v1/tenancy")["workspaces"]
    assert [row["email"] for row in default["members"]] == ["admin@ironyard.local"]


def test_retired_hosts_are_left_out(client: Client, fleet: Any) -> None:
    gone, _ = fleet("a"), fleet("b")
    client.ok("POST", f"/api/v1/admin/machines/{gone}/retire", 202)
    assert [row["name"] for row in client.ok("GET", "/api/v1/tenancy")["hosts"]] == ["b"]


@pytest.mark.parametrize(("role", "allowed"), [("viewer", False), ("member", False), ("operator", True)])
def test_operators_read_and_ask_for_it(client: Client, role: str, allowed: bool) -> None:
    other = client.as_new(role)
    assert (other.get("/api/v1/tenancy").status_code == 200) == allowed
    assert (other.post("/api/v1/tenancy/sync").status_code == 202) == allowed


def test_more_workspaces_are_not_more_statements(client: Client, database: Database, fleet: Any) -> None:
    def statements() -> int:
        with counted(database) as seen, database.snapshot() as tx:
            queries.freeze(tx)
            queries.tenancy(tx)
        return len(seen)

    few = statements()
    for number in range(4):
        fleet(f"host-{number}")
        body = {"slug": f"w{number}", "name": "w"}
        client.ok("POST", "/api/v1/workspaces", 201, json=body)
    assert statements() == few


def test_it_is_one_moment_whatever_happens_meanwhile(client: Client, database: Database) -> None:
    def what() -> Tenancy:
        with database.snapshot() as tx:
            queries.freeze(tx)
            return queries.tenancy(tx)

    before = what()
    with database.snapshot() as tx:
        queries.freeze(tx)
        tx.execute(sa.text("SELECT count(*) FROM workspaces")).one()
        client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "late", "name": "Late"})
        assert queries.tenancy(tx) == before
    assert [row.slug for row in what().workspaces] == ["default", "late"]


def change(client: Client, what: str) -> None:
    user = client.ok("GET", "/api/v1/admin/users")["items"][0]["id"]
    if what == "quota":
        client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 3})
    elif what == "workspace":
        client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "audio", "name": "Audio"})
    elif what == "role":
        client.ok("PUT", f"/api/v1/workspaces/default/members/{user}", json={"role": "admin"})
    elif what == "member":
        client.ok("DELETE", f"/api/v1/workspaces/default/members/{user}", 204)
    else:
        ada = client.as_new("member")
        client.ok("PATCH", f"/api/v1/admin/users/{ada.user_id}", json={"active": False})


@pytest.mark.parametrize("what", ["quota", "workspace", "role", "member", "suspension"])
def test_a_change_leads_to_a_sync(client: Client, database: Database, what: str) -> None:
    run_all(database)
    change(client, what)
    found = newest(database)
    assert (found.state, found.subject, found.arguments) == (State.QUEUED, STACK, {})


def test_gpus_that_come_and_go_lead_to_a_sync(client: Client, database: Database, fleet: Any) -> None:
    run_all(database)
    host = fleet("a")
    assert newest(database).state is State.QUEUED
    run_all(database)
    client.ok("POST", f"/api/v1/admin/machines/{host}/retire", 202)
    assert newest(database).state is State.QUEUED


def run_all(database: Database) -> None:
    while any(row.state is State.QUEUED for row in all_syncs(database)):
        run(database)


def test_changes_before_it_starts_share_one_sync(client: Client, database: Database) -> None:
    for what in ("quota", "workspace", "role"):
        change(client, what)
    assert len(all_syncs(database)) == 1


@pytest.mark.parametrize(
    "outcome", [Outcome(Event.SUCCEED), Outcome(Event.FAIL, "why"), Outcome(Event.CANCEL, "told to")]
)
def test_changes_while_it_runs_lead_to_one_more(client: Client, database: Database, outcome: Outcome) -> None:
    change(client, "quota")

    def meanwhile() -> None:
        change(client, "workspace")
        change(client, "role")
        assert len(all_syncs(database)) == 1

    run(database, during=meanwhile, outcome=outcome)
    first, second = all_syncs(database)
    assert first.state is not State.QUEUED
    assert (second.state, second.arguments) == (State.QUEUED, {})
    run(database)
    assert len(all_syncs(database)) == 2


def test_a_sync_that_is_cancelled_before_it_starts_loses_nothing(client: Client, database: Database) -> None:
    change(client, "quota")
    client.ok("POST", f"/api/v1/operations/{newest(database).id}/cancel", 202)
    change(client, "workspace")
    run(database, during=lambda: pytest.fail("it acted"))
    assert [row.state for row in all_syncs(database)] == [State.CANCELLED, State.QUEUED]


def test_a_change_that_is_rolled_back_leads_to_nothing(client: Client, database: Database) -> None:
    run_all(database)
    before = len(all_syncs(database))
    with database.transaction() as tx:
        syncs.changed(tx, SYSTEM)
        tx.rollback()
    assert len(all_syncs(database)) == before


def test_changes_at_the_same_time_share_one_sync(client: Client, database: Database) -> None:
    run_all(database)
    before = len(all_syncs(database))
    barrier, failures = threading.Barrier(4), []

    def one() -> None:
        try:
            barrier.wait()
            with database.transaction() as tx:
                syncs.changed(tx, SYSTEM)
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(all_syncs(database)) == before + 1


def test_an_end_and_a_change_at_the_same_time_lose_nothing(client: Client, database: Database) -> None:
    """The change waits for the end and begins a sync; it never joins the one that has ended."""
    for _ in range(5):
        change(client, "quota")
        started, waiting = threading.Event(), threading.Event()

        def late(waiting: threading.Event = waiting, started: threading.Event = started) -> None:
            started.wait()
            with database.transaction() as tx:
                waiting.set()
                syncs.changed(tx, SYSTEM)

        def until(waiting: threading.Event = waiting, started: threading.Event = started) -> None:
            started.set()
            waiting.wait()

        thread = threading.Thread(target=late)
        thread.start()
        run(database, during=until)
        thread.join()
        assert newest(database).state is State.QUEUED
        run(database)


def test_asking_by_hand_mends_the_cluster_too(client: Client, database: Database) -> None:
    change(client, "quota")
    asked = client.ok("POST", "/api/v1/tenancy/sync", 202)
    assert (asked["kind"], asked["subject"], asked["state"]) == ("tenancy", STACK, "queued")
    (waiting,) = all_syncs(database)
    assert (str(waiting.id), waiting.arguments) == (asked["id"], {"refresh": True})
    events = client.ok("GET", "/api/v1/admin/audit", params={"action": "tenancy.sync_requested"})["items"]
    assert [row["after"] for row in events] == [{"stack": STACK}]

    def meanwhile() -> None:
        assert client.ok("POST", "/api/v1/tenancy/sync", 202)["id"] == asked["id"]

    run(database, during=meanwhile)
    assert newest(database).arguments == {"refresh": True}


def test_what_failed_or_never_was_is_caught_up_with(
    client: Client, database: Database, settings: Settings
) -> None:
    def catch_up() -> int:
        before = len(all_syncs(database))
        with database.transaction() as tx:
            service.catch_up(tx, SYSTEM, settings)
        return len(all_syncs(database)) - before

    with database.transaction() as tx:
        tx.execute(sa.delete(Operation).where(Operation.kind == service.KIND))
    assert [catch_up(), catch_up()] == [1, 0]
    run(database, outcome=Outcome(Event.FAIL, "the cluster is away"))
    assert [catch_up(), catch_up()] == [1, 0]
    run(database)
    assert catch_up() == 0
    change(client, "quota")
    run(database, outcome=Outcome(Event.CANCEL, "told to"))
    assert catch_up() == 0


class TestWithoutACluster:
    @pytest.fixture
    def settings(self, database_url: str, tmp_path: Path) -> Settings:
        return Settings(_env_file=None, data_dir=tmp_path, database_url=database_url)

    def test_nothing_is_enqueued(self, client: Client, database: Database, settings: Settings) -> None:
        change(client, "quota")
        with database.transaction() as tx:
            service.catch_up(tx, SYSTEM, settings)
        assert all_syncs(database) == []
        assert client.ok("GET", "/api/v1/tenancy")["workspaces"]

    def test_asking_says_what_to_set(self, client: Client) -> None:
        problem = client.problem("POST", "/api/v1/tenancy/sync", 409, "tenancy-not-configured")
        assert "IRONYARD_TENANCY_STACK" in problem["detail"]


def test_machines_without_a_living_worker_are_dead(database: Database) -> None:
    with database.transaction() as tx:
        here = workers.register(tx)
        tx.add(Worker(id="a", machine="half", pid=1, recovered_by="x"))
        tx.add(Worker(id="b", machine="half", pid=1))
        tx.add(Worker(id="c", machine="gone", pid=1, recovered_by="x"))
        tx.add(Worker(id="d", machine="left", pid=1, stopped_at=here.started_at))
        tx.flush()
        assert workers.dead_machines(tx) == {"gone", "left"}


def test_production_needs_a_passphrase_for_a_stack() -> None:
    fit: dict[str, Any] = {
        "mode": "production",
        "token_secret": "t" * 40,
        "encryption_secret": "e" * 40,
        "proof_secret": "p" * 40,
        "database_url": "postgresql://db/ironyard",
        "tenancy_stack": "production",
    }
    with pytest.raises(ValidationError, match="IRONYARD_TENANCY_PASSPHRASE"):
        Settings(_env_file=None, **fit)
    made = Settings(_env_file=None, **fit, tenancy_passphrase="a passphrase")
    assert made.tenancy_key == "a passphrase"


@pytest.mark.parametrize("module", ["api.main", "api.worker", "api.cli.main"])
def test_pulumi_is_in_the_sync_s_own_process_alone(module: str) -> None:
    code = f"import {module}, sys; print(sorted({{'pulumi', 'grpc'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_stack_is_one_subject() -> None:
    assert service.subject("a") == service.subject("a") != service.subject("b")
    assert isinstance(service.subject("a"), UUID)
