"""HTTP of offers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from api.allocations import offers
from api.allocations.offer_models import OfferList
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.moments import LONGEST
from api.providers.sources import Wish

router = APIRouter(prefix="/api/v1/offers", tags=["allocations"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.ALLOCATIONS_READ)]


@router.get("", summary="Rank what could be lent", responses=problems(401, 403, 422))
def list_offers(
    tx: Tx,
    actor: Reader,  # noqa: ARG001
    request: Request,
    gpus: Annotated[int, Query(ge=1, le=1024)] = 1,
    model: Annotated[str | None, Query(min_length=1, max_length=128)] = None,
    memory_mib: Annotated[int | None, Query(ge=1, description="of each GPU, at least")] = None,
    region: Annotated[
        str | None, Query(min_length=1, max_length=64, description="preferred; offers elsewhere rank lower")
    ] = None,
    same_host: Annotated[bool, Query()] = False,
    nvlink: Annotated[bool, Query(description="all in one NVLink domain")] = False,
    duration_seconds: Annotated[
        int | None, Query(ge=60, le=LONGEST, description="absent: what a claim lasts that names no end")
    ] = None,
) -> OfferList:
    """The best first, each with the factors of its score. A claim with `offer` takes one at its price.

    An offer holds nothing: whoever claims first has the GPUs.
    """
    state = request.app.state
    wish = Wish(gpus, model, memory_mib, region, same_host, nvlink)
    return offers.find(tx, wish, duration_seconds, state.sources, state.settings, state.secret_box)
