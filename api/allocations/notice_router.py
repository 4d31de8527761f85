"""HTTP of notices: what somebody should know of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Query
from pydantic import BaseModel
from pydantic import Field as Member
from sqlmodel import col

from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.notices import Notice
from api.core.pagination import Page, Pages, fetch
from api.workspaces import service as workspaces

router = APIRouter(prefix="/api/v1", tags=["notices"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.ALLOCATIONS_READ)]


class NoticeRead(BaseModel):
    id: UUID
    at: datetime
    kind: str = Member(description="such as `allocation.expiring`")
    subject_id: UUID = Member(description="of the allocation, budget or other thing that it is about")
    workspace_id: UUID | None
    user_id: UUID | None = Member(description="whom it is for, where it is for one member")
    text: str
    facts: dict[str, Any]


@router.get("/notices", summary="List notices, newest first", responses=problems(401, 403, 404, 422))
def list_notices(
    tx: Tx,
    pages: Pages,
    actor: Reader,
    *,
    kind: Annotated[str | None, Query(max_length=64)] = None,
    subject_id: Annotated[UUID | None, Query()] = None,
    workspace: Annotated[str | None, Query(description="slug or id")] = None,
) -> Page[NoticeRead]:
    """Of your own workspaces, and those for you; operators see all."""
    statement = sa.select(Notice)
    if not actor.operates:
        own = col(Notice.workspace_id).in_(workspaces.visible_ids(actor))
        statement = statement.where(sa.or_(own, col(Notice.user_id) == actor.user_id))
    if kind is not None:
        statement = statement.where(col(Notice.kind) == kind)
    if subject_id is not None:
        statement = statement.where(col(Notice.subject_id) == subject_id)
    if workspace is not None:
        found = workspaces.get(tx, actor, workspace)
        statement = statement.where(col(Notice.workspace_id) == found.id)
    rows, following = fetch(tx, statement, col(Notice.id), pages, newest_first=True)
    items = [NoticeRead.model_validate(row, from_attributes=True) for row in rows]
    return Page(items=items, next_cursor=following)
