"""Tables and shapes of allocations and their holds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.allocations.lifecycle import State
from api.core import clock
from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id

OPEN_HOLD = sa.text("ended_at IS NULL")
ACTIVE = sa.text("state = 'active'")


class Allocation(SQLModel, table=True):
    __tablename__ = "allocations"
    __table_args__ = (
        sa.UniqueConstraint("workspace_id", "requested_by_id", "idempotency_key"),
        sa.CheckConstraint("ended_at IS NULL OR ended_at > started_at", name="ends_after_start"),
        sa.CheckConstraint("(state = 'active') = (ended_at IS NULL)", name="active_is_open"),
        sa.Index("ix_allocations_expiry", "expires_at", sqlite_where=ACTIVE, postgresql_where=ACTIVE),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    workspace_id: UUID = Field(foreign_key="workspaces.id", index=True)
    requested_by_id: UUID | None = Field(default=None, foreign_key="users.id", index=True)
    requested_by: str
    state: State = Field(default=State.ACTIVE, sa_type=EnumText(State))
    wanted: dict[str, Any] = Field(sa_type=Json)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    started_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    idempotency_key: str | None = None
    request_digest: str


class Hold(SQLModel, table=True):
    """One GPU, one allocation, `[started_at, ended_at)`; closed once, never edited or deleted."""

    __tablename__ = "holds"
    __table_args__ = (
        sa.Index("uq_holds_open", "gpu_id", unique=True, sqlite_where=OPEN_HOLD, postgresql_where=OPEN_HOLD),
        sa.Index("ix_holds_time", "gpu_id", "started_at"),
        sa.CheckConstraint("ended_at IS NULL OR ended_at > started_at", name="ends_after_start"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    allocation_id: UUID = Field(foreign_key="allocations.id", index=True)
    workspace_id: UUID = Field(foreign_key="workspaces.id", index=True)
    gpu_id: UUID = Field(foreign_key="gpus.id")
    host_id: UUID = Field(foreign_key="hosts.id", index=True)
    model: str
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ClaimRequest(BaseModel):
    """All of it or nothing. Memory is of each GPU, in MiB."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"workspace": "default", "gpus": 2, "memory_mib": 40000, "duration_seconds": 7200}
        },
    )

    workspace: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Member(
        default="default", description="slug or id"
    )
    gpus: int = Member(ge=1, le=1024)
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    memory_mib: int | None = Member(default=None, ge=1)
    region: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    labels: dict[str, str] = Member(
        default_factory=dict, max_length=10, description="the host must carry them"
    )
    same_host: bool = False
    nvlink: bool = Member(default=False, description="all in one NVLink domain")
    exclusive_host: bool = Member(
        default=False, description="one whole host with at least that many; every GPU of it is held"
    )
    duration_seconds: int | None = Member(default=None, ge=60)
    expires_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one_end(self) -> ClaimRequest:
        if self.duration_seconds is not None and self.expires_at is not None:
            raise ValueError("give duration_seconds or expires_at, not both")
        return self


class ExtendRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"expires_at": "2027-01-05T18:00:00Z"}}
    )

    expires_at: AwareDatetime = Member(description="the new end; later than now")


class HeldGpu(BaseModel):
    gpu_id: UUID
    uuid: str
    model: str
    memory_mib: int
    index: int
    host_id: UUID
    host: str


class AllocationRead(BaseModel):
    id: UUID
    workspace_id: UUID
    workspace: str
    requested_by: str
    state: State
    wanted: dict[str, Any]
    gpus: list[HeldGpu]
    created_at: datetime
    started_at: datetime
    expires_at: datetime
    ended_at: datetime | None
