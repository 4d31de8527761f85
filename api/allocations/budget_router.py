"""HTTP of budgets and of use against limits, at every level; and what changes a workspace."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request

from api.allocations import budgeting, consumption, workspace_changes
from api.allocations.consumption_models import UsageRead
from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.workspaces import organisations, scopes, service, versions
from api.workspaces.limit_models import BudgetRead, BudgetSet
from api.workspaces.models import WorkspaceChange, WorkspaceRead
from api.workspaces.scopes import Scoped

router = APIRouter(prefix="/api/v1", tags=["budgets"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.WORKSPACES_READ)]
Claimer = Annotated[Actor, needs(Permission.ALLOCATIONS_CLAIM)]
Administrator = Annotated[Actor, needs(Permission.WORKSPACES_ADMINISTER)]
Reporter = Annotated[Actor, needs(Permission.REPORTS_READ)]
FAULTS = problems(401, 403, 404, 409, 422)
LOOKS = FAULTS | etags.NOT_MODIFIED
REFUSALS = problems(401, 403, 404, 409, 412, 422)
WORKSPACE, ORGANISATION = "/workspaces/{workspace}", "/organisations/{organisation}"
MEMBER = WORKSPACE + "/members/{user_id}"


@router.patch(WORKSPACE, tags=["workspaces"], summary="Change a workspace", responses=REFUSALS)
def change_workspace(workspace: str, asked: WorkspaceChange, tx: Tx, actor: Administrator) -> WorkspaceRead:
    """Its name, who must approve its claims, its organisation (which then counts what it holds, has promised
    and has used; refused where that is more than its limits), its time zone (from the next month on).
    """
    found = service.get(tx, actor, workspace)
    etags.check(tx, lambda: workspace_changes.locked_version(tx, found.id))
    changed = workspace_changes.change(tx, actor, found.id, asked)
    return etags.tag(tx, versions.of_workspace(changed), WorkspaceRead.model_validate(changed))


@router.get(WORKSPACE + "/budgets", summary="See a workspace's budgets", responses=LOOKS)
def get_budgets(workspace: str, tx: Tx, actor: Reader, request: Request) -> list[BudgetRead]:
    return _told(tx, _workspace(tx, actor, workspace), request)


@router.put(WORKSPACE + "/budgets", summary="Set a workspace's budgets", responses=REFUSALS)
def set_budgets(
    workspace: str, asked: BudgetSet, tx: Tx, actor: Administrator, request: Request
) -> list[BudgetRead]:
    return _set(tx, actor, _workspace(tx, actor, workspace), asked, request)


@router.get(MEMBER + "/budgets", summary="See a member's budgets", responses=LOOKS)
def get_member_budgets(
    workspace: str, user_id: UUID, tx: Tx, actor: Reader, request: Request
) -> list[BudgetRead]:
    """One's own, or anybody's for the workspace's owners and admins."""
    return _told(tx, _member(tx, actor, workspace, user_id), request)


@router.put(MEMBER + "/budgets", summary="Set a member's budgets", responses=REFUSALS)
def set_member_budgets(
    workspace: str, user_id: UUID, asked: BudgetSet, tx: Tx, actor: Claimer, request: Request
) -> list[BudgetRead]:
    """For the workspace's owners and admins, and administrators. They go with the membership."""
    scopes.check_runs(tx, actor, service.get(tx, actor, workspace))
    return _set(tx, actor, _member(tx, actor, workspace, user_id), asked, request)


@router.get(ORGANISATION + "/budgets", summary="See an organisation's budgets", responses=LOOKS)
def get_organisation_budgets(
    organisation: str, tx: Tx, actor: Reporter, request: Request
) -> list[BudgetRead]:
    return _told(tx, _organisation(tx, actor, organisation), request)


@router.put(ORGANISATION + "/budgets", summary="Set an organisation's budgets", responses=REFUSALS)
def set_organisation_budgets(
    organisation: str, asked: BudgetSet, tx: Tx, actor: Administrator, request: Request
) -> list[BudgetRead]:
    return _set(tx, actor, _organisation(tx, actor, organisation), asked, request)


@router.get(WORKSPACE + "/usage", summary="A workspace's use, and its forecast", responses=FAULTS)
def get_usage(workspace: str, tx: Tx, actor: Reader, request: Request) -> UsageRead:
    """Against quotas now, and of the month: used, committed to the planned ends, and forecast to its end:
    used + the larger of what is open (to its planned end) and the last 7 days' rate over the time left.
    """
    return consumption.usage(tx, _workspace(tx, actor, workspace), _currency(request))


@router.get(MEMBER + "/usage", summary="A member's use, and its forecast", responses=FAULTS)
def get_member_usage(workspace: str, user_id: UUID, tx: Tx, actor: Reader, request: Request) -> UsageRead:
    """One's own, or anybody's for the workspace's owners and admins."""
    return consumption.usage(tx, _member(tx, actor, workspace, user_id), _currency(request))


@router.get(ORGANISATION + "/usage", summary="An organisation's use, and its forecast", responses=FAULTS)
def get_organisation_usage(organisation: str, tx: Tx, actor: Reporter, request: Request) -> UsageRead:
    return consumption.usage(tx, _organisation(tx, actor, organisation), _currency(request))


def _workspace(tx: Tx, actor: Actor, workspace: str) -> Scoped:
    return scopes.of_workspace(service.get(tx, actor, workspace))


def _member(tx: Tx, actor: Actor, workspace: str, user_id: UUID) -> Scoped:
    return scopes.of_member(tx, actor, service.get(tx, actor, workspace), user_id)


def _organisation(tx: Tx, actor: Actor, organisation: str) -> Scoped:
    return scopes.of_organisation(tx, organisations.get(tx, actor, organisation))


def _set(tx: Tx, actor: Actor, scoped: Scoped, asked: BudgetSet, request: Request) -> list[BudgetRead]:
    etags.check(tx, lambda: budgeting.locked_version(tx, scoped))
    locked = scopes.lock(tx, scoped)
    budgeting.set_budgets(tx, actor, locked, asked)
    return _told(tx, locked, request)


def _told(tx: Tx, scoped: Scoped, request: Request) -> list[BudgetRead]:
    return etags.tag(tx, budgeting.version(tx, scoped), budgeting.read(tx, scoped, _currency(request)))


def _currency(request: Request) -> str:
    currency: str = request.app.state.settings.currency
    return currency
