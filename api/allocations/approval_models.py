"""Tables and shapes of approval: rules, requests, changes of what is held, transfers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id
from api.core.moments import Moment
from api.workspaces.models import Approval

OPEN_CHANGE = sa.text("state = 'requested'")
# Not bound, so that every plan finds the partial indexes.
REQUESTED: sa.ColumnElement[str] = sa.literal_column("'requested'")
ANY_MODEL = "*"  # in paths, where the stored empty text cannot stand
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class Kind(StrEnum):
    EXTEND = "extend"
    GROW = "grow"


class ChangeState(StrEnum):
    """A change is decided once; every state but `requested` is an end."""

    REQUESTED = "requested"
    DONE = "done"
    DENIED = "denied"
    CANCELLED = "cancelled"


class AllocationChange(SQLModel, table=True):
    """More GPUs or another end for an active allocation: done at once, or waiting for somebody's approval.

    `asked` has `expires_at`, or `gpus` and the number of the `group` that they join; while it waits also
    `approver`, and `purpose` where one was given.
    """

    __tablename__ = "allocation_changes"
    __table_args__ = (
        sa.Index(
            "uq_allocation_changes_open",
            "allocation_id",
            "kind",
            unique=True,
            sqlite_where=OPEN_CHANGE,
            postgresql_where=OPEN_CHANGE,
        ),
        sa.Index("ix_allocation_changes_open", "id", sqlite_where=OPEN_CHANGE, postgresql_where=OPEN_CHANGE),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    allocation_id: UUID = Field(foreign_key="allocations.id", index=True)
    kind: Kind = Field(sa_type=EnumText(Kind))
    asked: dict[str, Any] = Field(sa_type=Json)
    state: ChangeState = Field(default=ChangeState.REQUESTED, sa_type=EnumText(ChangeState))
    requested_by: str
    requested_by_id: UUID | None = None
    requested_at: datetime = Field(sa_type=UtcDateTime)
    decided_by: str | None = None
    decided_by_id: UUID | None = None
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    reason: str | None = None


class ApprovalRule(SQLModel, table=True):
    """Who approves claims of one GPU model (empty: of any)."""

    __tablename__ = "approval_rules"

    model: str = Field(primary_key=True)
    approver: Approval = Field(sa_type=EnumText(Approval))


class RuleSet(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"approver": "operator"}}, extra="forbid")

    approver: Literal[Approval.WORKSPACE, Approval.OPERATOR] = Member(
        description="`workspace`: an owner or admin of the workspace that asks, or an operator"
    )


class RuleRead(BaseModel):
    model: str | None = Member(description="null: any model")
    approver: Approval


class Approved(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"reason": "for the release"}}, extra="forbid")

    reason: Reason | None = None


class Denied(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"example": {"reason": "the H100s are needed for the release this week"}},
        extra="forbid",
    )

    reason: Reason = Member(description="whoever asked is told")


class ChangeRequest(BaseModel):
    """A later end, or more GPUs like those that were asked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"kind": "grow", "gpus": 2, "purpose": "the batch grew"}},
    )

    kind: Kind
    expires_at: Moment | None = Member(default=None, description="of `extend`: the new end")
    gpus: int | None = Member(default=None, ge=1, le=1024, description="of `grow`: how many more")
    group: int = Member(default=0, ge=0, le=31, description="of `grow`: which group of the claim they join")
    purpose: Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)] | None = Member(
        default=None, description="what for; whoever approves reads it"
    )

    @model_validator(mode="after")
    def _what_its_kind_needs(self) -> ChangeRequest:
        if self.kind is Kind.EXTEND and (self.expires_at is None or self.gpus is not None):
            raise ValueError("extend takes expires_at, and no gpus")
        if self.kind is Kind.GROW and (self.gpus is None or self.expires_at is not None):
            raise ValueError("grow takes gpus, and no expires_at")
        return self


class ChangeRead(BaseModel):
    id: UUID
    allocation_id: UUID
    kind: Kind
    state: ChangeState
    asked: dict[str, Any]
    approver: Approval | None = Member(description="who is to decide; null: nobody had to")
    requested_by: str
    requested_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None = Member(description="of the decision")


class ToDecide(BaseModel):
    """A claim or a change that waits for a decision."""

    id: UUID = Member(description="of the change; of the allocation where it is a claim")
    kind: Literal["claim", "extend", "grow"]
    allocation_id: UUID
    workspace: str
    requested_by: str
    requested_at: datetime
    approver: Approval
    asked: dict[str, Any]
    purpose: str | None
    not_before: datetime | None
    expires_at: datetime | None = Member(description="the end, where one was named")
    duration_seconds: int | None = Member(description="of a claim: its length, from its approval on")


class TransferRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"workspace": "vision", "reason": "the team goes on with it"}},
    )

    workspace: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Member(
        description="slug or id of the one that is to hold it"
    )
    reason: Reason


class HistoryRead(BaseModel):
    """One thing that happened to an allocation."""

    id: UUID
    at: datetime
    actor: str
    action: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    change: ChangeRead | None = Member(description="the change that it belongs to, as it is now")
