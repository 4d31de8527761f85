"""Shapes of offers."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel
from pydantic import Field as Member


class FactorRead(BaseModel):
    name: str = Member(description="price, fit, locality, health or availability")
    value: float = Member(description="from 0, the worst, to 1")
    weight: float
    because: str


class OfferRead(BaseModel):
    id: str = Member(description="for `offer` of a claim, until `expires_at`")
    source: str = Member(description="`own`: GPUs of the platform's own hosts")
    model: str
    region: str
    memory_mib: int = Member(description="of each GPU, at least")
    gpus: int
    same_host: bool
    nvlink: bool = Member(description="all in one NVLink domain")
    price_per_gpu_hour: Decimal | None = Member(description="null: without a price")
    price_per_hour: Decimal | None = Member(description="of all its GPUs")
    currency: str | None
    duration_seconds: int = Member(description="for how long it was looked for")
    available: bool = Member(description="can be had now")
    available_at: datetime = Member(description="from then on, by the known ends")
    expires_at: datetime = Member(description="claims may take it, at its price, until then")
    score: float = Member(description="the sum of the factors' values times their weights")
    factors: list[FactorRead]


class OfferList(BaseModel):
    items: list[OfferRead] = Member(description="the best first; those without a price come last")
