"""What the database refuses by itself, whatever the code above it does."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from api.allocations.models import Allocation, Hold
from api.core.audit import AuditEvent
from api.core.db import Database, table
from api.core.ids import new_id
from api.fleet.models import Gpu, HostPeriod
from api.migrations import head
from api.settings import Settings
from api.workspaces.models import Budget, Quota, Scope, Spent
from tests.conftest import Client

HOLDS, GPUS = table(Hold), table(Gpu)


@pytest.fixture
def held(client: Client, fleet: Any) -> str:
    fleet("a")
    made: str = client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 2})["id"]
    return made


def execute(database: Database, *statements: sa.Executable) -> None:
    with database.transaction() as tx:
        for statement in statements:
            tx.execute(statement)


def refused(database: Database, *statements: sa.Executable) -> str:
    with pytest.raises(DBAPIError) as caught:
        execute(database, *statements)
    return str(caught.value.orig)


def another_hold(database: Database, **change: Any) -> sa.Insert:
    """A hold like the first one, by raw SQL."""
    with database.snapshot() as tx:
        row = dict(tx.execute(sa.select(HOLDS).order_by(HOLDS.c.id).limit(1)).mappings().one())
    return sa.insert(HOLDS).values(row | {"id": new_id()} | change)


def free_gpu(database: Database) -> uuid.UUID:
    with database.snapshot() as tx:
        found: uuid.UUID = tx.execute(
            sa.select(GPUS.c.id).where(GPUS.c.held_by.is_(None)).limit(1)
        ).scalar_one()
        return found


@pytest.mark.usefixtures("held")
def test_a_gpu_has_one_open_hold(database: Database) -> None:
    assert refused(database, another_hold(database))


@pytest.mark.usefixtures("held")
def test_closed_holds_of_a_gpu_do_not_overlap(database: Database) -> None:
    with database.snapshot() as tx:
        started = tx.execute(sa.select(HOLDS.c.started_at).limit(1)).scalar_one()
    later = started.replace(year=started.year + 1)
    earlier = started.replace(year=started.year - 1)
    assert refused(database, another_hold(database, started_at=earlier, ended_at=later))


@pytest.mark.usefixtures("held")
def test_a_hold_is_closed_once_and_never_edited_or_deleted(
    client: Client, database: Database, held: str
) -> None:
    for change in ({"started_at": None}, {"model": "other"}, {"gpu_id": free_gpu(database)}):
        assert refused(database, sa.update(HOLDS).values(**change))
    assert refused(database, sa.delete(HOLDS))
    client.ok("POST", f"/api/v1/allocations/{held}/release")
    assert refused(database, sa.update(HOLDS).values(ended_at=None))
    assert refused(database, sa.update(HOLDS).values(ended_at=sa.text("started_at")))


@pytest.mark.usefixtures("held")
def test_a_quota_cannot_be_overrun_by_raw_sql(client: Client, database: Database) -> None:
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 2})
    assert "quota" in refused(database, another_hold(database, gpu_id=free_gpu(database)))
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 3})
    with database.transaction() as tx:
        tx.execute(another_hold(database, gpu_id=free_gpu(database)))
    (row,) = client.ok("GET", "/api/v1/workspaces/default/quotas")
    assert row["gpus_held"] == 3


@pytest.mark.usefixtures("held")
def test_an_end_lies_after_its_start(database: Database) -> None:
    assert refused(database, sa.update(HOLDS).values(ended_at=HOLDS.c.started_at))
    open_period = sa.update(table(HostPeriod)).values(started_at=sa.text("'2090-01-01'"), ended_at=None)
    assert refused(database, open_period.values(ended_at=sa.text("'2000-01-01'")))
    assert refused(database, sa.update(table(Allocation)).values(state="released"))


@pytest.mark.usefixtures("held")
def test_the_audit_trail_is_only_appended_to(database: Database) -> None:
    events = table(AuditEvent)
    assert "appended" in refused(database, sa.update(events).values(actor="nobody"))
    assert "appended" in refused(database, sa.delete(events))


def test_references_hold(database: Database) -> None:
    nowhere = new_id()
    row = {"scope_id": nowhere, "scope": Scope.WORKSPACE, "workspace_id": nowhere, "hard_limit": 1, "used": 0}
    assert "foreign key" in refused(database, sa.insert(table(Quota)).values(row)).lower()
    budget = {"scope_id": nowhere, "scope": Scope.WORKSPACE, "workspace_id": nowhere, "resource": Spent.MONEY}
    assert "foreign key" in refused(database, sa.insert(table(Budget)).values(budget)).lower()


def test_both_engines_are_at_this_release(database: Database, settings: Settings) -> None:
    with database.snapshot() as tx:
        assert tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == head()
        queue = "dbos.workflow_status" if "postgresql" in settings.database else "workflow_status"
        assert tx.execute(sa.text(f"SELECT count(*) FROM {queue}")).scalar_one() == 0


def test_sqlite_is_set_up_for_many_processes(database: Database) -> None:
    if database.engine.dialect.name != "sqlite":
        pytest.skip("about SQLite")
    with database.snapshot() as tx:
        pragmas = {
            name: tx.execute(sa.text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30000}
