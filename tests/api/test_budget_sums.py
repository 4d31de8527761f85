"""What a budget says is promised is the sum over all allocations, whatever was done, and by how many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api.allocations.models import Allocation, Hold, Reservation
from api.core import clock as platform_clock
from api.core.db import Database, table
from api.settings import Settings
from api.workspaces.models import BudgetPeriod, Membership, Spent, Workspace
from tests.conftest import Client
from tests.support.budgets import CLAIMS, DEFAULT, NOON, ORGANISATION, Bank, settings_of

HOLDS, BOOKED, ALLOCATIONS = table(Hold), table(Reservation), table(Allocation)
OTHER, LABS = "/api/v1/workspaces/other", "/api/v1/organisations/labs"
ZONES = ("UTC", "Europe/Berlin", "America/Los_Angeles", "Pacific/Kiritimati", "Asia/Kolkata")


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


@pytest.fixture
def settings(clock: time_machine.Traveller, database_url: str, tmp_path: Path) -> Settings:
    return settings_of(database_url, tmp_path, allocation_grace=600)


@pytest.fixture
def bank(
    client: Client, database: Database, settings: Settings, clock: time_machine.Traveller, fleet: Any
) -> Bank:
    fleet("a", gpus=40)
    for slug in ("other", "keeper"):
        client.ok("POST", "/api/v1/workspaces", 201, json={"slug": slug, "name": slug, "gpus": 40})
    client.ok("PUT", f"{DEFAULT}/quotas", json={"gpus": 40})
    client.ok("POST", "/api/v1/organisations", 201, json={"slug": "labs", "name": "Labs"})
    made = Bank(client, database, settings, clock)
    made.rate("1.234567")
    return made


def seconds(start: datetime, end: datetime, low: datetime, high: datetime) -> int:
    first, last = max(start, low).timestamp(), min(end, high).timestamp()
    return max(0, int(last // 1) - int(first // 1))


def cost(resource: Spent, rate: Decimal | None, amount: int) -> Decimal:
    if resource is Spent.GPU_SECONDS:
        return Decimal(amount)
    exact = (rate or Decimal(0)) * amount / 3600
    return exact.quantize(Decimal("0.000001"), ROUND_HALF_UP)


def sums(database: Database) -> dict[Any, tuple[tuple[Decimal, Decimal], tuple[Decimal, Decimal]]]:
    """Of each stored period: (committed, overrun) as it says, and as holds and reservations say."""
    with database.snapshot() as tx:
        homes = {row.id: row.organisation_id for row in tx.execute(sa.select(table(Workspace)))}
        members = {
            (row.workspace_id, row.user_id): row.id for row in tx.execute(sa.select(table(Membership)))
        }
        joined = HOLDS.join(ALLOCATIONS, ALLOCATIONS.c.id == HOLDS.c.allocation_id)
        uses: list[tuple[set[UUID], Decimal | None, datetime, datetime, datetime | None]] = []
        for row in tx.execute(sa.select(HOLDS, ALLOCATIONS.c.ends_at).select_from(joined)):
            planned = max(row.ends_at, row.started_at)
            ended = row.ended_at or planned
            scopes = {row.workspace_id, homes[row.workspace_id], members.get((row.workspace_id, row.user_id))}
            late = ended if ended > planned else None
            uses.append((scopes, row.rate, row.started_at, min(planned, ended), late))
        for row in tx.execute(sa.select(BOOKED).where(BOOKED.c.closed_at.is_(None))):
            scopes = {row.workspace_id, homes[row.workspace_id], members.get((row.workspace_id, row.user_id))}
            uses.append((scopes, row.rate, row.starts_at, row.ends_at, None))
        found = {}
        for row in tx.execute(sa.select(table(BudgetPeriod))):
            low, high = row.period_start, row.period_end
            mine = [use[1:] for use in uses if row.scope_id in use[0]]
            committed = sum(
                (cost(row.resource, rate, seconds(start, end, low, high)) for rate, start, end, _ in mine),
                Decimal(0),
            )
            overrun = sum(
                (
                    cost(row.resource, rate, seconds(end, late, low, high))
                    for rate, _, end, late in mine
                    if late is not None
                ),
                Decimal(0),
            )
            key = (row.scope_id, row.resource, low, high)
            found[key] = ((row.committed, row.overrun), (committed, overrun))
        return found


def check(database: Database) -> None:
    found = sums(database)
    assert {key: said for key, (said, _) in found.items()} == {key: true for key, (_, true) in found.items()}
    by_budget: dict[Any, list[tuple[datetime, datetime]]] = {}
    for scope_id, resource, start, end in found:
        by_budget.setdefault((scope_id, resource), []).append((start, end))
    for periods in by_budget.values():
        assert all(end == start for (_, end), (start, _) in pairwise(sorted(periods)))


numbers = st.integers(1, 3)
hours = st.decimals("0.1", "900", places=2).map(float)
pauses = st.decimals("0.1", "120", places=2).map(float)
claim = st.tuples(st.just("claim"), st.sampled_from(["default", "other"]), numbers, hours)
acts = st.one_of(
    *[claim] * 3,
    st.tuples(st.just("reserve"), st.sampled_from(["default", "other"]), numbers, hours),
    st.tuples(st.just("extend"), numbers, hours),
    st.tuples(st.just("release"), numbers),
    *[st.tuples(st.just("transfer"), numbers)] * 2,
    st.tuples(st.just("wait"), pauses),
    st.tuples(st.just("late"), pauses),
    st.tuples(st.just("rate"), st.decimals("0.000001", "9", places=6).map(str)),
    st.tuples(
        st.just("budget"),
        st.sampled_from([DEFAULT, OTHER, ORGANISATION, "member"]),
        st.one_of(st.none(), st.integers(1, 4000).map(str)),
        st.one_of(st.none(), st.integers(1, 4000).map(str)),
    ),
    st.tuples(st.just("zone"), st.sampled_from(ZONES)),
    st.tuples(st.just("move"), st.sampled_from(["default", "labs"])),
)


def do(bank: Bank, made: list[Any], act: tuple[Any, ...]) -> None:  # noqa: C901, PLR0912 - one line each
    """Whatever is refused changes nothing, which the sums show."""
    client, now = bank.client, platform_clock.now()
    pick = made[act[1] % len(made)] if made and act[0] in ("extend", "release", "transfer") else None
    match act:
        case ("claim", workspace, gpus, length):
            asked = {"workspace": workspace, "gpus": gpus, "duration_seconds": int(length * 3600)}
            answer = client.post(CLAIMS, json=asked)
            if answer.status_code == 201:
                made.append(answer.json())
        case ("reserve", workspace, gpus, length):
            begin = now + timedelta(hours=length)
            asked = {"workspace": workspace, "gpus": gpus, "not_before": begin.isoformat()}
            answer = client.post(CLAIMS, json=asked | {"duration_seconds": int(length * 3600)})
            if answer.status_code == 201:
                made.append(answer.json())
        case ("extend", _, length) if pick:
            end = now + timedelta(hours=length)
            client.post(f"{CLAIMS}/{pick['id']}/extend", json={"expires_at": end.isoformat()})
        case ("release", _) if pick:
            client.post(f"{CLAIMS}/{pick['id']}/release")
            made.remove(pick)
        case ("transfer", _) if pick:
            to = {"default": "other", "other": "default"}[pick["workspace"]]
            asked = {"workspace": to, "reason": "they go on"}
            if client.post(f"{CLAIMS}/{pick['id']}/transfer", json=asked).status_code == 200:
                pick["workspace"] = to
        case ("wait", length):
            bank.wait(length)
            bank.work()
            bank.clean()
        case ("late", length):
            bank.wait(length)
        case ("rate", price):
            bank.rate(price)
        case ("budget", where, gpu_hours, money):
            path = f"{DEFAULT}/members/{client.user_id}" if where == "member" else where
            client.ok("PUT", f"{path}/budgets", json={"gpu_hours": gpu_hours, "money": money})
        case ("zone", zone):
            client.ok("PATCH", DEFAULT, json={"time_zone": zone})
        case ("move", organisation):
            client.patch(OTHER, json={"organisation": organisation})


@hypothesis_settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sequence=st.lists(acts, min_size=8, max_size=16))
def test_committed_is_the_sum_over_all_allocations(bank: Bank, sequence: list[tuple[Any, ...]]) -> None:
    made: list[Any] = []
    for where in (ORGANISATION, LABS, DEFAULT, OTHER, f"{DEFAULT}/members/{bank.client.user_id}"):
        bank.budget(where)
    bank.client.ok("PATCH", OTHER, json={"organisation": "default"})
    bank.clean()
    keeper = bank.claim(1, 24 * 80, workspace="keeper")  # GPUs that are given back need no clean host
    bank.budget(gpu_hours="3000", money="3000")
    bank.budget(ORGANISATION, gpu_hours="5000")
    try:
        for act in sequence:
            bank.wait(0.001)
            do(bank, made, act)
            check(bank.database)
    finally:
        bank.wait(0.001)
        for one in (*made, keeper):
            bank.client.post(f"{CLAIMS}/{one['id']}/release")
    check(bank.database)


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    ready = threading.Barrier(len(works))

    def started(work: Callable[[], Any]) -> Any:
        ready.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(started, works))


def test_racing_claims_never_promise_more_than_there_is(bank: Bank) -> None:
    """Of two workspaces, under their organisation's budget alone and with months that nobody opened yet."""
    bank.budget(ORGANISATION, gpu_hours="3500")
    free = 3500 - sum(bank.committed(ORGANISATION)[:1])
    before = bank.committed(ORGANISATION)
    asked = {"gpus": 1, "duration_seconds": 300 * 3600}

    def one(workspace: str) -> Callable[[], int]:
        return lambda: bank.client.post(CLAIMS, json=asked | {"workspace": workspace}).status_code

    statuses = at_once([one("default"), one("other")] * 6)
    assert set(statuses) <= {201, 409}
    check(bank.database)
    assert bank.committed(ORGANISATION)[0] - before[0] <= free
    assert statuses.count(201) >= 6


@pytest.mark.parametrize("attempt", range(4))
def test_a_budget_that_is_set_while_claims_are_made_counts_them_all(bank: Bank, attempt: int) -> None:
    def one() -> int:
        return bank.client.post(CLAIMS, json={"gpus": 1, "duration_seconds": 3600}).status_code

    def limit() -> int:
        where = (DEFAULT, ORGANISATION)[attempt % 2]
        return bank.client.put(f"{where}/budgets", json={"gpu_hours": "10000"}).status_code

    def move() -> int:
        return bank.client.patch(DEFAULT, json={"organisation": "labs"}).status_code

    bank.budget(LABS, gpu_hours="10000")
    others = [limit] if attempt < 2 else [limit, move]
    statuses = at_once([one, one, one, *others, one, one, one])
    assert set(statuses) <= {200, 201}
    check(bank.database)
