"""HTTP of workspaces, members and quotas."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from sqlmodel import col

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.pagination import Page, Pages, fetch
from api.workspaces import service, versions
from api.workspaces.models import (
    Membership,
    MembershipRead,
    MembershipSet,
    Workspace,
    WorkspaceCreate,
    WorkspaceRead,
)

router = APIRouter(prefix="/api/v1/workspaces", tags=["workspaces"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.WORKSPACES_READ)]
Administrator = Annotated[Actor, needs(Permission.WORKSPACES_ADMINISTER)]
FAULTS = problems(401, 403, 404, 409, 422)
LOOKS = FAULTS | etags.NOT_MODIFIED
REFUSALS = problems(401, 403, 404, 409, 412, 422)


@router.get("", summary="List the workspaces that I see", responses=problems(401, 403, 422))
def list_workspaces(
    tx: Tx, pages: Pages, actor: Reader, slug: Annotated[str | None, Query()] = None
) -> Page[WorkspaceRead]:
    statement = service.visible(actor)
    if slug is not None:
        statement = statement.where(col(Workspace.slug) == slug)
    rows, following = fetch(tx, statement, col(Workspace.id), pages)
    return Page(items=[WorkspaceRead.model_validate(row) for row in rows], next_cursor=following)


@router.post("", status_code=201, summary="Create a workspace", responses=problems(401, 403, 409, 422))
def create_workspace(asked: WorkspaceCreate, tx: Tx, actor: Administrator, request: Request) -> WorkspaceRead:
    default = request.app.state.settings.default_gpu_quota
    return _workspace(tx, service.create(tx, actor, asked, default_quota=default))


@router.get("/{workspace}", summary="Look at one workspace", responses=LOOKS)
def get_workspace(workspace: str, tx: Tx, actor: Reader) -> WorkspaceRead:
    """By id or slug."""
    return _workspace(tx, service.get(tx, actor, workspace))


def _workspace(tx: Tx, row: Workspace) -> WorkspaceRead:
    return etags.tag(tx, versions.of_workspace(row), WorkspaceRead.model_validate(row))


@router.get("/{workspace}/members", summary="List members", responses=FAULTS)
def list_members(workspace: str, tx: Tx, actor: Reader) -> list[MembershipRead]:
    return service.members(tx, actor, service.get(tx, actor, workspace).id)


@router.get("/{workspace}/members/{user_id}", summary="Look at one member", responses=LOOKS)
def get_member(workspace: str, user_id: UUID, tx: Tx, actor: Reader) -> MembershipRead:
    found = service.get(tx, actor, workspace)
    return _member(tx, found.id, service.member(tx, actor, found.id, user_id))


@router.put("/{workspace}/members/{user_id}", summary="Add a member or change a role", responses=REFUSALS)
def set_member(
    workspace: str, user_id: UUID, asked: MembershipSet, tx: Tx, actor: Administrator
) -> MembershipRead:
    found = service.get(tx, actor, workspace)
    etags.check(tx, lambda: versions.locked_member(tx, found.id, user_id))
    return _member(tx, found.id, service.set_member(tx, actor, found.id, user_id, asked.role))


@router.delete(
    "/{workspace}/members/{user_id}", status_code=204, summary="Remove a member", responses=REFUSALS
)
def remove_member(workspace: str, user_id: UUID, tx: Tx, actor: Administrator) -> None:
    found = service.get(tx, actor, workspace)
    etags.check(tx, lambda: versions.locked_member(tx, found.id, user_id))
    service.remove_member(tx, actor, found.id, user_id)


def _member(tx: Tx, workspace_id: UUID, read: MembershipRead) -> MembershipRead:
    tx.flush()
    return etags.tag(tx, versions.of_member(tx.get_one(Membership, (workspace_id, read.user_id))), read)
