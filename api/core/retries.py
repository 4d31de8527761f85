"""Running a whole transaction again when the database says that it lost a race, or was gone.

Only the whole is run again: a second attempt must not see what is left over of a first one.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from api.core import metrics
from api.core.errors import Problem, Unavailable

T = TypeVar("T")
log = logging.getLogger("ironyard.transactions")

RERUNS = 5
PAUSE = 0.01  # seconds at most before the first rerun, twice as long before each further one
RECONNECT = 0.5  # seconds
LOST_RACES = {"40001": "serialization", "40P01": "deadlock"}
# Somebody inserted the same between our look and our insert: a second look finds it, and says precisely what.
TWINS = frozenset({"23505", "23P01"})
TWIN, DISCONNECT, UNREACHABLE = "twin", "disconnect", "unreachable"


class Contended(Unavailable):
    code, title = "contended", "Too many change the same thing at the same moment"


class OutcomeUnknown(Unavailable):
    code, title = "outcome-unknown", "Whether the change was made is not known"


def committed(
    tx: Session,
    work: Callable[[], T],
    *,
    where: Callable[[], str],
    repeatable: bool = False,
    reading: bool = False,
    patience: float = 0.0,
) -> T:
    """What `work` returns, its transaction committed; after a lost race or a dead connection it runs again.

    `repeatable`: a second run finds what a first one committed and does not do it twice. `reading`: it
    changes nothing. `where` names the work in the metric. `patience`: seconds to wait for a database that
    takes no connections. Raises Contended after `RERUNS` reruns, and OutcomeUnknown when the connection broke
    while it committed.
    """
    attempts = _Attempts(repeatable=repeatable, reading=reading, patience=patience)
    while True:
        try:
            answer = work()
            tx.flush()
        except SQLAlchemyError as error:
            reason = attempts.why_again(error, committing=False)
        else:
            try:
                tx.commit()
            except SQLAlchemyError as error:
                reason = attempts.why_again(error, committing=True)
            else:
                return answer
        tx.close()
        metrics.TRANSACTION_RETRIES.labels(where(), reason).inc()
        attempts.pause(reason)


class _Attempts:
    """What went wrong so far with one piece of work."""

    def __init__(self, *, repeatable: bool, reading: bool, patience: float) -> None:
        self.until = time.monotonic() + patience
        self.repeatable = repeatable or reading
        self.reading = reading
        self.lost_commit = False
        self.reasons: list[str] = []

    def why_again(self, error: SQLAlchemyError, *, committing: bool) -> str:
        """The reason to run it again. Raises what to answer with when there is none."""
        cause = _cause(error)
        if cause is not None and cause.connection_invalidated and committing and not self.reading:
            self.lost_commit = True
        reason = self._reason(cause) if cause is not None else None
        if reason == UNREACHABLE:
            return reason
        if reason is None or len(self.reasons) == RERUNS:
            self._give_up(error, reason)
        self.reasons.append(reason)
        return reason

    def _reason(self, cause: DBAPIError) -> str | None:
        if cause.connection_invalidated:
            return DISCONNECT if self.repeatable or not self.lost_commit else None
        if _refused(cause):
            return UNREACHABLE if time.monotonic() < self.until else None
        state = getattr(cause.orig, "sqlstate", None)
        if state in TWINS:
            return None if TWIN in self.reasons else TWIN
        return LOST_RACES.get(state) if state else None

    def _give_up(self, error: SQLAlchemyError, reason: str | None) -> NoReturn:
        if self.lost_commit:
            log.error("the connection broke while a transaction committed", exc_info=error)
            raise _unknown(repeatable=self.repeatable) from error
        if reason in LOST_RACES.values():
            raise Contended(
                f"It was tried {RERUNS + 1} times and others were faster each time; nothing was changed. "
                "Try again in a moment."
            ) from error
        raise error

    def pause(self, reason: str) -> None:
        longest = RECONNECT if reason == UNREACHABLE else PAUSE * 2.0 ** len(self.reasons)
        time.sleep(random.uniform(longest / 4, longest))  # noqa: S311  no secret; it only keeps rivals apart


def _unknown(*, repeatable: bool) -> Problem:
    todo = (
        "Ask again with the same Idempotency-Key: it is then made once, or told of if it was made."
        if repeatable
        else "Look whether it was made before you ask again; with an Idempotency-Key asking again is safe."
    )
    return OutcomeUnknown(f"The connection to the database broke while the change was committed. {todo}")


def _refused(cause: DBAPIError) -> bool:
    """No connection was to be had, so there was no statement yet."""
    return cause.statement is None and isinstance(cause, OperationalError)


def _cause(error: BaseException | None) -> DBAPIError | None:
    """The database's own error behind one of SQLAlchemy's, such as that of a savepoint it could not end."""
    while error is not None and not isinstance(error, DBAPIError):
        error = error.__cause__ or error.__context__
    return error
