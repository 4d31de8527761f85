"""HTTP of health checks."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.operations.models import OperationRead
from api.core.pagination import Page, Pages
from api.fleet import health
from api.fleet.health_models import HealthCheckAsked, HealthCheckRead
from api.fleet.router import REFUSALS, Operator, Reader, as_seen

router = APIRouter(prefix="/api/v1", tags=["fleet"], route_class=TransactionalRoute)

LIGHT = HealthCheckAsked()


@router.post(
    "/hosts/{host_id}/health-checks", status_code=202, summary="Check a host's health", responses=REFUSALS
)
def check(host_id: UUID, tx: Tx, actor: Operator, asked: HealthCheckAsked = LIGHT) -> OperationRead:
    """A claim or reclaim in the meantime calls it off. On a host with lent GPUs only level 0 is done."""
    as_seen(tx, host_id)
    return OperationRead.model_validate(health.request(tx, actor, host_id, asked.level))


@router.get(
    "/hosts/{host_id}/health-checks",
    summary="List a host's health checks, newest first",
    responses=problems(401, 403, 404, 422),
)
def list_checks(host_id: UUID, tx: Tx, pages: Pages, actor: Reader) -> Page[HealthCheckRead]:  # noqa: ARG001
    items, following = health.history(tx, pages, host_id)
    return Page(items=items, next_cursor=following)
