"""The machine: what people, workers, clocks and accidents do to a ledger, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
import time_machine
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from api.allocations import claims, expiry, service, swift, timekeeping, turns
from api.allocations.models import ClaimRequest, Hold, Reservation
from api.billing import service as billing
from api.core import clock
from api.core.access import Actor, system
from api.core.db import table
from api.core.errors import Problem
from api.core.ids import new_id
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.models import Operation
from api.fleet import service as fleet
from api.fleet.lifecycle import Event
from api.fleet.models import Gpu
from api.workspaces import quota_setting, scopes
from api.workspaces import service as workspaces
from api.workspaces.limit_models import LimitsSet
from tests.machine import invariants
from tests.machine.stage import BEGIN, MODELS, SLUGS, Stage, Template
from tests.support import ledger

HOURS = st.integers(1, 72)
HOLDS, BOOKINGS, GPUS = table(Hold), table(Reservation), table(Gpu)


class LedgerMachine(RuleBasedStateMachine):
    """One try: a copy of the furnished ledger, and steps on it. `template` is given by the test."""

    template: ClassVar[Template]
    without: ClassVar[Callable[[sa.Connection], None] | None] = None
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.stage: Stage = self.stack.enter_context(self.template.copy(without=type(self).without))
        self.clock = self.stack.enter_context(time_machine.travel(BEGIN + timedelta(hours=1), tick=False))
        self.memory = invariants.Memory()

    def teardown(self) -> None:
        self.stack.close()

    # -- how a step is done ---------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, crash: bool = False) -> Iterator[Session]:
        """Refusals are answers; a crash before the commit leaves nothing; anything else fails the test."""
        try:
            with self.stage.database.transaction() as tx:
                yield tx
                if crash:
                    tx.rollback()
        except Problem:
            return

    def actor(self, slug: str, *, operator: bool) -> Actor:
        return self.stage.administrator if operator else self.stage.members[slug]

    def one_of(self, pick: int, *states: str) -> UUID | None:
        with self.stage.database.snapshot() as tx:
            statement = sa.select(claims.ALLOCATIONS.c.id).where(claims.ALLOCATIONS.c.state.in_(states))
            found = list(tx.execute(statement.order_by(claims.ALLOCATIONS.c.id)).scalars())
        return found[pick % len(found)] if found else None

    # -- people ---------------------------------------------------------------------------------------------

    @rule(
        slug=st.sampled_from(SLUGS),
        gpus=st.integers(1, 4),
        model=st.sampled_from((None, None, *MODELS)),
        shape=st.sampled_from(("any", "any", "any", "same_host", "nvlink", "exclusive_host", "groups")),
        hours=HOURS,
        ahead=st.sampled_from((0, 0, 0, 1, 5, 30)),
        wait=st.booleans(),
        preemptible=st.booleans(),
        spread=st.booleans(),
        operator=st.booleans(),
        crash=st.integers(0, 9),
    )
    def claim(
        self,
        slug: str,
        gpus: int,
        model: str | None,
        shape: str,
        hours: int,
        ahead: int,
        operator: bool,
        crash: int,
        **more: bool,
    ) -> None:
        group: dict[str, Any] = {"gpus": gpus, "model": model}
        if shape == "groups":
            body: dict[str, Any] = {"groups": [group, {"gpus": 1, "same_host": True}]}
        else:
            body = group | ({} if shape == "any" else {shape: True})
        asked = ClaimRequest(
            workspace=slug,
            duration_seconds=hours * 3600,
            not_before=clock.now() + timedelta(hours=ahead) if ahead else None,
            wait=more["wait"],
            preemptible=more["preemptible"],
            placement="spread" if more["spread"] else "pack",
            **body,
        )
        actor = self.actor(slug, operator=operator)
        if not crash and self.swiftly(actor, asked):
            return
        with self.transaction(crash=crash == 1) as tx:
            claims.claim(tx, actor, asked, self.stage.settings)

    def swiftly(self, actor: Actor, asked: ClaimRequest) -> bool:
        database = self.stage.database
        with Session(database.engine, expire_on_commit=False, info=dict(database.info)) as tx:
            try:
                return swift.claim(tx, actor, asked, self.stage.settings) is not None
            except Problem:
                return True

    @rule(pick=st.integers(0, 50), crash=st.integers(0, 9))
    def release(self, pick: int, crash: int) -> None:
        found = self.one_of(pick, "requested", "queued", "reserved", "active")
        if found is not None:
            with self.transaction(crash=crash == 1) as tx:
                service.release(tx, self.stage.administrator, found)

    @rule(pick=st.integers(0, 50), hours=st.integers(-12, 96), crash=st.integers(0, 9))
    def extend(self, pick: int, hours: int, crash: int) -> None:
        found = self.one_of(pick, "active")
        if found is None:
            return
        with self.transaction(crash=crash == 1) as tx:
            end = clock.now() + timedelta(hours=hours)
            expiry.extend(tx, self.stage.administrator, found, end, self.stage.settings)

    @rule(slug=st.sampled_from(SLUGS), gpus=st.integers(0, 12), of_model=st.none() | st.integers(0, 6))
    def change_quota(self, slug: str, gpus: int, of_model: int | None) -> None:
        models = {} if of_model is None else {MODELS[0]: of_model}
        with self.transaction() as tx:
            administrator = self.stage.administrator
            found = workspaces.get(tx, administrator, slug)
            scoped = scopes.lock(tx, scopes.of_workspace(found))
            quota_setting.set_limits(tx, administrator, scoped, LimitsSet(gpus=gpus, models=models))

    # -- time and workers -----------------------------------------------------------------------------------

    @rule(minutes=st.sampled_from((1, 10, 45, 90, 600, 3000)))
    def time_passes(self, minutes: int) -> None:
        self.clock.move_to(clock.now() + timedelta(minutes=minutes))

    @rule(seconds=st.integers(1, 120))
    def the_clock_steps_back(self, seconds: int) -> None:
        self.clock.move_to(max(BEGIN, clock.now() - timedelta(seconds=seconds)))

    @rule()
    def worker_keeps_time(self) -> None:
        timekeeping.keep(self.stage.database, system(), self.stage.settings)

    @rule()
    def worker_serves_the_queue(self) -> None:
        turns.serve(self.stage.database, system(), self.stage.settings)

    @rule(crash=st.integers(0, 3))
    def worker_dies_at_an_end(self, crash: int) -> None:
        with self.stage.database.snapshot() as tx:
            overdue = expiry.overdue(tx)
        for found in overdue[:1]:
            with self.transaction(crash=crash > 0) as tx:
                expiry.expire(tx, system(), found)

    @rule(pick=st.integers(0, 3), well=st.integers(0, 4))
    def worker_ends_an_operation(self, pick: int, well: int) -> None:
        host_id = self.stage.hosts[pick]
        if not self.busy(host_id):
            return
        if well:
            ledger.finish(self.stage.database, host_id, ledger.report("reclaim"))
        else:
            ledger.finish(self.stage.database, host_id, event=OperationEvent.FAIL, reason="the test says so")

    def busy(self, host_id: UUID) -> bool:
        statement = sa.select(Operation.id).where(
            Operation.subject_id == host_id, Operation.ended_at.is_(None)
        )
        with self.stage.database.snapshot() as tx:
            return tx.execute(statement).first() is not None

    @rule(pick=st.integers(0, 3), deed=st.sampled_from(("repair", "maintain", "cordon", "uncordon")))
    def operators_act(self, pick: int, deed: str) -> None:
        host_id, actor = self.stage.hosts[pick], self.stage.administrator
        with self.transaction() as tx:
            if deed == "repair":
                fleet.request(tx, actor, host_id, Event.RECLAIM, fleet.RECLAIM)
            elif deed == "maintain":
                fleet.maintain(tx, actor, host_id, "a test")
            else:
                fleet.cordon(tx, actor, host_id, cordoned=deed == "cordon", reason="a test")

    # -- somebody with a database client --------------------------------------------------------------------

    @rule(pick=st.integers(0, 50))
    def raw_sql_writes_a_second_hold(self, pick: int) -> None:
        """A hold over the time of another, long closed or open, on the same GPU."""
        with self.stage.database.snapshot() as tx:
            rows = list(tx.execute(sa.select(HOLDS).order_by(HOLDS.c.id)).mappings())
        if not rows:
            return
        row = dict(rows[pick % len(rows)])
        ended = row["ended_at"] or row["started_at"] + timedelta(hours=1)
        self.refused(sa.insert(HOLDS).values(row | {"id": new_id(), "ended_at": ended}))

    @rule(pick=st.integers(0, 50), hours=st.integers(0, 3))
    def raw_sql_books_twice(self, pick: int, hours: int) -> None:
        """A reservation over another's time, or over the planned time of a hold."""
        with self.stage.database.snapshot() as tx:
            open_ones = sa.select(BOOKINGS).where(BOOKINGS.c.closed_at.is_(None)).order_by(BOOKINGS.c.id)
            rows = list(tx.execute(open_ones).mappings())
        if not rows:
            return
        row = dict(rows[pick % len(rows)])
        later = min(row["starts_at"] + timedelta(hours=hours), row["free_at"] - timedelta(seconds=1))
        moved = {"id": new_id(), "starts_at": later, "ends_at": row["free_at"], "free_at": row["free_at"]}
        self.refused(sa.insert(BOOKINGS).values(row | moved))

    def refused(self, statement: sa.Executable) -> None:
        try:
            with self.stage.database.transaction() as tx:
                tx.execute(statement)
        except DBAPIError:
            return

    # -- what must be true ----------------------------------------------------------------------------------

    @initialize()
    def furnished(self) -> None:
        self.everything_promised_is_kept()

    @invariant()
    def everything_promised_is_kept(self) -> None:
        type(self).steps += 1
        with self.stage.database.snapshot() as tx:
            invariants.check(invariants.read(tx), self.memory)

    @rule()
    def finance_asks(self) -> None:
        """For every GPU: allocated + idle + reclaiming + maintenance = enrolled seconds, or it raises."""
        if clock.now() > self.start():
            with self.stage.database.snapshot() as tx:
                billing.usage_report(tx, self.start(), clock.now())

    def start(self) -> datetime:
        return BEGIN - timedelta(days=1)
