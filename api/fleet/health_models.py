"""Tables and shapes of health checks."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import EnumText, Json, UtcDateTime
from api.core.ids import new_id

HOST = "host"


class Verdict(StrEnum):
    """From good to bad: what is known to be broken outranks what could not be looked at."""

    PASS = "PASS"  # noqa: S105 - a verdict
    INFO = "INFO"
    WARNING = "WARNING"
    UNKNOWN = "UNKNOWN"
    CRITICAL = "CRITICAL"


RANK = list(Verdict)
FAILING = frozenset({Verdict.UNKNOWN, Verdict.CRITICAL})


class Action(StrEnum):
    NONE = "none"
    RESTART_APPLICATION = "restart-application"
    RESET = "reset"
    REBOOT = "reboot"
    DRAIN = "drain"
    SERVICE = "service"


class HealthCheck(SQLModel, table=True):
    """One look at a host's health, within the operation that made it. `level` is None when it could not run.

    Of the single checks only those are kept that did not pass: a host that is well leaves a short row.
    """

    __tablename__ = "health_checks"

    id: UUID = Field(default_factory=new_id, primary_key=True)
    host_id: UUID = Field(foreign_key="hosts.id", index=True)
    operation_id: UUID = Field(foreign_key="operations.id")
    kind: str
    level: int | None = None
    verdict: Verdict = Field(sa_type=EnumText(Verdict))
    passed: int = 0
    checks: list[dict[str, Any]] = Field(default_factory=list, sa_type=Json)
    reason: str | None = Field(default=None, sa_type=sa.Text)
    at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class CheckResult(BaseModel):
    """What one check said. `scope` is `host` or a GPU's UUID."""

    model_config = ConfigDict(from_attributes=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    verdict: Verdict
    scope: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    action: Action
    detail: Annotated[str, StringConstraints(max_length=1000)]

    @property
    def fails(self) -> bool:
        return self.verdict in FAILING

    def __str__(self) -> str:
        where = "" if self.scope == HOST else f" of {self.scope}"
        return f"{self.name}{where}: {self.detail}"


class HealthReport(BaseModel):
    """What the health check of a play hands over. `reset_at`: the GPUs' last reset, seconds since 1970."""

    level: int = Member(ge=0, le=3)
    checks: list[CheckResult] = Member(min_length=1, max_length=1000)
    reset_at: float | None = None

    @property
    def verdict(self) -> Verdict:
        return worst(self.checks)


class HealthCheckAsked(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"level": 2}}, extra="forbid")

    level: int = Member(
        default=1, ge=0, le=3, description="0 only looks; 1 to 3 run DCGM's diagnostics of that level too"
    )


class HealthCheckRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    host_id: UUID
    operation_id: UUID
    kind: str = Member(description="the operation that it was part of, such as `host.reclaim`")
    level: int | None = Member(description="null: it could not run")
    verdict: Verdict = Member(description="the worst of all checks")
    passed: int = Member(description="how many checks passed")
    checks: list[CheckResult] = Member(
        description="the others, the worst first; `scope` is `host` or a GPU's UUID"
    )
    reason: str | None = Member(description="why it could not run")
    at: datetime


class InventoryHealth(BaseModel):
    """What a check needs to know of a host. Moments in seconds since 1970."""

    since: float = Member(description="when it was lent last, or else made known: older Xids do not count")
    gpus_reset_at: float | None
    gpus_held: list[str] = Member(description="UUIDs")


def worst(checks: list[CheckResult]) -> Verdict:
    return max((one.verdict for one in checks), key=RANK.index, default=Verdict.UNKNOWN)
