"""Tables and shapes of groups: one thing done to many hosts, some at a time, until too many fail."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id
from api.fleet.lifecycle import State
from api.fleet.models import DrainsTo, HostName, Label, Region


class Action(StrEnum):
    ENROLL = "enroll"
    RECLAIM = "reclaim"
    VERIFY = "verify"
    HEALTH = "health"
    DRAIN = "drain"
    CORDON = "cordon"
    UNCORDON = "uncordon"
    MAINTENANCE = "maintenance"
    RETIRE = "retire"


class GroupState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class MemberState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


class OperationGroup(SQLModel, table=True):
    __tablename__ = "operation_groups"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    action: Action = Field(sa_type=EnumText(Action))
    arguments: dict[str, Any] = Field(default_factory=dict, sa_type=Json)
    state: GroupState = Field(default=GroupState.RUNNING, sa_type=EnumText(GroupState), index=True)
    reason: str | None = None
    at_once: int
    max_failures: int
    cancel_requested: bool = False
    retries: UUID | None = Field(default=None, foreign_key="operation_groups.id")
    requested_by: str
    requested_by_id: UUID | None = None
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class GroupMember(SQLModel, table=True):
    __tablename__ = "operation_group_members"
    __table_args__ = (sa.UniqueConstraint("group_id", "host_id"),)

    id: UUID = Field(default_factory=new_id, primary_key=True)
    group_id: UUID = Field(foreign_key="operation_groups.id")
    host_id: UUID = Field(foreign_key="hosts.id")
    host: str
    state: MemberState = Field(default=MemberState.WAITING, sa_type=EnumText(MemberState))
    operation_id: UUID | None = Field(default=None, foreign_key="operations.id")
    reason: str | None = None
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Selection(BaseModel):
    """Hosts that fit all that is given; retired ones never do."""

    model_config = ConfigDict(extra="forbid")

    names: list[HostName] | None = Member(default=None, min_length=1, max_length=1000)
    labels: dict[Label, str] | None = Member(default=None, min_length=1, max_length=20)
    region: Region | None = None
    state: State | None = None

    @model_validator(mode="after")
    def _something(self) -> Selection:
        if not any((self.names, self.labels, self.region, self.state)):
            raise ValueError("select by at least one of names, labels, region and state")
        return self


class GroupCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "action": "reclaim",
                "hosts": {"labels": {"rack": "b12"}},
                "at_once": 4,
                "max_failures": 2,
                "reason": "new driver",
            }
        },
    )

    action: Action
    hosts: Selection
    at_once: int = Member(default=4, ge=1, le=1000, description="hosts at a time")
    max_failures: int = Member(default=0, ge=0, le=1000, description="failed hosts after which more begin")
    reason: str | None = Member(default=None, max_length=500)
    trust_new_host_key: bool = Member(default=False, description="for enroll: the machines were reinstalled")
    to: DrainsTo = Member(default=DrainsTo.MAINTENANCE, description="for drain: where the hosts go")
    level: int = Member(default=1, ge=0, le=3, description="for health: how deep it looks")


class GroupRetry(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"skipped": True}})

    skipped: bool = Member(default=False, description="also the hosts that were never begun")


class GroupCancel(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"running": False}})

    running: bool = Member(default=False, description="cut short what runs; those hosts go to maintenance")


class MemberRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    host_id: UUID
    host: str
    state: MemberState
    operation_id: UUID | None
    step: str | None = None
    progress: int | None = None
    eta_seconds: float | None = None
    reason: str | None
    started_at: datetime | None
    ended_at: datetime | None


class GroupRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    action: Action
    state: GroupState
    reason: str | None
    at_once: int
    max_failures: int
    cancel_requested: bool
    retries: UUID | None = Member(description="the group whose failed hosts this one tries again")
    requested_by: str
    created_at: datetime
    ended_at: datetime | None
    hosts: dict[MemberState, int] = Member(description="how many hosts are in which state")
    eta_seconds: float | None = Member(default=None, description="by earlier operations; null: unknown")


class GroupDetail(GroupRead):
    members: list[MemberRead]
