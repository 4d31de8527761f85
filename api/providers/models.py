"""Tables and shapes of what capacity costs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic import Field as Member
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import Exact, UtcDateTime
from api.core.ids import new_id
from api.core.moments import Moment

ANY = ""


class Rate(SQLModel, table=True):
    """What one of our GPUs costs an hour from a moment on; only appended to.

    The most exact one counts: model and region, then model, then region, then neither (empty).
    """

    __tablename__ = "rates"
    __table_args__ = (
        sa.CheckConstraint("per_gpu_hour >= 0", name="not_negative"),
        sa.UniqueConstraint("model", "region", "effective_from"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    model: str = ANY
    region: str = ANY
    per_gpu_hour: Decimal = Field(sa_type=Exact)
    currency: str
    effective_from: datetime = Field(sa_type=UtcDateTime)
    set_by: str
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class RateSet(BaseModel):
    """One more rate; those that were set before stay as they are, and count until this one does."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"model": "NVIDIA H100 80GB HBM3", "per_gpu_hour": "2.10"}},
        extra="forbid",
    )

    per_gpu_hour: Decimal = Member(ge=0, le=1_000_000, decimal_places=6)
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Member(
        default=None, description="absent: any"
    )
    region: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Member(
        default=None, description="absent: any"
    )
    effective_from: Moment | None = Member(default=None, description="not in the past; absent: now")


class RateRead(BaseModel):
    id: UUID
    model: str | None = Member(description="null: any")
    region: str | None = Member(description="null: any")
    per_gpu_hour: Decimal
    currency: str
    effective_from: datetime
    set_by: str
    created_at: datetime
