"""The engine and the one place where transactions begin and end."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Annotated, Any, cast

import sqlalchemy as sa
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
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


async def session(request: Request) -> AsyncIterator[Session]:
    """The request's transaction: begun at the first statement, committed before the response leaves.

    Opening a session touches no connection. A `TransactionalRoute` has committed in the endpoint's own thread
    already; another route's work is committed here, and that of an endpoint that failed is rolled back.
    """
    database: Database = request.app.state.database
    engine = database.reading if request.method in SAFE_METHODS else database.engine
    tx = Session(engine, expire_on_commit=False, info=dict(database.info))
    try:
        yield tx
        if tx.in_transaction():
            await run_in_threadpool(tx.commit)
    finally:
        if tx.in_transaction():
            await run_in_threadpool(tx.close)


class TransactionalRoute(APIRoute):
    """Commits when the endpoint has returned: one trip to a thread for both, no answer before the commit."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _committing(endpoint), **options)


def _committing(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    if "tx" not in inspect.signature(endpoint).parameters:
        return endpoint

    @wraps(endpoint)
    def committing(*, tx: Session, **arguments: Any) -> Any:
        answer = endpoint(tx=tx, **arguments)
        tx.commit()
        return answer

    return committing


Tx = Annotated[Session, Depends(session, scope="function")]


def table(model: type[SQLModel]) -> sa.Table:
    """The Core table behind a model, for statements that leave the ORM out."""
    return cast("sa.Table", model.__table__)  # type: ignore[attr-defined]


def is_sqlite(tx: Session) -> bool:
    return tx.get_bind().dialect.name == "sqlite"


def insert_together(tx: Session, *parts: tuple[sa.Table, list[dict[str, Any]]]) -> None:
    """Insert rows into several tables; on PostgreSQL in one statement, since round trips are what it costs.

    All rows of a part must have the same columns. Foreign keys among the parts hold at the statement's end.
    """
    if is_sqlite(tx):
        for into, rows in parts:
            tx.execute(sa.insert(into), rows)
        return
    shape = tuple((into, tuple(rows[0]), len(rows)) for into, rows in parts)
    parameters = {
        f"{part}_{row}_{name}": value
        for part, (_, rows) in enumerate(parts)
        for row, values in enumerate(rows)
        for name, value in values.items()
    }
    tx.execute(_insert_statement(shape), parameters)


@lru_cache(maxsize=256)
def _insert_statement(shape: tuple[tuple[sa.Table, tuple[str, ...], int], ...]) -> sa.Insert:
    inserts = []
    for part, (into, names, rows) in enumerate(shape):
        values = [
            sa.select(*(sa.bindparam(f"{part}_{row}_{name}", type_=into.c[name].type) for name in names))
            for row in range(rows)
        ]
        source = values[0] if rows == 1 else sa.union_all(*values)
        inserts.append(sa.insert(into).from_select(names, source, include_defaults=False))
    *others, last = inserts
    return last.add_cte(*(other.cte(f"part_{number}") for number, other in enumerate(others)))
