"""HTTP of the calendar: what is set aside for when."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from api.allocations import calendar
from api.allocations.calendar import ReservationRead
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.moments import Moment
from api.core.pagination import Page, Pages

router = APIRouter(prefix="/api/v1", tags=["allocations"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.ALLOCATIONS_READ)]


@router.get(
    "/reservations", summary="List reservations of GPUs, newest first", responses=problems(401, 403, 404, 422)
)
def list_reservations(
    tx: Tx,
    pages: Pages,
    actor: Reader,
    *,
    host_id: Annotated[UUID | None, Query()] = None,
    gpu_id: Annotated[UUID | None, Query()] = None,
    allocation_id: Annotated[UUID | None, Query()] = None,
    workspace: Annotated[str | None, Query(description="slug or id")] = None,
    begin: Annotated[
        Moment | None, Query(alias="from", description="windows that end after it, with the clean")
    ] = None,
    end: Annotated[Moment | None, Query(alias="to", description="windows that begin before it")] = None,
    closed: Annotated[bool, Query(description="those that were begun or given up as well")] = False,
) -> Page[ReservationRead]:
    """Of your own workspaces; operators see all."""
    wanted = calendar.Filters(host_id, gpu_id, allocation_id, workspace, begin, end, closed)
    return calendar.page(tx, actor, wanted, pages)
