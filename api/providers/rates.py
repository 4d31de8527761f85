"""What our own GPUs cost: the rates in force at a moment."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core.db import table
from api.providers.models import ANY, Rate

Prices = dict[tuple[str, str], Decimal]


def in_force(tx: Session, at: datetime) -> Prices:
    """By model and region, either empty where the rate is for any."""
    rates = table(Rate)
    statement = (
        sa.select(rates.c.model, rates.c.region, rates.c.per_gpu_hour)
        .where(col(Rate.effective_from) <= at)
        .order_by(rates.c.effective_from)
    )
    return {(row.model, row.region): row.per_gpu_hour for row in tx.execute(statement)}


def price(prices: Prices, model: str, region: str) -> Decimal | None:
    """One GPU-hour; None when no rate fits."""
    for key in ((model, region), (model, ANY), (ANY, region), (ANY, ANY)):
        if key in prices:
            return prices[key]
    return None
