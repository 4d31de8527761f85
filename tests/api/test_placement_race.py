"""Claims, releases and cordons at once: never a deadlock, never two holders, and the ledger's books agree."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from api.allocations import claims, service, swift
from api.allocations.models import ClaimRequest, Hold
from api.core import clock
from api.core.access import Actor, Role
from api.core.db import Database, table
from api.core.errors import Conflict
from api.fleet import service as fleet_service
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, Host
from api.settings import Settings
from api.workspaces import service as workspaces
from api.workspaces.models import WorkspaceCreate
from tests.conftest import Client
from tests.support import ledger
from tests.support.ledger import SYSTEM

GPUS, HOSTS, HOLDS = table(Gpu), table(Host), table(Hold)
LEAST, MOST, CLAIMERS = 4.0, 90.0, 6  # seconds of stress
ENOUGH = {"claimed": 60, "released": 40, "cordoned": 20, "cleaned": 5}
LATER = 0.2  # of the claims are for a window that begins later
SHAPES: tuple[dict[str, Any], ...] = (
    {"gpus": 1},
    {"gpus": 3},
    {"gpus": 2, "placement": "spread"},
    {"gpus": 2, "same_host": True},
    {"gpus": 4, "nvlink": True},
    {"gpus": 2, "exclusive_host": True},
    {"groups": [{"gpus": 2, "same_host": True}, {"gpus": 1}], "separate_hosts": True},
)

postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


class Stress:
    """Everybody works until the time is over; what goes wrong is kept."""

    def __init__(self, database: Database, settings: Settings, user_id: UUID, hosts: list[UUID]) -> None:
        self.database, self.settings, self.hosts = database, settings, hosts
        self.user_id = user_id
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        self.began = time.monotonic()

    def run(self, jobs: list[Callable[[random.Random], None]]) -> None:
        threads = [threading.Thread(target=self._loop, args=(job, seed)) for seed, job in enumerate(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _loop(self, job: Callable[[random.Random], None], seed: int) -> None:
        dice = random.Random(seed)
        while self._goes_on():
            try:
                job(dice)
            except Conflict as refused:
                self.done[refused.code] += 1
            except DBAPIError as error:
                self.faults.append(f"{getattr(error.orig, 'sqlstate', None)}: {error.orig}")
            except BaseException as error:  # noqa: BLE001
                self.faults.append(repr(error))

    def _goes_on(self) -> bool:
        so_far = time.monotonic() - self.began
        short = any(self.done[name] < number for name, number in ENOUGH.items())
        return so_far < LEAST or (short and so_far < MOST and not self.faults)

    def claimer(self, number: int) -> Callable[[random.Random], None]:
        actor = Actor(f"tester {number}", Role.ADMINISTRATOR, self.user_id)
        mine: list[UUID] = []

        def work(dice: random.Random) -> None:
            if mine and dice.random() < 0.45:
                given = mine.pop(dice.randrange(len(mine)))
                with self.database.transaction() as tx:
                    service.release(tx, actor, given)
                self.done["released"] += 1
                return
            begin = clock.now() + timedelta(hours=1) if dice.random() < LATER else None
            asked = ClaimRequest.model_validate(
                {
                    "workspace": f"w{number}",
                    "duration_seconds": 600,  # over before what is reserved begins
                    "not_before": begin,
                    **dice.choice(SHAPES),
                }
            )
            mine.append(self._claimed(actor, asked))
            self.done["claimed"] += 1

        return work

    def _claimed(self, actor: Actor, asked: ClaimRequest) -> UUID:
        with Session(self.database.engine, expire_on_commit=False, info=dict(self.database.info)) as tx:
            quickly = swift.claim(tx, actor, asked, self.settings)
        if quickly is not None:
            return quickly.id
        with self.database.transaction() as tx:
            return claims.claim(tx, actor, asked, self.settings).allocation.id

    def cordoner(self, dice: random.Random) -> None:
        host = dice.choice(self.hosts)
        for cordoned in (True, False):
            with self.database.transaction() as tx:
                fleet_service.cordon(tx, SYSTEM, host, cordoned=cordoned, reason="stress")
        self.done["cordoned"] += 1

    def cleaner(self, _: random.Random) -> None:
        with self.database.snapshot() as tx:
            dirty = tx.execute(sa.select(HOSTS.c.id).where(HOSTS.c.state == State.RECLAIMING)).scalars().all()
        for host in dirty:
            ledger.finish(self.database, host, ledger.report("reclaim"))
            self.done["cleaned"] += 1
        time.sleep(0.01)


def check_books(database: Database) -> None:
    """What must be true of hosts, GPUs and holds whenever nobody is at work."""
    with database.snapshot() as tx:
        gpus = tx.execute(sa.select(GPUS, HOSTS.c.state).join(HOSTS, HOSTS.c.id == GPUS.c.host_id)).all()
        holds = tx.execute(sa.select(HOLDS).where(HOLDS.c.ended_at.is_(None))).all()
    assert len({hold.gpu_id for hold in holds}) == len(holds)
    assert {gpu.id: gpu.held_by for gpu in gpus if gpu.held_by} == {
        hold.gpu_id: hold.allocation_id for hold in holds
    }
    held = {gpu.host_id for gpu in gpus if gpu.held_by}
    assert {gpu.host_id for gpu in gpus if gpu.state is State.ALLOCATED} == held
    assert {gpu.host_id for gpu in gpus if gpu.host_lent} == held
    assert all(gpu.host_lent == (gpu.host_id in held) for gpu in gpus)


@postgresql
def test_nobody_waits_in_a_circle(client: Client, fleet: Any, database: Database, settings: Settings) -> None:
    hosts = [fleet(f"h{number}", gpus=4) for number in range(5)]
    admin = Actor("admin", Role.ADMINISTRATOR, UUID(client.user_id))
    with database.transaction() as tx:
        for number in range(CLAIMERS):
            asked = WorkspaceCreate(slug=f"w{number}", name=f"w{number}", gpus=1000)
            workspaces.create(tx, admin, asked, default_quota=0)
    stress = Stress(database, settings, admin.user_id or hosts[0], hosts)
    stress.run([*map(stress.claimer, range(CLAIMERS)), stress.cordoner, stress.cleaner])
    assert stress.faults == []
    check_books(database)
    assert all(stress.done[name] >= number for name, number in ENOUGH.items()), stress.done
