"""Tables and shapes of what capacity costs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from api.core import clock
from api.core.columns import Exact, UtcDateTime
from api.core.ids import new_id

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
