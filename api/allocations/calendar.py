"""Reads of what is set aside for when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel
from pydantic import Field as Member
from sqlalchemy.orm import Session
from sqlmodel import col

from api.allocations.models import Reservation
from api.core.access import Actor
from api.core.pagination import Page, Paging, fetch
from api.fleet import queries as fleet
from api.workspaces import service as workspaces


class ReservationRead(BaseModel):
    """One GPU in one window. It is kept free until `free_at`, for the clean after the window."""

    id: UUID
    allocation_id: UUID
    workspace_id: UUID
    workspace: str
    gpu_id: UUID
    gpu: str = Member(description="its UUID")
    index: int
    host_id: UUID
    host: str
    model: str
    starts_at: datetime
    ends_at: datetime
    free_at: datetime
    closed_at: datetime | None = Member(description="when it became a hold or was given up")


@dataclass(frozen=True, slots=True)
class Filters:
    host_id: UUID | None = None
    gpu_id: UUID | None = None
    allocation_id: UUID | None = None
    workspace: str | None = None
    begin: datetime | None = None
    end: datetime | None = None
    closed: bool = False


def page(tx: Session, actor: Actor, wanted: Filters, pages: Paging) -> Page[ReservationRead]:
    """Raises NotFound for a workspace that the actor may not see."""
    rows, following = fetch(tx, _statement(tx, actor, wanted), col(Reservation.id), pages, newest_first=True)
    slugs = workspaces.slugs(tx, {row.workspace_id for row in rows})
    gpus = fleet.gpus_by_id(tx, [row.gpu_id for row in rows])
    hosts = fleet.host_names(tx, {row.host_id for row in rows})
    items = [_read(row, slugs[row.workspace_id], gpus[row.gpu_id], hosts[row.host_id]) for row in rows]
    return Page(items=items, next_cursor=following)


def _statement(tx: Session, actor: Actor, wanted: Filters) -> sa.Select[Any]:
    statement = sa.select(Reservation)
    if not actor.operates:
        statement = statement.where(col(Reservation.workspace_id).in_(workspaces.visible_ids(actor)))
    if wanted.workspace is not None:
        own = workspaces.get(tx, actor, wanted.workspace)
        statement = statement.where(col(Reservation.workspace_id) == own.id)
    for name in ("host_id", "gpu_id", "allocation_id"):
        value = getattr(wanted, name)
        if value is not None:
            statement = statement.where(getattr(Reservation, name) == value)
    if wanted.begin is not None:
        statement = statement.where(col(Reservation.free_at) > wanted.begin)
    if wanted.end is not None:
        statement = statement.where(col(Reservation.starts_at) < wanted.end)
    return statement if wanted.closed else statement.where(col(Reservation.closed_at).is_(None))


def _read(row: Reservation, workspace: str, gpu: Any, host: str) -> ReservationRead:
    return ReservationRead(
        id=row.id,
        allocation_id=row.allocation_id,
        workspace_id=row.workspace_id,
        workspace=workspace,
        gpu_id=row.gpu_id,
        gpu=gpu.uuid,
        index=gpu.index,
        host_id=row.host_id,
        host=host,
        model=row.model,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        free_at=row.free_at,
        closed_at=row.closed_at,
    )
