"""A ledger of an earlier release goes on with what it holds."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

from api import migrations
from api.core import proof
from api.core.db import Database, make_engine
from api.core.ids import new_id
from api.core.operations import background
from api.core.operations.models import Operation, OperationEvent
from api.fleet import proofs
from api.fleet.models import Host, ReclaimPolicy
from api.migrations import upgrade
from api.settings import Settings
from api.workspaces.models import Membership, Workspace
from tests.support.postgres import PostgresServer

INSERT = """INSERT INTO hosts (id, name, address, port, ssh_user, host_keys, region, labels, state,
    state_since, cordoned, manifest, created_at) VALUES (:id, :name, :name, 22, 'root', '[]', 'r', '{}',
    'idle', '2026-01-05 09:00:00', :no, :manifest, '2026-01-05 09:00:00')"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    if request.param == "sqlite":
        yield Settings(_env_file=None, data_dir=tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"migrated_{uuid.uuid4().hex}"
    yield Settings(_env_file=None, data_dir=tmp_path, database_url=server.create(name))
    server.drop(name)


def test_manifests_move_out_of_their_hosts(empty: Settings) -> None:
    upgrade(empty, "0002")
    engine = make_engine(empty)
    manifest = {"files": {"/etc/ü": [1, 2.5, None]}, "format": 1}
    with_one, without = new_id(), new_id()
    with engine.begin() as connection:
        for host, name, text in ((with_one, "a", json.dumps(manifest)), (without, "b", None)):
            key = host.hex if connection.dialect.name == "sqlite" else host
            row = {"id": key, "name": name, "manifest": text, "no": False}
            connection.execute(sa.text(INSERT), row)
    upgrade(empty)
    with Database(engine).snapshot() as tx:
        assert proofs.manifest_of(tx, with_one) == manifest
        kept = proofs.read_manifest(tx, with_one, None)
        assert (kept.number, kept.digest, kept.signature) == (1, proof.digest(manifest), None)
        assert proofs.manifest_of(tx, without) is None
        assert tx.get_one(Host, with_one).reclaim_policy is ReclaimPolicy.CLEAN
    engine.dispose()


def test_models_are_what_the_migrations_make(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # The background queue's tables are its own: without them nothing needs to be left out by name.
    monkeypatch.setattr(background, "migrate", lambda _: None)
    upgrade(empty)
    engine = make_engine(empty)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)
        checked = _checks(sa.inspect(connection))
    engine.dispose()
    assert not found, "\n".join(map(str, found))
    tables = SQLModel.metadata.tables.values()
    rules = [(table.name, rule) for table in tables for rule in table.constraints]
    assert checked == {(name, str(rule.name)) for name, rule in rules if isinstance(rule, sa.CheckConstraint)}


def _checks(inspector: sa.Inspector) -> set[tuple[str, str]]:
    """What Alembic does not compare: by name, since each engine prints a rule in its own words."""
    found = inspector.get_multi_check_constraints()
    return {(table, str(rule["name"])) for (_, table), rules in found.items() for rule in rules}


ROWS = (
    """INSERT INTO users (id, email, name, role, active, created_at, password_hash, token_generation)
        VALUES (:user, 'a@b.c', 'A', 'member', :yes, :at, 'x', 0)""",
    "INSERT INTO workspaces (id, slug, name, created_at) VALUES (:workspace, 'w', 'W', :at)",
    "INSERT INTO memberships (workspace_id, user_id, role) VALUES (:workspace, :user, 'owner')",
    """INSERT INTO operations (id, kind, subject_id, subject, state, progress, arguments, requested_by,
        requested_by_id, idempotency_key, created_at, attempt, cancel_requested)
        VALUES (:operation, 'host.enroll', :user, 'h', 'succeeded', 100, '{}',
        'a', :user, 'k', :at, 1, :no)""",
    "INSERT INTO operation_events (operation_id, at, status, message) VALUES (:operation, :at, 'ok', 'm')",
)


def test_tables_built_anew_keep_their_rows(empty: Settings) -> None:
    upgrade(empty, "0004")
    engine = make_engine(empty)
    ids = {name: new_id() for name in ("user", "workspace", "operation")}
    sqlite = engine.dialect.name == "sqlite"
    kept: dict[str, Any] = {name: key.hex if sqlite else key for name, key in ids.items()}
    with engine.begin() as connection:
        given = kept | {"at": "2026-01-05 09:00:00", "yes": True, "no": False}
        for statement in ROWS:
            named = {name: value for name, value in given.items() if f":{name}" in statement}
            connection.execute(sa.text(statement), named)
    upgrade(empty)
    with Database(engine).snapshot() as tx:
        member = tx.execute(sa.select(Membership)).scalar_one()
        assert (member.workspace_id, member.user_id) == (ids["workspace"], ids["user"])
        assert member.id is not None
        assert tx.get_one(Workspace, ids["workspace"]).organisation_id is not None
        assert tx.get_one(Operation, ids["operation"]).requested_by_id == ids["user"]
        assert tx.execute(sa.select(OperationEvent)).scalar_one().operation_id == ids["operation"]
    engine.dispose()


def test_the_last_steps_can_be_taken_back(empty: Settings) -> None:
    upgrade(empty)
    engine, made = make_engine(empty), migrations.config()
    with engine.begin() as connection:
        made.attributes["connection"] = connection
        command.downgrade(made, "0008")
        inspector = sa.inspect(connection)
        assert "idempotency_key" in {column["name"] for column in inspector.get_columns("operations")}
        assert "uq_operations_open_subject" in {
            found["name"] for found in inspector.get_indexes("operations")
        }
    upgrade(empty)
    with engine.connect() as connection:
        found = {column["name"] for column in sa.inspect(connection).get_columns("operations")}
        assert "idempotency_key" not in found
    engine.dispose()
