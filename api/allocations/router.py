"""HTTP of the ledger."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from sqlmodel import col

from api.allocations import changes, claims, discovery, history, queries, service, swift
from api.allocations.approval_models import ChangeRead, ChangeRequest, ChangeState, Kind
from api.allocations.lifecycle import State
from api.allocations.models import Allocation, AllocationRead, ClaimRequest, ExtendRequest
from api.allocations.offers import redeemed
from api.core import etags
from api.core.access import Actor, Permission, needs, needs_or_token
from api.core.db import TransactionalRoute, Tx
from api.core.exchange import RESPONSE
from api.core.http import problems
from api.core.pagination import Page, Pages, fetch
from api.fleet.models import Inventory, ScrapeTarget
from api.workspaces import service as workspaces

router = APIRouter(prefix="/api/v1", tags=["allocations"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.ALLOCATIONS_READ)]
Claimer = Annotated[Actor, needs(Permission.ALLOCATIONS_CLAIM)]
Operator = Annotated[Actor, needs(Permission.FLEET_OPERATE)]
Discoverer = Annotated[Actor | None, needs_or_token(Permission.FLEET_OPERATE, "discovery_token")]
FAULTS = problems(401, 403, 404, 409, 422)
REFUSALS = problems(401, 403, 404, 409, 412, 422)
OTHERWISE: dict[int | str, dict[str, Any]] = {
    200: {"model": AllocationRead, "description": "What a dry run would have led to"},
    202: {"model": AllocationRead, "description": "It waits, and holds nothing yet"},
}
OK, ACCEPTED = 200, 202
WAITS: dict[int | str, dict[str, Any]] = {
    ACCEPTED: {"model": ChangeRead, "description": "It waits for approval"}
}


@router.post(
    "/allocations",
    status_code=201,
    summary="Claim GPUs",
    responses=FAULTS | OTHERWISE,
)
def claim(
    asked: ClaimRequest,
    tx: Tx,
    actor: Claimer,
    request: Request,
    dry_run: Annotated[bool, Query(description="answer the same, and hold nothing")] = False,
) -> AllocationRead:
    """All of the GPUs or none. `409` is `quota-exceeded` or `capacity-exceeded`, with the numbers.

    With `wait` a claim that cannot be granted now is queued; `why` says what it waits for.
    """
    settings = request.app.state.settings
    asked, offer = redeemed(asked, request.app.state.secret_box)
    quickly = None if dry_run else swift.claim(tx, actor, asked, settings)
    if quickly is not None:
        return quickly
    made = claims.claim(tx, actor, asked, settings, offer=offer)
    if made.allocation.state in (State.QUEUED, State.REQUESTED):
        tx.info[RESPONSE].status_code = 202
    answer = queries.read(made.allocation, made.workspace, made.gpus, made.warnings)
    if dry_run:
        answer.dry_run = True
        tx.rollback()
        tx.info[RESPONSE].status_code = 200
    return answer


@router.get("/allocations", summary="List allocations, newest first", responses=problems(401, 403, 404, 422))
def list_allocations(
    tx: Tx,
    pages: Pages,
    actor: Reader,
    state: Annotated[State | None, Query()] = None,
    workspace: Annotated[str | None, Query(description="slug or id")] = None,
) -> Page[AllocationRead]:
    statement = service.visible(actor)
    if state is not None:
        statement = statement.where(col(Allocation.state) == state)
    if workspace is not None:
        found = workspaces.get(tx, actor, workspace)
        statement = statement.where(col(Allocation.workspace_id) == found.id)
    rows, following = fetch(tx, statement, col(Allocation.id), pages, newest_first=True)
    return Page(items=queries.with_gpus(tx, rows), next_cursor=following)


@router.get(
    "/allocations/{allocation_id}",
    summary="Look at one allocation",
    responses=problems(401, 403, 404, 422) | etags.NOT_MODIFIED,
)
def get_allocation(allocation_id: UUID, tx: Tx, actor: Reader) -> AllocationRead:
    return _read(tx, service.get(tx, actor, allocation_id))


def _read(tx: Tx, allocation: Allocation) -> AllocationRead:
    tx.flush()
    return etags.tag(tx, service.version(allocation), queries.with_gpus(tx, [allocation])[0])


@router.post("/allocations/{allocation_id}/release", summary="Give the GPUs back", responses=REFUSALS)
def release(allocation_id: UUID, tx: Tx, actor: Claimer) -> AllocationRead:
    """Ends the allocation; a host that nobody holds any more is reclaimed. Releasing twice is harmless."""
    service.check(tx, actor, allocation_id)
    return _read(tx, service.release(tx, actor, allocation_id))


@router.post("/allocations/{allocation_id}/extend", summary="Move the end", responses=REFUSALS | WAITS)
def extend(
    allocation_id: UUID, asked: ExtendRequest, tx: Tx, actor: Claimer, request: Request, response: Response
) -> AllocationRead | ChangeRead:
    """`202` with the change where somebody has to approve a later end first."""
    service.check(tx, actor, allocation_id)
    change = ChangeRequest(kind=Kind.EXTEND, expires_at=asked.expires_at)
    made = changes.ask(tx, actor, allocation_id, change, request.app.state.settings)
    waits = made.state is ChangeState.REQUESTED
    response.status_code = ACCEPTED if waits else OK
    return history.read_change(made) if waits else _read(tx, service.get(tx, actor, allocation_id))


@router.get("/inventory", tags=["fleet"], summary="The fleet as an inventory", responses=problems(401, 403))
def get_inventory(tx: Tx, actor: Operator) -> Inventory:  # noqa: ARG001
    """What the Ansible inventory plugin reads."""
    return queries.inventory(tx)


@router.get(
    "/discovery/prometheus/{exporter}",
    tags=["fleet"],
    summary="Targets for Prometheus's HTTP service discovery",
    responses=problems(401, 403, 404, 422),
)
def discover_targets(
    exporter: Annotated[str, Path(json_schema_extra={"enum": list(discovery.EXPORTERS)})],
    tx: Tx,
    actor: Discoverer,  # noqa: ARG001
    request: Request,
) -> list[ScrapeTarget]:
    """Every enrolled host. Operators and the holder of IRONYARD_DISCOVERY_TOKEN may ask."""
    return discovery.targets(tx, discovery.port_of(request.app.state.settings, exporter))
