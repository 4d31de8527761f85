from __future__ import annotations

import functools
import gc
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from api.core.db import Database
from api.identity import service as identity
from api.main import create_app
from api.migrations import upgrade
from api.settings import Settings
from tests.support import ledger
from tests.support.postgres import PostgresServer, memory, server_programs

ROOT = Path(__file__).resolve().parent.parent
SECRETS = ("token-secret", "encryption-secret", "proof-secret")


def pytest_collection_finish() -> None:
    """What is imported and collected stays until the end: full collections need not look at it each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """Argon2 at its weakest: its real cost is measured nowhere and paid in every test."""
    weak = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_hasher", lambda: weak)
        yield


@pytest.fixture(scope="session", autouse=True)
def _keys_are_derived_once() -> Iterator[None]:
    """The key that follows from a secret is always the same; `settings` gives all tests the same secrets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "scrypt", functools.cache(hashlib.scrypt))
        yield


@pytest.fixture(scope="session", autouse=True)
def _statements_are_compiled_once() -> Iterator[None]:
    """The platform's engines of one kind share a dialect and what it has compiled: each test has its own."""
    first: dict[str, sa.Engine] = {}
    create = sa.create_engine

    def create_engine(url: Any, **more: Any) -> sa.Engine:
        made = create(url, **more)
        if sys._getframe(1).f_globals["__name__"] != "api.core.db":
            return made
        known = first.get(made.dialect.name)
        if known is None or known.dialect.server_version_info is None:  # it has not connected yet
            first[made.dialect.name] = made
        else:
            made.dialect, made._compiled_cache = known.dialect, known._compiled_cache
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sa, "create_engine", create_engine)
        yield


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with nothing but a development platform's secrets."""
    made = Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("secrets"))
    for key in ("signing_key", "encryption_key", "proof_key"):
        getattr(made, key)
    return made.data_dir


@pytest.fixture(scope="session")
def contracts() -> Path:
    """Recordings and specifications of others, kept beside the project."""
    place = Path(os.environ.get("IRONYARD_CONTRACTS", ROOT.parent / "shared" / "contracts"))
    if not place.is_dir():
        pytest.skip(f"the recorded contracts are not at {place} (set IRONYARD_CONTRACTS)")
    return place


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed (`make setup` as root installs them)")
    server = PostgresServer(programs, place=memory())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = postgres.create("template_ironyard")
    upgrade(Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("pg"), database_url=url))
    return "template_ironyard"


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("sqlite"))
    upgrade(settings)
    return settings.data_dir / "ironyard.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database of the test's own, on each engine in turn."""
    if request.param == "sqlite":
        copy = tmp_path / "ironyard.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), copy)
        yield f"sqlite:///{copy}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("migrated_postgres")
    name = f"test_{uuid.uuid4().hex}"
    yield server.create(name, template=template)
    server.drop(name)


@pytest.fixture
def settings(database_url: str, secrets: Path, tmp_path: Path) -> Settings:
    for name in SECRETS:
        shutil.copy(secrets / name, tmp_path)
    return Settings(_env_file=None, data_dir=tmp_path, database_url=database_url)


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    made = create_app(settings)
    yield made
    made.state.database.engine.dispose()


@pytest.fixture
def database(app: FastAPI) -> Database:
    made: Database = app.state.database
    return made


class Client(TestClient):
    """The app as the first administrator sees it."""

    password: str
    user_id: str

    def ok(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        """The answer's document; fails the test when the status is another."""
        response = self.request(method, path, **more)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    def problem(self, method: str, path: str, status: int, code: str, **more: Any) -> dict[str, Any]:
        response = self.request(method, path, **more)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = response.json()
        assert document["code"] == code
        assert document["status"] == status
        return document

    def signed_in(self, email: str, password: str) -> Client:
        other = Client(self.app, raise_server_exceptions=False)
        token = other.ok("POST", "/api/v1/auth/token", json={"email": email, "password": password})
        other.headers["Authorization"] = f"Bearer {token['access_token']}"
        return other

    def outlast_sessions(self) -> None:
        """Go on with an API key: it does not end when a test sets the clock forward."""
        made = self.ok("POST", "/api/v1/api-keys", 201, json={"name": "time traveller"})
        self.headers["Authorization"] = f"Bearer {made['key']}"

    def as_new(self, role: str, email: str | None = None) -> Client:
        """Create a user with `role` and sign in as them."""
        email = email or f"{role}-{uuid.uuid4().hex[:6]}@example.org"
        made = self.ok("POST", "/api/v1/admin/users", 201, json={"email": email, "name": role, "role": role})
        other = self.signed_in(email, made["one_time_password"])
        other.user_id = made["id"]
        return other


@pytest.fixture
def client(app: FastAPI, database: Database) -> Client:
    user, password = ledger.first_administrator(database)
    made = Client(app, raise_server_exceptions=False).signed_in(user.email, password)
    made.password, made.user_id = password, str(user.id)
    return made


@pytest.fixture
def fleet(app: FastAPI, database: Database) -> Any:
    """`fleet(name, gpus=8)` puts an idle host into the ledger and returns its id."""
    number = iter(range(1, 250))

    def idle_host(name: str, **more: Any) -> uuid.UUID:
        return ledger.idle_host(database, app.state.secret_box, name, f"198.51.100.{next(number)}", **more)

    return idle_host
