"""The page on proof, followed as its reader would, with OpenSSL as the judge."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from api.core.access import Actor
from api.core.crypto import SecretBox
from api.core.db import Database, make_engine
from api.core.proof import SIGNER, Signer, canonical, digest
from api.fleet import proofs
from api.fleet import service as fleet
from api.fleet.lifecycle import Event
from api.identity import service as identity
from api.settings import Settings
from tests.docs import pages
from tests.docs.shell import Shell
from tests.docs.test_docs import environment
from tests.support import ledger
from tests.support.server import api_server

WRITTEN = ("record.json", "manifest.json", "keys.json", "signed.txt", "signature.bin", "key.der")


class _Later:
    """Nothing is to be run in the background here."""

    def enqueue(self, *_: object) -> None: ...


@pytest.fixture
def settings(tmp_path: Path, migrated_sqlite: Path) -> Settings:
    shutil.copy(migrated_sqlite, tmp_path / "ironyard.db")
    return Settings(_env_file=None, data_dir=tmp_path)


@pytest.mark.parametrize("names", [["/tmp/a", "/home/ü"]])
def test_the_page_on_proof(settings: Settings, tmp_path: Path, names: list[str]) -> None:
    missing = [program for program in ("jq", "openssl", "basenc") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    key = _ledger(settings, names)
    with api_server(tmp_path, settings.database) as url:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = environment(IRONYARD_URL=url, IRONYARD_TOKEN=key, PATH=path)
        shell = Shell(tmp_path, own, {name: str(tmp_path / name) for name in WRITTEN})
        printed = [shell.follow(command) for command in pages.to_run(pages.PROOF)]
    manifest = {"of": "gpu-01"}
    assert printed[-1].split()[0] == digest(manifest)
    assert canonical(manifest) == b'{"of":"gpu-01"}'


def _ledger(settings: Settings, paths: list[str]) -> str:
    engine = make_engine(settings)
    database = Database(engine, dispatcher=_Later(), **{SIGNER: Signer(settings.proof_key)})
    user, _ = ledger.first_administrator(database)
    host = ledger.idle_host(database, SecretBox(settings.encryption_key), "gpu-01", "198.51.100.1")
    with database.transaction() as tx:
        fleet.request(tx, ledger.SYSTEM, host, Event.RECLAIM, fleet.RECLAIM)
    step = {"name": "wipe", "status": "ok", "removed": {"files": len(paths)}, "paths": {"files": paths}}
    ledger.finish(database, host, ledger.report("reclaim", steps=[step]))
    with database.transaction() as tx:
        assert proofs.record(tx, host, 2).removed == len(paths)
        _, key = identity.create_key(tx, Actor(user.email, user.role, user.id), "docs")
    engine.dispose()
    return key
