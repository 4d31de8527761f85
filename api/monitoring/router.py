"""HTTP of leaks: look for them, see them, decide about them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.pagination import Page, Pages, fetch
from api.monitoring import actions, looks, runner, service
from api.monitoring.lifecycle import SENTENCES, State
from api.monitoring.models import Decision, Finding, FindingRead, Kind, ScanAsked, ScanRead
from api.workspaces import service as workspaces

router = APIRouter(prefix="/api/v1", tags=["leaks"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.ALLOCATIONS_READ)]
Operator = Annotated[Actor, needs(Permission.FLEET_OPERATE)]
FAULTS = problems(401, 403, 404, 409, 412, 422)
SCAN_SECONDS = 30.0  # of measuring, while somebody waits
NO_MORE = ScanAsked()


@router.get("/leaks", summary="List findings, newest first", responses=problems(401, 403, 404, 422))
def list_findings(
    tx: Tx,
    pages: Pages,
    actor: Reader,
    kind: Annotated[Kind | None, Query()] = None,
    state: Annotated[list[State] | None, Query(description="may be repeated")] = None,
    workspace: Annotated[str | None, Query(description="slug or id")] = None,
    unresolved: Annotated[bool | None, Query(description="whether it is still there; absent: both")] = None,
) -> Page[FindingRead]:
    """Operators see all, others those of their workspaces."""
    workspace_id = workspaces.get(tx, actor, workspace).id if workspace is not None else None
    statement = service.matching(
        service.visible(actor), kind=kind, states=state, workspace_id=workspace_id, unresolved=unresolved
    )
    rows, following = fetch(tx, statement, col(Finding.id), pages, newest_first=True)
    return Page(items=_read(tx, rows), next_cursor=following)


@router.get(
    "/leaks/{finding_id}",
    summary="Look at one finding",
    responses=problems(401, 403, 404, 422) | etags.NOT_MODIFIED,
)
def get_finding(finding_id: UUID, tx: Tx, actor: Reader) -> FindingRead:
    return _tagged(tx, service.get(tx, actor, finding_id))


@router.post("/admin/leaks/scan", summary="Look for leaks now", responses=problems(401, 403, 422, 503))
def scan(request: Request, actor: Operator, asked: ScanAsked = NO_MORE) -> ScanRead:
    """Looks at the ledger and at Prometheus, warns, does what was announced, and tells what changed.

    Measuring takes half a minute at most; what was not measured by then stays as it was.
    """
    state = request.app.state
    found = runner.scan(state.database, state.settings, seconds=SCAN_SECONDS)
    if asked.hosts:
        look = partial(looks.look_at_all, actor=actor, settings=state.settings)
        found.group_id = state.database.run(look)
    return found


@router.post("/admin/leaks/{finding_id}/dismiss", summary="Accept a finding", responses=FAULTS)
def dismiss(finding_id: UUID, asked: Decision, tx: Tx, actor: Operator) -> FindingRead:
    """It is neither told again nor acted upon for as long as it lasts."""
    _as_seen(tx, finding_id)
    return _tagged(tx, service.dismiss(tx, actor, finding_id, asked.reason))


@router.post("/admin/leaks/{finding_id}/act", summary="Do what a finding asks for", responses=FAULTS)
def act(finding_id: UUID, asked: Decision, tx: Tx, actor: Operator) -> FindingRead:
    """At once, whatever its policy. `409` is `finding-needs-a-person` where the platform can do nothing."""
    _as_seen(tx, finding_id)
    return _tagged(tx, actions.act_now(tx, actor, finding_id, asked.reason))


def _as_seen(tx: Session, finding_id: UUID) -> None:
    etags.check(tx, lambda: service.version(service.lock(tx, finding_id)))


def _tagged(tx: Session, finding: Finding) -> FindingRead:
    tx.flush()
    return etags.tag(tx, service.version(finding), _read(tx, [finding])[0])


def _read(tx: Session, findings: Sequence[Finding]) -> list[FindingRead]:
    slugs = workspaces.slugs(tx, {row.workspace_id for row in findings if row.workspace_id})
    return [
        FindingRead.model_validate(
            row.model_dump()
            | {
                "workspace": slugs[row.workspace_id] if row.workspace_id else None,
                "state_meaning": SENTENCES[row.state],
            }
        )
        for row in findings
    ]
