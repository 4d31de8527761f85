"""HTTP of proof: a host's manifest, and the signed records of its reclaims."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response

from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.errors import NotFound
from api.core.http import problems
from api.core.pagination import Page, Pages
from api.fleet import proofs, service
from api.fleet.evidence import ManifestRead, RecordRead, RecordSummary

router = APIRouter(prefix="/api/v1/hosts/{host_id}", tags=["proof"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.FLEET_READ)]
Operator = Annotated[Actor, needs(Permission.FLEET_OPERATE)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
FAULTS = problems(401, 403, 404, 422)


@router.get("/reclaims", summary="List a host's reclaims, newest first", responses=FAULTS)
def list_reclaims(host_id: UUID, tx: Tx, pages: Pages, actor: Reader) -> Page[RecordSummary]:  # noqa: ARG001
    service.get(tx, host_id)
    items, following = proofs.records(tx, host_id, pages)
    return Page(items=items, next_cursor=following)


@router.get("/reclaims/{number}", summary="Read the signed record of a reclaim", responses=FAULTS)
def get_reclaim(host_id: UUID, number: Number, tx: Tx, actor: Operator) -> RecordRead:  # noqa: ARG001
    """What was found and removed, what was verified, by what. `ironyard proof verify` checks it offline."""
    return proofs.record(tx, host_id, number)


@router.get("/manifest", summary="Read what a host was when it was enrolled", responses=FAULTS)
def get_manifest(
    host_id: UUID,
    tx: Tx,
    actor: Operator,  # noqa: ARG001
    number: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="absent: the present one")] = None,
) -> ManifestRead:
    service.get(tx, host_id)
    return proofs.read_manifest(tx, host_id, number)


@router.get(
    "/manifest/index",
    summary="Read the table of a host's files",
    response_class=Response,
    responses=FAULTS | {200: {"content": {"application/x-xz": {}}}},
)
def get_index(host_id: UUID, tx: Tx, actor: Operator) -> Response:  # noqa: ARG001
    """The xz bytes that belong to the present manifest."""
    service.get(tx, host_id)
    found = proofs.index_of(tx, host_id)
    if found is None:
        raise NotFound("No index of this host was recorded; enroll it again.")
    return Response(found, media_type="application/x-xz")
