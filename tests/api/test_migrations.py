"""A ledger of an earlier release goes on with what it holds."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from api.core import proof
from api.core.db import Database, make_engine
from api.core.ids import new_id
from api.fleet import proofs
from api.fleet.models import Host, ReclaimPolicy
from api.migrations import upgrade
from api.settings import Settings
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
