"""Telling holders that an allocation will end, and that its grace has begun: once for each planned end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.lifecycle import State
from api.allocations.models import Allocation
from api.core import clock, notices
from api.core.db import is_sqlite, table
from api.core.notices import Notice
from api.settings import Settings

EXPIRING, GRACE = "allocation.expiring", "allocation.grace_begun"
BATCH = 500
OWN = table(Allocation).c


def warn(tx: Session, settings: Settings) -> int:
    """Tell of what has come near its end, or past it, since the last time; how many notices are new.

    Of several warnings that are due at once, as after a pause of all workers, only the nearest is told.
    """
    now, told, nearer = clock.now(), 0, timedelta(0)
    for seconds in sorted(set(settings.expiry_warnings)):
        ahead = timedelta(seconds=seconds)
        near = sa.and_(OWN.expires_at > now + nearer, OWN.expires_at <= now + ahead, _longer(tx, ahead))
        for row in _untold(tx, EXPIRING, seconds, near):
            left = _text(row.expires_at - now)
            told += _tell(tx, EXPIRING, seconds, row, f"ends in {left}, at {_moment(row.expires_at)}.")
        nearer = ahead
    over = sa.and_(OWN.expires_at <= now, OWN.ends_at > now)
    for row in _untold(tx, GRACE, 0, over):
        text = f"is past its end; it keeps its GPUs until {_moment(row.ends_at)}, unless it is extended."
        told += _tell(tx, GRACE, 0, row, text)
    return told


def _longer(tx: Session, than: timedelta) -> sa.ColumnElement[bool]:
    """Nobody is warned of an end from the very begin."""
    if is_sqlite(tx):
        days = sa.func.julianday(OWN.expires_at) - sa.func.julianday(OWN.started_at)
        return days > (than.total_seconds() + 0.5) / 86400
    return OWN.expires_at - OWN.started_at > than + timedelta(seconds=0.5)


def _untold(tx: Session, kind: str, seconds: int, which: sa.ColumnElement[bool]) -> list[Any]:
    told = sa.exists().where(col(Notice.key) == _key_of_row(tx, kind, seconds))
    active = sa.select(table(Allocation)).where(OWN.state == State.ACTIVE, which, sa.not_(told))
    return list(tx.execute(active.order_by(OWN.expires_at).limit(BATCH)))


def _key(kind: str, seconds: int, row: Any) -> str:
    return f"{kind}:{row.id.hex}:{seconds}:{row.expires_at:%Y-%m-%dT%H:%M:%S.%f}"


def _key_of_row(tx: Session, kind: str, seconds: int) -> sa.ColumnElement[str]:
    """What `_key` makes, made by the database, so that only what is untold is read."""
    if is_sqlite(tx):
        own: sa.ColumnElement[str] = sa.type_coerce(OWN.id, sa.String())
        end: sa.ColumnElement[str] = sa.func.replace(sa.type_coerce(OWN.expires_at, sa.String()), " ", "T")
    else:
        own = sa.func.replace(sa.cast(OWN.id, sa.String()), "-", "")
        end = sa.func.to_char(sa.func.timezone("UTC", OWN.expires_at), 'YYYY-MM-DD"T"HH24:MI:SS.US')
    return sa.literal(f"{kind}:") + own + sa.literal(f":{seconds}:") + end


def _tell(tx: Session, kind: str, seconds: int, row: Any, text: str) -> bool:
    return notices.tell(
        tx,
        kind,
        _key(kind, seconds, row),
        row.id,
        f"Allocation {row.id} of {row.requested_by} {text}",
        workspace_id=row.workspace_id,
        user_id=row.requested_by_id,
        expires_at=row.expires_at.isoformat(),
        ends_at=row.ends_at.isoformat(),
        seconds_before=seconds,
    )


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _text(left: timedelta) -> str:
    """The largest units that matter: `6 d 23 h`, `59 min`."""
    minutes = int(left.total_seconds() // 60)
    parts = (("d", minutes // 1440), ("h", minutes // 60 % 24), ("min", minutes % 60))
    said = [f"{number} {unit}" for unit, number in parts if number]
    return " ".join(said[:2]) or "less than a minute"
