"""What the queue reads of the fleet: GPUs that nobody in question could use make no difference."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col

from api.core import clock
from api.core.db import Database
from api.core.ids import new_id
from api.fleet import pool
from api.fleet.models import Gpu
from api.fleet.pool import Demand, Pool
from api.fleet.wanted import Wanted
from tests.support.ledger import H100

MODELS, REGIONS = (H100, "NVIDIA L40S"), ("north", "south")
HOUR = timedelta(hours=1)


def furnish(database: Database, fleet: Any, chance: random.Random) -> None:
    """Hosts of two models and regions, with GPUs held until this or that hour, by holders of several."""
    hosts = [fleet(f"h{n}", gpus=3, model=MODELS[n % 2], region=REGIONS[n // 2 % 2]) for n in range(8)]
    holders, now = [new_id() for _ in range(6)], clock.now()
    with database.transaction() as tx:
        for gpu in tx.execute(sa.select(Gpu).where(col(Gpu.host_id).in_(hosts))).scalars():
            gpu.memory_mib = chance.choice((40_000, 81_559))
            gpu.mig_mode = chance.choice((None, "disabled"))
            gpu.nvlink_domain = chance.choice((None, "a", "b"))
            if chance.random() < 0.6:
                gpu.held_by, gpu.held_until = chance.choice(holders), now + chance.randint(1, 9) * HOUR
            elif chance.random() < 0.3:
                gpu.booked_from = now + chance.randint(1, 9) * HOUR


def wanted(chance: random.Random) -> Wanted:
    return Wanted(
        chance.randint(1, 4),
        model=chance.choice((None, *MODELS)),
        memory_mib=chance.choice((None, 40_001)),
        region=chance.choice((None, *REGIONS)),
        same_host=chance.random() < 0.3,
        nvlink=chance.random() < 0.2,
        exclusive_host=chance.random() < 0.1,
        mig_profile=chance.choice((None, None, "1g.10gb")),
    )


def demand(chance: random.Random) -> Demand:
    groups = tuple(wanted(chance) for _ in range(chance.choice((1, 1, 2))))
    return Demand(groups, separate=chance.random() < 0.3, lasts=chance.randint(1, 5) * HOUR)


def answers(found: Pool, demands: list[Demand]) -> list[Any]:
    said: list[Any] = []
    for one in demands:
        start = found.start(one)
        moments = [found.now + hours * HOUR for hours in range(10)]
        said.append((start, found.ever(one), found.holders(one), [found.can(one, at) for at in moments]))
    return said


def test_what_nobody_could_use_makes_no_difference(
    database: Database, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    furnish(database, fleet, chance)
    now, gap, fewer = clock.now(), timedelta(minutes=15), 0
    for _ in range(60):
        demands = [demand(chance) for _ in range(chance.randint(1, 3))]
        with database.snapshot() as tx:
            read = pool.read(tx, demands, now, gap)
            with monkeypatch.context() as without:
                without.setattr(pool, "_may_serve", lambda _: sa.true())
                everything = pool.read(tx, demands, now, gap)
        assert answers(read, demands) == answers(everything, demands)
        fewer += len(read.slots) < len(everything.slots)
    assert fewer > 20
