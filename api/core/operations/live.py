"""What happens in operations, as it happens: one poll of the database for all listeners of a process.

Several processes share the database, so nobody is told of a change by memory; an interval is what it costs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.db import Database
from api.core.operations.models import LogLineRead, Operation, OperationEvent

log = logging.getLogger("ironyard.live")
INTERVAL = 0.4  # seconds
BATCH = 500  # lines that one poll brings
CHUNK = 100  # listeners that one statement serves


@dataclass(frozen=True, slots=True)
class News:
    """New lines of an operation's log, and how it stands after them."""

    operation: Operation
    lines: list[LogLineRead]
    more: bool


@dataclass(slots=True, eq=False)
class _Listener:
    operation_id: UUID
    after: int
    loop: asyncio.AbstractEventLoop
    news: asyncio.Queue[News] = field(default_factory=lambda: asyncio.Queue(maxsize=2))

    def offer(self, found: News) -> None:
        """In the listener's loop. One that is slow to send is asked again later, from where it was."""
        if not self.news.full():
            self.news.put_nowait(found)


class Feed:
    """Follows operations for any number of listeners. Its thread lives as long as somebody listens."""

    def __init__(self, database: Database, interval: float = INTERVAL) -> None:
        self.database = database
        self.interval = interval
        self._listeners: set[_Listener] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    async def follow(self, operation_id: UUID, after: int) -> AsyncIterator[News]:
        """News of an operation from behind its line `after` on; without end."""
        listener = _Listener(operation_id, after, asyncio.get_running_loop())
        self._join(listener)
        try:
            while True:
                found = await listener.news.get()
                fresh = [line for line in found.lines if line.id > after]
                after = listener.after = max([after, *(line.id for line in fresh)])
                yield News(found.operation, fresh, found.more)
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _join(self, listener: _Listener) -> None:
        with self._lock:
            self._listeners.add(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="live", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            with self._lock:
                listeners = list(self._listeners)
                if not listeners:
                    self._thread = None
                    return
            try:
                self._poll(listeners)
            except Exception:
                log.exception("the operations could not be read; trying again")
            pause.wait(self.interval)

    def _poll(self, listeners: list[_Listener]) -> None:
        for start in range(0, len(listeners), CHUNK):
            chunk = listeners[start : start + CHUNK]
            with self.database.snapshot() as tx:
                found = _read(tx, chunk)
            for listener, news in zip(chunk, found, strict=True):
                if news is not None and not listener.loop.is_closed():
                    listener.loop.call_soon_threadsafe(listener.offer, news)


def _read(tx: Session, listeners: list[_Listener]) -> list[News | None]:
    """State first: a line that is not seen yet then belongs to an operation that has not ended yet."""
    wanted = {listener.operation_id for listener in listeners}
    found = tx.execute(sa.select(Operation).where(col(Operation.id).in_(wanted))).scalars()
    operations = {row.id: row for row in found}
    rows = _lines(tx, listeners)
    lines: dict[UUID, list[LogLineRead]] = {}
    for row in rows:
        lines.setdefault(row.operation_id, []).append(LogLineRead.model_validate(row))
    more = len(rows) == BATCH
    return [
        News(operations[listener.operation_id], lines.get(listener.operation_id, []), more)
        if listener.operation_id in operations
        else None
        for listener in listeners
    ]


def _lines(tx: Session, listeners: Iterable[_Listener]) -> list[OperationEvent]:
    behind = (
        sa.and_(
            col(OperationEvent.operation_id) == listener.operation_id, col(OperationEvent.id) > listener.after
        )
        for listener in listeners
    )
    statement = sa.select(OperationEvent).where(sa.or_(*behind)).order_by(col(OperationEvent.id))
    return list(tx.execute(statement.limit(BATCH)).scalars())
