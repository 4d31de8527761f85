"""HTTP of our own prices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlmodel import col

from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.pagination import Page, Pages, fetch
from api.providers import rates
from api.providers.models import Rate, RateRead, RateSet

router = APIRouter(prefix="/api/v1", tags=["rates"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.PROFILE)]
Administrator = Annotated[Actor, needs(Permission.WORKSPACES_ADMINISTER)]


@router.get("/rates", summary="List what our GPUs cost, newest first", responses=problems(401, 403, 422))
def list_rates(
    tx: Tx,
    pages: Pages,
    actor: Reader,  # noqa: ARG001
    current: Annotated[bool, Query(description="only those in force")] = False,
) -> Page[RateRead]:
    """The most exact one counts: for model and region, then model, then region, then neither."""
    rows, following = fetch(tx, rates.listed(current=current), col(Rate.id), pages, newest_first=True)
    return Page(items=[_read(row) for row in rows], next_cursor=following)


@router.post("/admin/rates", status_code=201, summary="Set a rate", responses=problems(401, 403, 409, 422))
def set_rate(asked: RateSet, tx: Tx, actor: Administrator, request: Request) -> RateRead:
    """From a moment on, which is not in the past. What is held or reserved keeps its price."""
    return _read(rates.append(tx, actor, asked, request.app.state.settings.currency))


def _read(row: Rate) -> RateRead:
    named = row.model_dump() | {"model": row.model or None, "region": row.region or None}
    return RateRead.model_validate(named)
