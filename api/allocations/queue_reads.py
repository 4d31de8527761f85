"""Reads of the queue: who waits, for what, and how long already."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations import waiting
from api.allocations.lifecycle import State
from api.allocations.models import Allocation
from api.allocations.waiting import Waiting
from api.allocations.waiting_models import QueuedRead, QueueRead
from api.core import clock
from api.core.access import Actor
from api.core.metrics import Rows
from api.workspaces import service as workspaces

if TYPE_CHECKING:
    from api.settings import Settings


def queue(tx: Session, actor: Actor, settings: Settings, *, limit: int) -> QueueRead:
    line = waiting.line(tx, settings)
    slugs = workspaces.slugs(tx, {one.allocation.workspace_id for one in line}) if line else {}
    seen = slugs.keys() if actor.operates else set(tx.execute(workspaces.visible_ids(actor)).scalars())
    own = [one for one in line if one.allocation.workspace_id in seen]
    items = [_read(one, slugs[one.allocation.workspace_id]) for one in own[:limit]]
    return QueueRead(length=len(line), items=items)


def _read(one: Waiting, workspace: str) -> QueuedRead:
    row, why = one.allocation, one.allocation.why or {}
    enough_at = why.get("enough_at")
    return QueuedRead(
        position=one.position,
        id=row.id,
        workspace_id=row.workspace_id,
        workspace=workspace,
        requested_by=row.requested_by,
        wanted=row.wanted,
        priority=row.priority,
        preemptible=row.preemptible,
        share_gpu_seconds=one.share,
        waits_for=why.get("waits_for"),
        detail=why.get("detail"),
        enough_at=datetime.fromisoformat(enough_at) if enough_at else None,
        yielding=len(why.get("yielding", [])),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def lengths(tx: Session) -> Rows:
    """How many wait, by priority."""
    return [((str(priority),), float(number)) for priority, number in sorted(_priorities(tx).items())]


def _priorities(tx: Session) -> Counter[int]:
    queued = sa.select(col(Allocation.priority)).where(col(Allocation.state) == State.QUEUED)
    return Counter(tx.execute(queued).scalars())


def oldest(tx: Session) -> Rows:
    """How long the oldest waits, in seconds; 0 when nobody does."""
    first = sa.select(sa.func.min(col(Allocation.created_at))).where(col(Allocation.state) == State.QUEUED)
    since: datetime | None = tx.execute(first).scalar_one()
    return [((), (clock.now() - since).total_seconds() if since else 0.0)]
