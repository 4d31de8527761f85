"""Shapes of the queue."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic import Field as Member


class QueuedRead(BaseModel):
    """A claim that waits. Of other workspaces' claims a member learns only that they are there."""

    position: int = Member(description="1 is served next")
    id: UUID
    workspace_id: UUID
    workspace: str
    requested_by: str
    wanted: dict[str, Any]
    priority: int
    preemptible: bool
    share_gpu_seconds: int = Member(description="what its workspace used lately; less comes first")
    waits_for: str | None = Member(
        description="`capacity`, `quota`, `budget`, or `turn`: a claim before it would be held up"
    )
    detail: str | None
    enough_at: datetime | None = Member(description="when GPUs will be free by the known ends")
    yielding: int = Member(description="preemptible allocations that end for it")
    created_at: datetime
    expires_at: datetime | None = Member(description="waits no longer than this")


class QueueRead(BaseModel):
    length: int = Member(description="all that wait, of every workspace")
    items: list[QueuedRead] = Member(description="those that you may see, in the order of the queue")
