"""Shapes of limits: quotas and budgets, as they are set and read."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as Member

from api.workspaces.models import Resource

PLAIN_LIMITS = ("gpus", "storage_gib", "environments")
Hours = Annotated[Decimal, Member(ge=0, le=1_000_000_000, decimal_places=2)]
Money = Annotated[Decimal, Member(ge=0, le=1_000_000_000_000, decimal_places=2)]
Model = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Number = Annotated[int, Member(ge=0, le=1_000_000)]


class BudgetKind(StrEnum):
    """How a budget is named outside; GPU-hours are kept as GPU-seconds."""

    GPU_HOURS = "gpu_hours"
    MONEY = "money"


class SoftLimits(BaseModel):
    """Exceeding one is allowed; claims that do are answered with a warning, and a notice is written."""

    model_config = ConfigDict(extra="forbid")

    gpus: Number | None = None
    models: dict[Model, Number] = Member(default_factory=dict, max_length=100)
    storage_gib: Number | None = None
    environments: Number | None = None


class LimitsSet(BaseModel):
    """All limits of one scope; what is absent is not limited. Lowering one ends nothing; it only blocks."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"gpus": 4, "storage_gib": 500, "soft": {"gpus": 2}}}, extra="forbid"
    )

    gpus: Number | None = Member(default=None, description="GPUs at once, of all models together")
    models: dict[Model, Number] = Member(
        default_factory=dict, max_length=100, description="GPUs at once of one model"
    )
    storage_gib: Number | None = None
    environments: Number | None = None
    soft: SoftLimits = Member(default_factory=SoftLimits)

    @model_validator(mode="after")
    def _soft_is_less(self) -> Self:
        pairs = [(self.soft.models.get(model), hard) for model, hard in self.models.items()]
        pairs += [(getattr(self.soft, name), getattr(self, name)) for name in PLAIN_LIMITS]
        if any(soft is not None and hard is not None and soft > hard for soft, hard in pairs):
            raise ValueError("a soft limit may not be above the hard one")
        return self


class QuotaSet(LimitsSet):
    """The whole quota of a workspace. Lowering it below what is held ends nothing, and blocks new claims."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"gpus": 16, "models": {"NVIDIA H100 80GB HBM3": 8}}}, extra="forbid"
    )

    gpus: Number = Member(description="GPUs at once, of all models together")


class QuotaRead(BaseModel):
    """One limit, and what is used of it."""

    resource: Resource
    model: str | None = Member(description="null: of all models together")
    hard_limit: int | None
    soft_limit: int | None
    used: int
    gpu_limit: int | None = Member(description="the hard limit, where it is one of GPUs")
    gpus_held: int | None = Member(description="what is used, where that is GPUs")


class SoftBudget(BaseModel):
    model_config = ConfigDict(extra="forbid")

    gpu_hours: Hours | None = None
    money: Money | None = None


class BudgetSet(BaseModel):
    """All budgets of one scope, by calendar month; what is absent is not limited."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"gpu_hours": "2000", "money": "5000", "soft": {"money": "4000"}}},
        extra="forbid",
    )

    gpu_hours: Hours | None = None
    money: Money | None = Member(default=None, description="in the platform's currency")
    soft: SoftBudget = Member(default_factory=SoftBudget)

    @model_validator(mode="after")
    def _soft_is_less(self) -> Self:
        pairs = ((self.soft.gpu_hours, self.gpu_hours), (self.soft.money, self.money))
        if any(soft is not None and hard is not None and soft > hard for soft, hard in pairs):
            raise ValueError("a soft limit may not be above the hard one")
        return self


class BudgetPeriodRead(BaseModel):
    start: datetime
    end: datetime
    committed: Decimal = Member(description="used, and promised to what is held or reserved")
    overrun: Decimal = Member(description="used after a planned end, because nobody ended it in time")


class BudgetRead(BaseModel):
    """A budget and its periods from the present one on. Amounts are GPU-hours, or money."""

    resource: BudgetKind
    currency: str | None = Member(description="of money")
    hard_limit: Decimal | None
    soft_limit: Decimal | None
    periods: list[BudgetPeriodRead]
