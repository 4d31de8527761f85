"""Fair shares: what workspaces have used lately."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations.models import Hold
from api.core.columns import UtcDateTime
from api.core.db import is_sqlite, table

HOLDS = table(Hold)
DAY = 86400


def used(tx: Session, workspace_ids: Collection[UUID], since: datetime, now: datetime) -> dict[UUID, int]:
    """GPU-seconds of each workspace in `[since, now)`; what still runs counts up to now."""
    begin, end = (sa.literal(moment, UtcDateTime) for moment in (since, now))
    ended = sa.func.coalesce(HOLDS.c.ended_at, end)
    seconds = _sqlite(begin, end, ended) if is_sqlite(tx) else _postgresql(begin, end, ended)
    own = HOLDS.c.workspace_id.in_(workspace_ids)
    recent = sa.or_(HOLDS.c.ended_at.is_(None), HOLDS.c.ended_at > since)
    rows = tx.execute(
        sa.select(HOLDS.c.workspace_id, sa.func.sum(seconds).label("seconds"))
        .where(own, recent, HOLDS.c.started_at < now)
        .group_by(HOLDS.c.workspace_id)
    )
    found = {row.workspace_id: round(row.seconds) for row in rows}
    return {workspace_id: found.get(workspace_id, 0) for workspace_id in workspace_ids}


def _sqlite(begin: Any, end: Any, ended: Any) -> sa.ColumnElement[Any]:
    spent = sa.func.julianday(sa.func.min(ended, end)) - sa.func.julianday(
        sa.func.max(HOLDS.c.started_at, begin)
    )
    return spent * DAY


def _postgresql(begin: Any, end: Any, ended: Any) -> sa.ColumnElement[Any]:
    return sa.extract("epoch", sa.func.least(ended, end) - sa.func.greatest(HOLDS.c.started_at, begin))
