"""The machine: what people, workers, clocks and accidents do to a ledger, in any order."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from api.allocations import claims, expiry, service, swift, timekeeping, turns, waiting
from api.allocations.models import ClaimRequest, Hold, Placement, Reservation
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
from tests.machine import invariants, promises_of_turns
from tests.machine.base import WHO, Base
from tests.machine.deciding import Deciding
from tests.machine.limiting import Limiting
from tests.machine.snapshot import read
from tests.machine.stage import BEGIN, MODELS, SLUGS
from tests.support import ledger

HOURS = st.integers(1, 72)
HOLDS, BOOKINGS = table(Hold), table(Reservation)


class LedgerMachine(Limiting, Deciding, Base):
    """Claims and their ends, time, workers and raw SQL; limits and decisions are in the parts above it."""

    # -- people ---------------------------------------------------------------------------------------------

    @rule(
        slug=st.sampled_from(SLUGS),
        gpus=st.integers(1, 4),
        model=st.sampled_from((None, None, *MODELS)),
        shape=st.sampled_from(("any", "any", "any", "same_host", "nvlink", "exclusive_host", "groups")),
        hours=HOURS,
        ahead=st.sampled_from((0, 0, 0, 1, 5, 30)),
        wait=st.booleans(),
        priority=st.sampled_from((0, 0, 0, 5)),
        preemptible=st.booleans(),
        placement=st.sampled_from(Placement),
        who=st.sampled_from(WHO),
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
        who: str,
        crash: int,
        **more: Any,
    ) -> None:
        group: dict[str, Any] = {"gpus": gpus, "model": model}
        if shape == "groups":
            body: dict[str, Any] = {"groups": [group, {"gpus": 1, "same_host": True}]}
        else:
            body = group | ({} if shape == "any" else {shape: True})
        begin = clock.now() + timedelta(hours=ahead) if ahead else None
        self.ask(who, crash, workspace=slug, duration_seconds=hours * 3600, not_before=begin, **body, **more)

    @rule(
        slug=st.sampled_from(SLUGS),
        gpus=st.integers(1, 3),
        hours=HOURS,
        who=st.sampled_from(WHO),
        preemptible=st.booleans(),
    )
    def claim_any(self, slug: str, gpus: int, hours: int, who: str, preemptible: bool) -> None:
        """The common claim."""
        what = {"workspace": slug, "gpus": gpus, "preemptible": preemptible}
        self.ask(who, 0, duration_seconds=hours * 3600, **what)

    def ask(self, who: str, crash: int, **body: Any) -> None:
        """As the API does: in one statement where that can be."""
        asked = ClaimRequest(**body)
        actor = self.actor(who, asked.workspace)
        must_ask = who == "plain" and self.must_ask(asked.workspace, asked)
        if crash != 1 and self.swiftly(actor, asked):
            assert not must_ask, "held without the approval that it needs"
            return
        with self.transaction(crash=crash == 1) as tx:
            made = claims.claim(tx, actor, asked, self.stage.settings)
            assert not must_ask or made.allocation.state == "requested", "nobody was asked"

    def swiftly(self, actor: Actor, asked: ClaimRequest) -> bool:
        """False where it was declined, or refused: the long way says the same then."""
        database = self.stage.database
        with Session(database.engine, expire_on_commit=False, info=dict(database.info)) as tx:
            try:
                return swift.claim(tx, actor, asked, self.stage.settings) is not None
            except Problem:
                return False

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
        promises_of_turns.nothing_is_left_over(self.snapshot(), clock.now())

    @rule()
    def worker_serves_the_queue(self) -> None:
        turns.serve(self.stage.database, system(), self.stage.settings)
        with self.stage.database.snapshot() as tx:
            line = [one.allocation for one in waiting.line(tx, self.stage.settings)]
            blocked = ("quota", "budget")
            first = next((one for one in line if (one.why or {}).get("waits_for") not in blocked), None)
            if first is not None:
                promises_of_turns.nobody_waits_in_vain(read(tx), first.id, clock.now(), self.stage.settings)

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
        self.mistakes.check()
        invariants.check(self.snapshot(), self.memory)

    @rule()
    def finance_asks(self) -> None:
        """For every GPU: allocated + idle + reclaiming + maintenance = enrolled seconds, or it raises."""
        if clock.now() > self.start():
            with self.stage.database.snapshot() as tx:
                billing.usage_report(tx, self.start(), clock.now())

    def start(self) -> datetime:
        return BEGIN - timedelta(days=1)
