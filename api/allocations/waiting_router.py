"""HTTP of the queue."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from api.allocations import queue_reads
from api.allocations.waiting_models import QueueRead
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems

router = APIRouter(prefix="/api/v1/queue", tags=["allocations"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.ALLOCATIONS_READ)]


@router.get("", summary="Look at the queue", responses=problems(401, 403, 422))
def get_queue(
    tx: Tx,
    actor: Reader,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="the first so many that you may see")] = 200,
) -> QueueRead:
    """Claims that wait, in the order in which they are served. Members see those of their workspaces."""
    return queue_reads.queue(tx, actor, request.app.state.settings, limit=limit)
