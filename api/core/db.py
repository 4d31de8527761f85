"""The engine and the one place where transactions begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

import sqlalchemy as sa
from fastapi import Depends, Request
from sqlalchemy import event
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from sqlmodel import SQLModel

    from api.settings import Settings

BUSY_TIMEOUT_MS = 30_000
READ_ONLY = "ironyard_read_only"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def make_engine(settings: Settings) -> sa.Engine:
    """An engine for SQLite (WAL, foreign keys on, `BEGIN IMMEDIATE` for writers) or PostgreSQL (a pool)."""
    url = sa.make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"check_same_thread": False}, pool_size=20)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return sa.create_engine(
        url,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_size,
        pool_pre_ping=False,
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Database:
    """The engine, and what a transaction carries along (the background queue to enqueue into)."""

    def __init__(self, engine: sa.Engine, **info: Any) -> None:
        self.engine = engine
        self.reading = engine.execution_options(**{READ_ONLY: True})
        self.info = info

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False, info=dict(self.info)) as tx, tx.begin():
            yield tx

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A transaction that only reads; on SQLite it does not queue behind the writer."""
        with Session(self.reading, expire_on_commit=False, info=dict(self.info)) as tx, tx.begin():
            yield tx


def session(request: Request) -> Iterator[Session]:
    database: Database = request.app.state.database
    begin = database.snapshot if request.method in SAFE_METHODS else database.transaction
    with begin() as tx:
        yield tx


Tx = Annotated[Session, Depends(session, scope="function")]


def table(model: type[SQLModel]) -> sa.Table:
    """The Core table behind a model, for statements that leave the ORM out."""
    return cast("sa.Table", model.__table__)  # type: ignore[attr-defined]


def is_sqlite(tx: Session) -> bool:
    return tx.get_bind().dialect.name == "sqlite"
