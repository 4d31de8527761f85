"""HTTP of tenancy: the ledger as a cluster follows it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request

from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.operations.models import OperationRead
from api.tenancy import queries, service
from api.tenancy.models import Tenancy

router = APIRouter(prefix="/api/v1/tenancy", tags=["tenancy"], route_class=TransactionalRoute)
Operator = Annotated[Actor, needs(Permission.FLEET_OPERATE)]


@router.get(
    "", summary="Workspaces, quotas and hosts, as a cluster follows them", responses=problems(401, 403)
)
def get_tenancy(tx: Tx, actor: Operator) -> Tenancy:  # noqa: ARG001
    """One consistent moment of the ledger. `stacks/tenancy` reads it."""
    queries.freeze(tx)
    return queries.tenancy(tx)


@router.post(
    "/sync",
    status_code=202,
    summary="Bring the cluster in line with the ledger",
    responses=problems(401, 403, 409),
)
def sync(tx: Tx, actor: Operator, request: Request) -> OperationRead:
    """Changes do so by themselves; this also mends what was changed in the cluster by hand.

    One sync at a time: the answer is the one that waits, or runs and will be followed by another.
    """
    return OperationRead.model_validate(service.sync(tx, actor, request.app.state.settings))
