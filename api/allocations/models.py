"""Tables and shapes of allocations and their holds."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.allocations.lifecycle import State
from api.core import clock
from api.core.columns import EnumText, Exact, Json, UtcDateTime
from api.core.ids import new_id
from api.core.moments import LONGEST, Moment

OPEN_HOLD = sa.text("ended_at IS NULL")
ACTIVE = sa.text("state = 'active'")
UNGRANTED = sa.text("state IN ('requested', 'queued', 'reserved')")
YIELDING = sa.text("preempt_at IS NOT NULL AND state = 'active'")
UNCLOSED = sa.text("closed_at IS NULL")
IS_OPEN = "state IN ('requested', 'queued', 'reserved', 'active')"


class Allocation(SQLModel, table=True):
    """`expires_at` is the planned end, `ends_at` (with the grace) the moment at which it is ended."""

    __tablename__ = "allocations"
    __table_args__ = (
        sa.CheckConstraint(f"({IS_OPEN}) = (ended_at IS NULL)", name="open_has_no_end"),
        sa.CheckConstraint(
            "ended_at IS NULL OR started_at IS NULL OR ended_at > started_at", name="ends_after_start"
        ),
        sa.CheckConstraint(
            "state <> 'active' OR (started_at IS NOT NULL AND ends_at IS NOT NULL AND ends_at >= expires_at)",
            name="active_has_times",
        ),
        sa.CheckConstraint(
            "state NOT IN ('requested', 'queued', 'reserved') OR started_at IS NULL", name="not_begun"
        ),
        sa.Index("ix_allocations_expiry", "expires_at", sqlite_where=ACTIVE, postgresql_where=ACTIVE),
        sa.Index("ix_allocations_end", "ends_at", sqlite_where=ACTIVE, postgresql_where=ACTIVE),
        sa.Index("ix_allocations_preemption", "preempt_at", sqlite_where=YIELDING, postgresql_where=YIELDING),
        sa.Index(
            "ix_allocations_ungranted",
            "state",
            "created_at",
            sqlite_where=UNGRANTED,
            postgresql_where=UNGRANTED,
        ),
        sa.Index("ix_allocations_requested_by_id", "requested_by_id", "id"),
        sa.Index("ix_allocations_workspace_id", "workspace_id", "id"),
        sa.Index("ix_allocations_state", "state", "id"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    workspace_id: UUID = Field(foreign_key="workspaces.id")
    requested_by_id: UUID | None = Field(default=None, foreign_key="users.id")
    requested_by: str
    state: State = Field(default=State.ACTIVE, sa_type=EnumText(State))
    wanted: dict[str, Any] = Field(sa_type=Json)
    why: dict[str, Any] | None = Field(default=None, sa_type=Json)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    not_before: datetime | None = Field(default=None, sa_type=UtcDateTime)
    duration_seconds: int | None = None
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ends_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    priority: int = 0
    preemptible: bool = False
    preempt_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    reason: str | None = None
    decided_by: str | None = None
    decided_by_id: UUID | None = None
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    price_per_hour: Decimal | None = Field(default=None, sa_type=Exact)
    currency: str | None = None


class Hold(SQLModel, table=True):
    """One GPU, one allocation, `[started_at, ended_at)`; closed once, never edited or deleted.

    `rate` is the price of one GPU-hour at the claim, in the platform's currency; None: without a price.
    """

    __tablename__ = "holds"
    __table_args__ = (
        sa.Index("uq_holds_open", "gpu_id", unique=True, sqlite_where=OPEN_HOLD, postgresql_where=OPEN_HOLD),
        sa.Index("ix_holds_time", "gpu_id", "started_at"),
        sa.Index("ix_holds_workspace_id", "workspace_id", "ended_at"),
        sa.CheckConstraint("ended_at IS NULL OR ended_at > started_at", name="ends_after_start"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    allocation_id: UUID = Field(foreign_key="allocations.id", index=True)
    workspace_id: UUID = Field(foreign_key="workspaces.id")
    user_id: UUID | None = None
    gpu_id: UUID = Field(foreign_key="gpus.id")
    host_id: UUID = Field(foreign_key="hosts.id", index=True)
    model: str
    rate: Decimal | None = Field(default=None, sa_type=Exact)
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Reservation(SQLModel, table=True):
    """One GPU set aside for `[starts_at, ends_at)`, and until `free_at` for the clean after it.

    Open ones of a GPU never overlap (exclusion constraint on PostgreSQL, trigger on SQLite), nor does one
    overlap a hold's planned time: a trigger keeps the earliest start on the GPU's row (`booked_from`),
    another refuses a `held_until` beyond it. Closed once (`closed_at`), as a hold or given up.
    """

    __tablename__ = "reservations"
    __table_args__ = (
        sa.Index(
            "ix_reservations_gpu", "gpu_id", "starts_at", sqlite_where=UNCLOSED, postgresql_where=UNCLOSED
        ),
        sa.Index(
            "ix_reservations_workspace",
            "workspace_id",
            "starts_at",
            sqlite_where=UNCLOSED,
            postgresql_where=UNCLOSED,
        ),
        sa.CheckConstraint("ends_at > starts_at", name="ends_after_start"),
        sa.CheckConstraint("free_at >= ends_at", name="free_after_end"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    allocation_id: UUID = Field(foreign_key="allocations.id", index=True)
    workspace_id: UUID = Field(foreign_key="workspaces.id")
    user_id: UUID | None = None
    gpu_id: UUID = Field(foreign_key="gpus.id")
    host_id: UUID = Field(foreign_key="hosts.id")
    model: str
    rate: Decimal | None = Field(default=None, sa_type=Exact)
    starts_at: datetime = Field(sa_type=UtcDateTime)
    ends_at: datetime = Field(sa_type=UtcDateTime)
    free_at: datetime = Field(sa_type=UtcDateTime)
    closed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class GroupRequest(BaseModel):
    """GPUs that belong together. Memory is of each GPU, in MiB."""

    model_config = ConfigDict(extra="forbid")

    gpus: int = Member(ge=1, le=1024)
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    memory_mib: int | None = Member(default=None, ge=1, description="of each GPU, at least")
    region: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    labels: dict[str, str] = Member(
        default_factory=dict, max_length=10, description="the host must carry them"
    )
    same_host: bool = False
    nvlink: bool = Member(default=False, description="all in one NVLink domain")
    exclusive_host: bool = Member(
        default=False, description="one whole host with at least that many; every GPU of it is held"
    )
    mig_profile: Annotated[str, StringConstraints(pattern=r"^[1-7]g\.[0-9]{1,3}gb$")] | None = Member(
        default=None,
        description="the GPUs must be able to be cut into this MIG profile; they are lent whole",
    )


class Placement(StrEnum):
    PACK = "pack"
    SPREAD = "spread"


class ClaimRequest(GroupRequest):
    """All of it or nothing. One group is asked for in the fields themselves, several in `groups`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"workspace": "default", "gpus": 2, "memory_mib": 40000, "duration_seconds": 7200}
        },
    )

    workspace: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Member(
        default="default", description="slug or id"
    )
    gpus: int = Member(default=0, ge=0, le=1024, description="0 only where `groups` are given")
    groups: list[GroupRequest] = Member(default_factory=list, max_length=32)
    separate_hosts: bool = Member(default=False, description="no two groups share a host")
    placement: Placement = Member(
        default=Placement.PACK, description="`pack` fills partly used hosts first; `spread` uses many"
    )
    not_before: Moment | None = Member(
        default=None, description="a later time reserves GPUs for then; absent: now"
    )
    duration_seconds: int | None = Member(default=None, ge=60, le=LONGEST)
    expires_at: Moment | None = None
    wait: bool = Member(default=False, description="queue for GPUs that are not free now")
    priority: int = Member(
        default=0, ge=-100, le=100, description="in the queue; above 0 needs admin or owner"
    )
    preemptible: bool = Member(
        default=False, description="may be ended, after a notice, for a claim that is not"
    )
    purpose: Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)] | None = Member(
        default=None, description="what for; whoever approves reads it"
    )
    offer: Annotated[str, StringConstraints(max_length=512)] | None = Member(
        default=None, description="the id of an offer: its GPUs, at its price, while it stands"
    )

    @model_validator(mode="after")
    def _one_end(self) -> ClaimRequest:
        if self.duration_seconds is not None and self.expires_at is not None:
            raise ValueError("give duration_seconds or expires_at, not both")
        return self

    @model_validator(mode="after")
    def _one_group_or_several(self) -> ClaimRequest:
        own = self.model_fields_set & (GroupRequest.model_fields.keys())
        if self.groups and own:
            raise ValueError(f"with groups, give {', '.join(sorted(own))} in each group")
        if not self.groups and not self.gpus and not self.offer:
            raise ValueError("give gpus, groups or an offer")
        return self

    def all_groups(self) -> list[GroupRequest]:
        return self.groups or [self]


class ExtendRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"expires_at": "2027-01-05T18:00:00Z"}}
    )

    expires_at: Moment = Member(description="the new end; later than now")


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
    why: dict[str, Any] | None = Member(description="why these GPUs, or why it waits")
    warnings: list[str] = Member(default_factory=list, description="soft limits that the claim exceeds")
    dry_run: bool = Member(default=False, description="it was only tried: nothing is held")
    reason: str | None = Member(description="of a decision, a cancellation or a preemption")
    decided_by: str | None = Member(default=None, description="who approved or denied it")
    decided_at: datetime | None = None
    priority: int
    preemptible: bool
    preempt_at: datetime | None = Member(description="ends then, for a claim with a guarantee")
    price_per_hour: Decimal | None = Member(description="of all its GPUs; null: without a price")
    currency: str | None
    created_at: datetime
    not_before: datetime | None = Member(description="the window's begin, where it is reserved for later")
    started_at: datetime | None = Member(description="null before it holds anything")
    expires_at: datetime | None = Member(description="the planned end; null while only its length is known")
    ends_at: datetime | None = Member(description="the planned end and the grace after it")
    ended_at: datetime | None
