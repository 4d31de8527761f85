"""A furnished ledger for each try: built once an engine, then copied."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa
import time_machine
from sqlalchemy.orm import Session

from api.core.access import Actor, Role
from api.core.crypto import SecretBox
from api.core.db import Database, make_engine
from api.core.operations.background import DbosDispatcher
from api.core.operations.service import QUEUE
from api.core.proof import SIGNER, Signer
from api.fleet.models import Gpu, Host
from api.identity import service as identity
from api.identity.models import User, UserCreate
from api.migrations import upgrade
from api.providers import rates
from api.providers.models import RateSet
from api.settings import Settings
from api.workspaces import organisations
from api.workspaces import service as workspaces
from api.workspaces.models import OrganisationCreate, Workspace, WorkspaceCreate, WorkspaceRole
from tests.support import ledger
from tests.support.postgres import PostgresServer

BEGIN = datetime(2026, 3, 2, 8, tzinfo=UTC)
MODELS = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB")
HOSTS = ((4, MODELS[0]), (4, MODELS[0]), (2, MODELS[0]), (4, MODELS[1]))
SLUGS = ("red", "blue")
ORGANISATIONS = ("default", "labs")


@dataclass
class Stage:
    """A database of one try's own, and who uses it."""

    settings: Settings
    database: Database
    administrator: Actor
    members: dict[str, Actor]
    plain: Actor
    hosts: list[uuid.UUID]
    gpus: list[uuid.UUID]

    @property
    def sqlite(self) -> bool:
        return self.database.engine.dialect.name == "sqlite"


@dataclass
class Template:
    """Where copies come from, and what was changed about them on purpose."""

    directory: Path
    url: str
    server: PostgresServer | None

    @contextmanager
    def copy(self, *, without: Callable[[sa.Connection], None] | None = None) -> Iterator[Stage]:
        name = f"machine_{uuid.uuid4().hex}"
        if self.server is None:
            place = self.directory / f"{name}.db"
            shutil.copy(self.directory / "ironyard.db", place)
            url = f"sqlite:///{place}"
        else:
            url = self.server.create(name, template="machine_template")
        settings = Settings(_env_file=None, data_dir=self.directory, database_url=url)
        engine = make_engine(settings)
        try:
            if without is not None:
                with engine.begin() as connection:
                    without(connection)
            yield _open(settings, engine)
        finally:
            engine.dispose()
            if self.server is None:
                place.unlink()
            else:
                self.server.drop(name)


def furnish(directory: Path, server: PostgresServer | None) -> Template:
    url = server.create("machine_template") if server else f"sqlite:///{directory / 'ironyard.db'}"
    settings = Settings(_env_file=None, data_dir=directory, database_url=url)
    upgrade(settings)
    engine = make_engine(settings)
    with time_machine.travel(BEGIN, tick=False):
        _people(Database(engine))
        database = Database(engine, **{QUEUE: DbosDispatcher(engine), SIGNER: Signer(settings.proof_key)})
        for number, (gpus, model) in enumerate(HOSTS):
            box = SecretBox(settings.encryption_key)
            ledger.idle_host(database, box, f"h{number}", f"198.51.100.{number + 1}", gpus=gpus, model=model)
    engine.dispose()  # the last to leave a database of SQLite brings everything into its one file
    return Template(directory, url, server)


def _people(database: Database) -> None:
    user, _ = ledger.first_administrator(database)
    administrator = Actor(user.email, user.role, user.id)
    with database.transaction() as tx:
        plain = _member(tx, administrator, "plain")
        organisations.create(tx, administrator, OrganisationCreate(slug=ORGANISATIONS[1], name="Labs"))
        rates.append(tx, administrator, RateSet(per_gpu_hour=Decimal("1.234567")), "EUR")
    for slug in SLUGS:
        with database.transaction() as tx:
            asked = WorkspaceCreate(slug=slug, name=slug, gpus=8)
            made = workspaces.create(tx, administrator, asked, default_quota=0)
            owner = _member(tx, administrator, slug)
            workspaces.set_member(tx, administrator, made.id, owner, WorkspaceRole.OWNER)
            workspaces.set_member(tx, administrator, made.id, plain, WorkspaceRole.MEMBER)


def _member(tx: Session, administrator: Actor, name: str) -> uuid.UUID:
    wanted = UserCreate(email=f"{name}@example.org", name=name, role=Role.MEMBER)
    made, _ = identity.create_user(tx, administrator, wanted, lifetime=3600)
    tx.flush()
    return made.id


def _open(settings: Settings, engine: sa.Engine) -> Stage:
    database = Database(engine, **{QUEUE: DbosDispatcher(engine), SIGNER: Signer(settings.proof_key)})
    with database.snapshot() as tx:
        rows = tx.execute(sa.select(User)).scalars()
        users = {row.email: Actor(row.email, row.role, row.id) for row in rows}
        slugs = set(tx.execute(sa.select(Workspace.slug)).scalars())
        assert slugs >= set(SLUGS)
        return Stage(
            settings=settings,
            database=database,
            administrator=users["admin@ironyard.local"],
            members={slug: users[f"{slug}@example.org"] for slug in SLUGS},
            plain=users["plain@example.org"],
            hosts=list(tx.execute(sa.select(Host.id).order_by(Host.name)).scalars()),
            gpus=list(tx.execute(sa.select(Gpu.id).order_by(Gpu.id)).scalars()),
        )
