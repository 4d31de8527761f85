"""What our own GPUs cost: the rates in force at a moment."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased
from sqlmodel import col

from api.core import audit, clock
from api.core.access import Actor
from api.core.db import table
from api.core.errors import Exists, Invalid
from api.providers.models import ANY, Rate, RateSet

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


def append(tx: Session, actor: Actor, asked: RateSet, currency: str) -> Rate:
    """What is held and reserved keeps its price. Raises Invalid for the past, Exists for a second one."""
    now = clock.now()
    begins = asked.effective_from or now
    if begins < now:
        raise Invalid("A rate cannot begin in the past: what was lent has its price.", now=now.isoformat())
    made = Rate(
        model=asked.model or ANY,
        region=asked.region or ANY,
        per_gpu_hour=asked.per_gpu_hour,
        currency=currency,
        effective_from=begins,
        set_by=actor.name,
    )
    same = (col(Rate.model) == made.model, col(Rate.region) == made.region)
    if tx.execute(sa.select(col(Rate.id)).where(*same, col(Rate.effective_from) == begins)).first():
        raise Exists("There is a rate for the same GPUs from the same moment on.")
    tx.add(made)
    tx.flush()
    after = {
        "model": asked.model,
        "region": asked.region,
        "per_gpu_hour": format(made.per_gpu_hour, "f"),
        "effective_from": begins.isoformat(),
    }
    audit.record(tx, actor, "rate.set", made.id, after=after)
    return made


def listed(*, current: bool) -> sa.Select[Rate]:
    """All rates, or those that are in force."""
    statement = sa.select(Rate)
    if not current:
        return statement
    now, newer = clock.now(), aliased(Rate)
    replaced = sa.exists().where(
        col(newer.model) == col(Rate.model),
        col(newer.region) == col(Rate.region),
        col(newer.effective_from) > col(Rate.effective_from),
        col(newer.effective_from) <= now,
    )
    return statement.where(col(Rate.effective_from) <= now, ~replaced)
