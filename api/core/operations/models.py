"""Tables and shapes of operations, their log, and the workers that run them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id
from api.core.operations.lifecycle import State
from api.core.texts import storable

OPEN_ONLY = sa.text("state IN ('queued', 'running')")


class Operation(SQLModel, table=True):
    __tablename__ = "operations"
    __table_args__ = (
        sa.Index(
            "uq_operations_open_subject",
            "subject_id",
            unique=True,
            sqlite_where=OPEN_ONLY,
            postgresql_where=OPEN_ONLY,
        ),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    kind: str = Field(index=True)
    subject_id: UUID = Field(index=True)
    subject: str
    state: State = Field(default=State.QUEUED, sa_type=EnumText(State))
    step: str | None = None
    progress: int = 0
    arguments: dict[str, Any] = Field(default_factory=dict, sa_type=Json)
    outcome: dict[str, Any] | None = Field(default=None, sa_type=Json)
    reason: str | None = None
    requested_by: str
    requested_by_id: UUID | None = Field(default=None, index=True)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    attempt: int = 0
    worker: str | None = Field(default=None, index=True)
    heartbeat_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    cancel_requested: bool = False


class OperationEvent(SQLModel, table=True):
    __tablename__ = "operation_events"

    id: int | None = Field(
        default=None, sa_type=sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True
    )
    operation_id: UUID = Field(foreign_key="operations.id", index=True)
    at: datetime = Field(sa_type=UtcDateTime)
    step: str | None = None
    task: str | None = None
    status: str
    message: str = Field(sa_type=sa.Text)
    seconds: float | None = None


class Worker(SQLModel, table=True):
    __tablename__ = "workers"

    id: str = Field(primary_key=True)
    machine: str
    pid: int
    started_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    heartbeat_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    stopped_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    recovered_by: str | None = None


EventStatus = Literal["info", "ok", "changed", "skipped", "failed", "unreachable"]


class LogLine(BaseModel):
    """One thing that happened in an operation: a task of a playbook, or a remark of the worker."""

    model_config = ConfigDict(from_attributes=True)

    at: datetime = Member(default_factory=clock.now)
    step: str | None = Member(default=None, max_length=64)
    task: str | None = Member(default=None, max_length=256)
    status: EventStatus = "info"
    message: str = Member(default="", max_length=8192)
    seconds: float | None = Member(default=None, ge=0)

    @field_validator("step", "task", "message", mode="before")
    @classmethod
    def _storable(cls, found: Any) -> Any:
        return storable(found)


class LogLineRead(LogLine):
    id: int


class OperationRead(BaseModel):
    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "example": {
                "id": "0199f2c4-5f7e-7b3a-8a55-2f1c6f0c9d11",
                "kind": "host.enroll",
                "subject_id": "0199f2c4-5f70-7d20-9f0e-6a4f5c1b2e77",
                "subject": "gpu-01",
                "state": "failed",
                "step": "discover",
                "progress": 20,
                "outcome": {"stats": {"ok": 4, "failures": 1}, "report": None},
                "reason": "nvidia-smi: couldn't communicate with the driver",
                "requested_by": "admin@ironyard.local",
                "created_at": "2026-01-05T09:00:00Z",
                "started_at": "2026-01-05T09:00:01Z",
                "ended_at": "2026-01-05T09:00:09Z",
                "attempt": 1,
                "worker": "worker-7f3a21bc",
                "cancel_requested": False,
                "eta_seconds": None,
            }
        },
    )

    id: UUID
    kind: str
    subject_id: UUID
    subject: str
    state: State
    step: str | None
    progress: int = Member(description="percent")
    outcome: dict[str, Any] | None
    reason: str | None
    requested_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attempt: int
    worker: str | None
    cancel_requested: bool
    eta_seconds: float | None = Member(
        default=None, description="how long it may still take, by earlier ones; null: unknown, or ended"
    )
