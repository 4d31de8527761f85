"""HTTP of one host's use and of what happened to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from api.billing.hosts import HostUsage, host_usage
from api.core import clock
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.moments import Moment
from api.core.pagination import Page, Pages
from api.fleet import history, service

router = APIRouter(prefix="/api/v1/hosts/{host_id}", tags=["fleet"], route_class=TransactionalRoute)
FAULTS = problems(401, 403, 404, 422)
MONTH = timedelta(days=30)


@router.get("/usage", summary="How a host's time was spent", responses=FAULTS)
def get_usage(
    host_id: UUID,
    tx: Tx,
    actor: Annotated[Actor, needs(Permission.FLEET_READ)],  # noqa: ARG001
    start: Annotated[Moment | None, Query(alias="from", description="absent: 30 days before")] = None,
    end: Annotated[Moment | None, Query(alias="to", description="absent: now")] = None,
) -> HostUsage:
    until = end or clock.now()
    return host_usage(tx, service.get(tx, host_id), start or until - MONTH, until)


@router.get("/log", summary="What happened to a host, newest first", responses=FAULTS)
def get_log(
    host_id: UUID,
    tx: Tx,
    pages: Pages,
    actor: Annotated[Actor, needs(Permission.FLEET_OPERATE)],  # noqa: ARG001
    source: Annotated[history.Source | None, Query(description="absent: all")] = None,
) -> Page[history.HistoryEntry]:
    """Audited changes, operations, and the health checks that did not pass."""
    service.get(tx, host_id)
    items, following = history.entries(tx, host_id, pages, source)
    return Page(items=items, next_cursor=following)
