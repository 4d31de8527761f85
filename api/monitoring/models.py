"""Tables and shapes of findings: GPUs and hosts that are held, busy or at work without a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id
from api.monitoring.lifecycle import State

OPERATORS = "operators"
UNRESOLVED = sa.text("resolved_at IS NULL")


class Kind(StrEnum):
    IDLE_GPU = "idle-gpu"
    HOST_WITHOUT_HOLD = "host-without-hold"
    HOLD_WITHOUT_HOST = "hold-without-host"
    UNEXPLAINED = "unexplained"
    STUCK_OPERATION = "stuck-operation"


class Action(StrEnum):
    """What can be done about a finding; of `look` nothing by the platform itself."""

    LOOK = "look"
    RELEASE_ALLOCATION = "release-allocation"
    RECLAIM_HOST = "reclaim-host"
    FREE_GPUS = "free-gpus"
    CANCEL_OPERATION = "cancel-operation"
    TAKE_OUT_HOST = "take-out-host"


class Policy(StrEnum):
    NOTIFY = "notify"
    RECLAIM = "reclaim-after-warning"


class Finding(SQLModel, table=True):
    """One kind of leak of one subject, from when it was first seen until it is gone.

    At most one of a kind and a subject is unresolved. `owner` is who can explain it: the e-mail of whoever
    asked for the allocation, or `operators`.
    """

    __tablename__ = "findings"
    __table_args__ = (
        sa.Index(
            "uq_findings_open",
            "kind",
            "subject_id",
            unique=True,
            sqlite_where=UNRESOLVED,
            postgresql_where=UNRESOLVED,
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    kind: Kind = Field(sa_type=EnumText(Kind))
    state: State = Field(default=State.OPEN, sa_type=EnumText(State))
    subject_id: UUID
    subject: str
    host_id: UUID | None = None
    allocation_id: UUID | None = None
    workspace_id: UUID | None = None
    owner: str
    detail: str = Field(sa_type=sa.Text)
    evidence: dict[str, Any] = Field(sa_type=Json)
    action: Action = Field(sa_type=EnumText(Action))
    policy: Policy = Field(sa_type=EnumText(Policy))
    first_seen_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)
    warned_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    act_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    resolved_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    resolved_by: str | None = None
    resolution: str | None = None


Subject = tuple[Kind, UUID]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a check saw in this moment.

    `gpus` are those that the allocation held when it was measured. Not `whole`: parts of the subject could
    not be looked at, and what was known of it before stands.
    """

    kind: Kind
    subject_id: UUID
    subject: str
    detail: str
    evidence: dict[str, Any]
    action: Action
    policy: Policy = Policy.NOTIFY
    owner: str = OPERATORS
    host_id: UUID | None = None
    allocation_id: UUID | None = None
    workspace_id: UUID | None = None
    gpus: frozenset[UUID] = frozenset()
    whole: bool = True

    @property
    def about(self) -> Subject:
        return self.kind, self.subject_id


@dataclass(slots=True)
class Seen:
    """What checks found.

    `unknown`: subjects that could not be looked at, and why. `gone`: why a subject is no leak any more.
    """

    sightings: list[Sighting] = field(default_factory=list)
    unknown: dict[Subject, str] = field(default_factory=dict)
    gone: dict[Subject, str] = field(default_factory=dict)

    def add(self, other: Seen) -> None:
        self.sightings += other.sightings
        self.unknown |= other.unknown
        self.gone |= other.gone


class FindingRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: Kind
    state: State
    state_meaning: str
    subject_id: UUID = Member(description="of the allocation, host, GPU or operation that it is about")
    subject: str
    host_id: UUID | None
    allocation_id: UUID | None
    workspace_id: UUID | None
    workspace: str | None
    owner: str = Member(description="who can explain it: an e-mail address, or `operators`")
    detail: str
    evidence: dict[str, Any] = Member(description="numbers, window, query")
    action: Action = Member(description="what can be done about it")
    policy: Policy = Member(description="whether the platform does that by itself, after a warning")
    first_seen_at: datetime
    last_seen_at: datetime
    warned_at: datetime | None
    act_at: datetime | None = Member(description="when the platform acts, if it is still there")
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None


class Decision(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"reason": "waits for data until Monday"}}
    )

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class ScanAsked(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"hosts": True}})

    hosts: bool = Member(
        default=False, description="also compare every idle host with its record, as a group of operations"
    )


class Unknown(BaseModel):
    kind: Kind
    reason: str
    subjects: int = Member(description="how many could not be looked at for this reason")


class ScanRead(BaseModel):
    """What a scan did. What could not be looked at stays as it was."""

    at: datetime
    seconds: float
    opened: int
    warned: int
    acted: int
    resolved: int
    unresolved: int = Member(description="findings that are there now, dismissed ones among them")
    unknown: list[Unknown]
    group_id: UUID | None = Member(default=None, description="the group that looks at the idle hosts")
