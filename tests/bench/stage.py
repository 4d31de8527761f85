"""A ledger with hosts in it, on a database server of its own, for the benchmarks."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
import psycopg

from api.core.access import Actor
from api.core.crypto import SecretBox
from api.core.db import Database, make_engine
from api.core.operations.background import DbosDispatcher
from api.core.operations.service import QUEUE
from api.core.proof import SIGNER, Signer
from api.identity import service as identity
from api.migrations import upgrade
from api.settings import Settings
from api.workspaces import service as workspaces
from api.workspaces.models import WorkspaceCreate
from tests.bench import bulk
from tests.bench.load import family
from tests.support import ledger
from tests.support.postgres import PostgresServer, server_programs

GPUS = 8  # of each host
UNBOUND = 1_000_000


@dataclass
class Stage:
    """A database with hosts in it and one key and workspace a client."""

    engine: str
    url: str
    directory: Path
    database: Database
    box: SecretBox
    keys: list[str]
    first_host: UUID | None
    gpus: int
    postgres: PostgresServer | None

    def processes(self) -> list[psutil.Process]:
        """Those of the database server; SQLite has none."""
        return family(self.postgres.pid()) if self.postgres else []

    def settle(self) -> None:
        """What autovacuum and the checkpointer do within minutes of a load."""
        if self.postgres:
            with psycopg.connect(self.url, autocommit=True) as server:
                server.execute("VACUUM ANALYZE")
                server.execute("CHECKPOINT")
            return
        with closing(sqlite3.connect(self.directory / "ironyard.db", isolation_level=None)) as file:
            file.execute("ANALYZE")
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy(self, name: str) -> str:
        """The URL of a second database that is as this one is now; nobody else may be using it."""
        self.database.engine.dispose()
        if self.postgres:
            return self.postgres.create(name, template="bench")
        twin = self.directory / f"{name}.db"
        shutil.copy(self.directory / "ironyard.db", twin)
        return f"sqlite:///{twin}"


@contextmanager
def stage(engine: str, *, clients: int, hosts: int, server_options: tuple[str, ...] = ()) -> Iterator[Stage]:
    server = None
    with tempfile.TemporaryDirectory(prefix="ironyard-bench-", ignore_cleanup_errors=True) as place:
        directory = Path(place)
        url = f"sqlite:///{directory / 'ironyard.db'}"
        if engine == "postgresql":
            programs = server_programs()
            if programs is None:
                sys.exit("PostgreSQL's server programs are not installed; try --engine sqlite.")
            server = PostgresServer(programs, *server_options)
            server.start()
            url = server.create("bench")
        try:
            made = _furnish(engine, url, directory, server, clients, hosts)
            try:
                yield made
            finally:
                made.database.engine.dispose()
        finally:
            if server is not None:
                server.stop()


def _furnish(
    engine: str, url: str, directory: Path, server: PostgresServer | None, clients: int, hosts: int
) -> Stage:
    settings = Settings(_env_file=None, data_dir=directory, database_url=url)
    upgrade(settings)
    sql = make_engine(settings)
    database = Database(sql, **{QUEUE: DbosDispatcher(sql), SIGNER: Signer(settings.proof_key)})
    box = SecretBox(settings.encryption_key)
    user, _ = ledger.first_administrator(database, quota=UNBOUND)
    actor = Actor(user.email, user.role, user.id)
    keys = []
    with database.transaction() as tx:
        for number in range(clients):
            asked = WorkspaceCreate(slug=f"w{number}", name=f"w{number}", gpus=UNBOUND)
            workspaces.create(tx, actor, asked, default_quota=0)
            keys.append(identity.create_key(tx, actor, f"bench {number}")[1])
    first = ledger.idle_host(database, box, "h0", "10.0.0.0", gpus=GPUS) if hosts else None
    if first:
        bulk.hosts(database, first, hosts - 1)
    made = Stage(engine, url, directory, database, box, keys, first, hosts * GPUS, server)
    made.settle()
    return made
