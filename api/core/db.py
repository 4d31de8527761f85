"""The engine and the one place where transactions begin and end."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import sqlalchemy as sa
from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import Session

from api.core import answers, idempotency, retries
from api.core.columns import Exact
from api.core.complaints import refuse_unknown_parameters
from api.core.exchange import REQUEST, RESPONSE, SAFE_METHODS, is_read, route_of

if TYPE_CHECKING:
    from sqlmodel import SQLModel

    from api.settings import Settings

BUSY_TIMEOUT_MS = 30_000
IDLE_SECONDS = 1.0  # after which a connection is tried before it is used: the server may have gone meanwhile
READ_ONLY = "ironyard_read_only"
T = TypeVar("T")


def make_engine(settings: Settings) -> sa.Engine:
    """An engine for SQLite (WAL, foreign keys on, `BEGIN IMMEDIATE` for writers) or PostgreSQL (a pool)."""
    url = sa.make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"check_same_thread": False}, pool_size=20)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = sa.create_engine(
        url, pool_size=settings.database_pool_size, max_overflow=settings.database_pool_size
    )
    event.listen(engine, "checkin", _put_back)
    event.listen(engine, "checkout", partial(_take_out, engine.dialect))
    return engine


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


def _put_back(_connection: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _take_out(dialect: sa.Dialect, connection: Any, record: Any, _proxy: Any) -> None:
    """Under load this asks the server nothing; after a quiet second it costs one round trip."""
    since = record.info.get("idle_since")
    if since is None or time.monotonic() - since < IDLE_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError("the database closed an idle connection") from error


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

    def run(
        self,
        work: Callable[[Session], T],
        *,
        reading: bool = False,
        repeatable: bool = False,
        patience: float = 0.0,
    ) -> T:
        """What `work` returns, committed; a lost race or a dead connection makes it run again, whole.

        The options are those of `retries.committed`, which tells what it raises.
        """
        engine = self.reading if reading else self.engine
        with Session(engine, expire_on_commit=False, info=dict(self.info)) as tx:
            return retries.committed(
                tx,
                partial(work, tx),
                where=partial(_name, work),
                reading=reading,
                repeatable=repeatable,
                patience=patience,
            )

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A transaction that only reads; on SQLite it does not queue behind the writer."""
        with Session(self.reading, expire_on_commit=False, info=dict(self.info)) as tx, tx.begin():
            yield tx


def _name(work: Callable[..., Any]) -> str:
    return str(getattr(getattr(work, "func", work), "__qualname__", "unnamed"))


async def session(request: Request, response: Response) -> AsyncIterator[Session]:
    """The request's transaction: begun at the first statement, committed before the response leaves.

    Opening a session touches no connection. A `TransactionalRoute` has committed in the endpoint's own thread
    already; another route's work is committed here, and that of an endpoint that failed is rolled back.
    """
    refuse_unknown_parameters(request)
    database: Database = request.app.state.database
    reads = request.method in SAFE_METHODS
    info = {**database.info, REQUEST: request, RESPONSE: response}
    if not reads and idempotency.HEADER in request.headers:
        info[idempotency.ASKED] = await idempotency.asked(request)
    tx = Session(database.reading if reads else database.engine, expire_on_commit=False, info=info)
    try:
        yield tx
        if tx.in_transaction():
            await run_in_threadpool(tx.commit)
    finally:
        if tx.in_transaction():
            await run_in_threadpool(tx.close)


class TransactionalRoute(APIRoute):
    """Commits when the endpoint has returned: one trip to a thread for both, no answer before the commit.

    After a lost race the endpoint runs again, with the same arguments and in a fresh transaction: it changes
    nothing but what its transaction takes back. One that changes something and knows its `actor` takes an
    Idempotency-Key; one that answers 412 takes `If-Match`, one that answers 304 `If-None-Match`.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        takes = inspect.signature(endpoint).parameters.keys()
        if "tx" in takes:
            changes = not SAFE_METHODS.issuperset(options.get("methods") or ["GET"])
            options = answers.described(options, keyed=changes and "actor" in takes)
            endpoint = self._committing(endpoint)
        super().__init__(path, endpoint, **options)

    def _committing(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(endpoint)
        def committing(*, tx: Session, **arguments: Any) -> Any:
            work = partial(endpoint, tx=tx, **arguments)
            asked, actor = tx.info.get(idempotency.ASKED), arguments.get("actor")
            keyed = asked is not None and actor is not None
            if asked is not None and actor is not None:
                work = partial(idempotency.once, tx, asked, actor, partial(self._answer, tx, work))
            return retries.committed(
                tx, work, where=partial(route_of, tx), repeatable=keyed, reading=is_read(tx)
            )

        return committing

    def _answer(self, tx: Session, work: Callable[[], Any]) -> Response:
        """What FastAPI would make of the endpoint's result, made while its transaction is open."""
        return answers.response(work(), self.response_model, self.status_code or 200, tx.info[RESPONSE])


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
            sa.select(*(_typed(f"{part}_{row}_{name}", into.c[name].type) for name in names))
            for row in range(rows)
        ]
        source = values[0] if rows == 1 else sa.union_all(*values)
        inserts.append(sa.insert(into).from_select(names, source, include_defaults=False))
    *others, last = inserts
    return last.add_cte(*(other.cte(f"part_{number}") for number, other in enumerate(others)))


def _typed(name: str, kind: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    """A parameter that PostgreSQL knows the type of, even where it is NULL."""
    bound = sa.bindparam(name, type_=kind)
    return sa.cast(bound, kind) if isinstance(kind, Exact) else bound
