"""Budgets of a month: what claims promise of them, what ends give back, who is refused, what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from sqlalchemy.exc import DBAPIError

from api.core.db import Database, table
from api.settings import Settings
from api.workspaces.models import BudgetPeriod
from tests.conftest import Client
from tests.support.budgets import APRIL, CLAIMS, DEFAULT, MARCH, NOON, ORGANISATION, Bank, settings_of
from tests.support.ledger import H100

HOUR = 3600


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


@pytest.fixture
def settings(clock: time_machine.Traveller, database_url: str, tmp_path: Path) -> Settings:
    return settings_of(database_url, tmp_path)


@pytest.fixture
def bank(
    client: Client, database: Database, settings: Settings, clock: time_machine.Traveller, fleet: Any
) -> Bank:
    fleet("a", gpus=8)
    return Bank(client, database, settings, clock)


def test_a_claim_promises_its_whole_time_and_its_end_gives_back_the_rest(bank: Bank) -> None:
    assert bank.budget(gpu_hours="100")[0]["hard_limit"] == "100.000000"
    made = bank.claim(2, 10)
    assert bank.committed() == [20]
    bank.wait(3)
    bank.release(made)
    assert bank.committed() == [6]
    bank.release(made)
    assert bank.committed() == [6]


def test_a_claim_that_cannot_finish_is_refused_with_what_would_fit(bank: Bank) -> None:
    bank.budget(gpu_hours="10")
    problem = bank.refused("budget-exceeded", 2, 10)
    assert (problem["scope"], problem["resource"]) == ("workspace", "gpu_seconds")
    assert (problem["period_start"], problem["period_end"]) == (MARCH.isoformat(), APRIL.isoformat())
    numbers = [Decimal(problem[name]) for name in ("limit", "committed", "asked")]
    assert numbers == [Decimal(10 * HOUR), Decimal(0), Decimal(20 * HOUR)]
    assert (problem["longest_seconds"], problem["most_gpus"]) == (5 * HOUR, 1)
    assert bank.client.ok("GET", CLAIMS)["items"] == []
    assert bank.committed() == [0]
    bank.client.problem("POST", CLAIMS, 409, "budget-exceeded", json={"gpus": 2, "duration_seconds": 18001})
    bank.claim(2, 5)
    problem = bank.refused("budget-exceeded", 1, 1)
    assert (problem["latest_end"], problem["longest_seconds"], problem["most_gpus"]) == (None, None, None)


def test_what_would_fit_knows_the_grace(
    client: Client, database: Database, clock: time_machine.Traveller, fleet: Any
) -> None:
    fleet("a", gpus=2)
    settings = client.app.state.settings  # type: ignore[attr-defined]
    settings.allocation_grace = 1800
    bank = Bank(client, database, settings, clock)
    bank.budget(gpu_hours="2")
    assert bank.refused("budget-exceeded", 1, 2)["longest_seconds"] == 5400
    bank.claim(1, 1.5)
    assert bank.committed() == [2]


def test_a_month_ends_where_the_workspace_s_time_zone_says(bank: Bank) -> None:
    bank.client.ok("PATCH", DEFAULT, json={"time_zone": "Europe/Berlin"})
    bank.clock.move_to("2027-03-31T20:00:00Z")
    bank.budget(gpu_hours="7")
    bank.budget(ORGANISATION, gpu_hours="100")
    made = bank.claim(1, 8)
    first, second = bank.periods()
    assert (first["start"], first["end"]) == ("2027-02-28T23:00:00Z", "2027-03-31T22:00:00Z")
    assert (second["start"], second["end"]) == ("2027-03-31T22:00:00Z", "2027-04-30T22:00:00Z")
    assert bank.committed() == [2, 6]
    assert bank.committed(ORGANISATION) == [4, 4]
    problem = bank.refused("budget-exceeded", 1, 4)
    assert (problem["period_start"], problem["longest_seconds"]) == ("2027-03-31T22:00:00+00:00", 3 * HOUR)
    bank.wait(1)
    bank.release(made)
    assert bank.committed() == [1, 0]
    bank.clock.move_to("2027-04-02T00:00:00Z")
    assert [period["start"] for period in bank.periods()] == ["2027-03-31T22:00:00Z"]


def test_money_is_rate_times_time_in_millionths(bank: Bank) -> None:
    bank.rate("2.000001")
    bank.budget(money="100", soft={"money": "10"})
    made = bank.client.ok("POST", CLAIMS, 201, json={"gpus": 3, "duration_seconds": 1000})
    each = (Decimal("2.000001") * 1000 / HOUR).quantize(Decimal("0.000001"))
    assert bank.committed(kind="money") == [3 * each]
    bank.release(made)
    problem = bank.refused("budget-exceeded", 8, 10)
    assert (problem["resource"], problem["most_gpus"]) == ("money", 4)
    bank.claim(4, 10)


def test_a_budget_of_money_needs_a_price(bank: Bank, fleet: Any) -> None:
    unpriced = bank.claim(1, 2)
    bank.rate("1.5", model="NVIDIA L40S")
    bank.budget(money="100")
    assert bank.committed(kind="money") == [0]
    problem = bank.refused("no-rate", 1, 1)
    assert problem["workspace"] == "default"
    later = {"expires_at": "2027-03-10T16:00:00Z"}
    bank.client.problem("POST", f"{CLAIMS}/{unpriced['id']}/extend", 409, "no-rate", json=later)
    bank.release(unpriced)
    fleet("b", gpus=2, model="NVIDIA L40S")
    bank.claim(2, 2, model="NVIDIA L40S")
    assert bank.committed(kind="money") == [6]


def test_a_soft_limit_warns_and_is_told_once_a_month(bank: Bank) -> None:
    bank.budget(gpu_hours="20", soft={"gpu_hours": "3"})
    assert bank.claim(1, 3)["warnings"] == []
    first, second = bank.claim(1, 1), bank.claim(1, 1)
    assert "soft limit of 3.00" in first["warnings"][0]
    assert "has 5.00 promised" in second["warnings"][0]
    (notice,) = bank.told("budget.soft_limit_crossed")
    assert notice["facts"]["scope"] == "workspace"
    bank.clock.move_to("2027-04-10T12:00:00Z")
    bank.claim(1, 4)
    assert len(bank.told("budget.soft_limit_crossed")) == 2


def test_every_level_counts_and_the_tightest_refuses(bank: Bank) -> None:
    client = bank.client
    member = client.as_new("member")
    mine = f"{DEFAULT}/members/{member.user_id}"
    client.ok("PUT", mine, json={"role": "member"})
    bank.budget(ORGANISATION, gpu_hours="10")
    bank.budget(gpu_hours="8")
    bank.budget(mine, gpu_hours="5")
    made = member.ok("POST", CLAIMS, 201, json={"gpus": 1, "duration_seconds": 4 * HOUR})
    assert [bank.committed(where) for where in (ORGANISATION, DEFAULT, mine)] == [[4], [4], [4]]
    problem = member.problem(
        "POST", CLAIMS, 409, "budget-exceeded", json={"gpus": 2, "duration_seconds": HOUR}
    )
    assert (problem["scope"], problem["most_gpus"]) == ("member", 1)
    assert bank.refused("budget-exceeded", 1, 5)["scope"] == "workspace"
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "other", "name": "Other"})
    assert bank.refused("budget-exceeded", 1, 7, workspace="other")["scope"] == "organisation"
    bank.claim(1, 6, workspace="other")
    bank.release(made)  # by another than who holds it
    assert [bank.committed(where) for where in (ORGANISATION, DEFAULT, mine)] == [[6], [0], [0]]
    client.ok("DELETE", mine, 204)
    client.ok("PUT", mine, json={"role": "member"})
    assert client.ok("GET", f"{mine}/budgets") == []


def test_a_new_budget_counts_what_is_held_and_reserved_already(bank: Bank) -> None:
    ended, held = bank.claim(1, 5), bank.claim(2, 10)
    bank.wait(2)
    bank.release(ended)
    bank.client.ok(
        "POST",
        CLAIMS,
        201,
        json={"gpus": 1, "not_before": "2027-04-05T00:00:00Z", "expires_at": "2027-04-05T06:00:00Z"},
    )
    bank.budget(gpu_hours="7")
    assert bank.committed() == [22, 6]
    bank.refused("budget-exceeded", 1, 1)
    bank.wait(1)
    bank.release(held)
    assert bank.committed() == [8, 6]
    bank.budget(gpu_hours="9")
    bank.claim(1, 1)
    bank.budget()
    assert bank.client.ok("GET", f"{DEFAULT}/budgets") == []
    bank.claim(7, 100)


def test_lowering_a_budget_ends_nothing_and_blocks_what_is_new(bank: Bank) -> None:
    bank.budget(gpu_hours="10")
    made = bank.claim(1, 8)
    bank.budget(gpu_hours="2")
    assert (bank.committed(), bank.refused("budget-exceeded", 1, 0.1)["committed"]) == ([8], "28800.000000")
    bank.wait(1)
    bank.release(made)
    bank.claim(1, 1)


def test_a_reservation_promises_at_once_and_keeps_its_price(bank: Bank) -> None:
    bank.rate("2")
    bank.budget(gpu_hours="4", money="8")
    window = {"not_before": "2027-03-11T12:00:00Z", "expires_at": "2027-03-11T16:00:00Z"}
    made = bank.client.ok("POST", CLAIMS, 201, json={"gpus": 1} | window)
    assert (bank.committed(), bank.committed(kind="money")) == ([4], [8])
    bank.refused("budget-exceeded", 1, 1)
    bank.wait(1)
    bank.rate("50")
    bank.clock.move_to("2027-03-11T13:00:00Z")
    bank.work()
    assert bank.client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "active"
    assert (bank.committed(), bank.committed(kind="money")) == ([3], [6])
    bank.release(made)
    assert (bank.committed(), bank.committed(kind="money")) == ([0], [0])


def test_a_reservation_that_is_given_up_costs_nothing(bank: Bank) -> None:
    bank.budget(gpu_hours="4")
    window = {"not_before": "2027-03-31T22:00:00Z", "expires_at": "2027-04-01T02:00:00Z"}
    made = bank.client.ok("POST", CLAIMS, 201, json={"gpus": 2} | window)
    assert bank.committed() == [4, 4]
    sooner = {"expires_at": "2027-04-01T00:30:00Z"}
    bank.client.ok("POST", f"{CLAIMS}/{made['id']}/extend", json=sooner)
    assert bank.committed() == [4, 1]
    bank.release(made)
    assert bank.committed() == [0, 0]


def test_an_extension_must_fit_as_well(bank: Bank) -> None:
    bank.budget(gpu_hours="10")
    made = bank.claim(2, 3)
    longer = {"expires_at": "2027-03-10T18:00:00Z"}
    problem = bank.client.problem(
        "POST", f"{CLAIMS}/{made['id']}/extend", 409, "budget-exceeded", json=longer
    )
    assert (problem["latest_end"], problem["most_gpus"]) == ("2027-03-10T17:00:00+00:00", None)
    assert Decimal(problem["asked"]) == 6 * HOUR
    bank.client.ok("POST", f"{CLAIMS}/{made['id']}/extend", json={"expires_at": problem["latest_end"]})
    assert bank.committed() == [10]
    bank.client.ok("POST", f"{CLAIMS}/{made['id']}/extend", json={"expires_at": "2027-03-10T13:00:00Z"})
    assert bank.committed() == [2]


def test_what_was_held_past_its_end_is_overrun(bank: Bank) -> None:
    bank.rate("1")
    bank.budget(gpu_hours="2", money="2")
    bank.claim(2, 1)
    bank.wait(3)
    bank.work()
    for kind in ("gpu_hours", "money"):
        (period,) = bank.periods(kind=kind)
        assert [Decimal(period[name]) for name in ("committed", "overrun")] == [Decimal(2), Decimal(4)]


def test_what_grows_and_what_is_handed_over_moves_the_budgets(bank: Bank) -> None:
    client = bank.client
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "other", "name": "Other"})
    other = "/api/v1/workspaces/other"
    bank.budget(gpu_hours="20")
    bank.budget(other, gpu_hours="5")
    bank.budget(ORGANISATION, gpu_hours="20")
    made = bank.claim(1, 10)
    bank.wait(4)
    change = {"kind": "grow", "gpus": 2}
    client.problem("POST", f"{CLAIMS}/{made['id']}/changes", 409, "budget-exceeded", json=change)
    client.ok("POST", f"{CLAIMS}/{made['id']}/changes", 201, json=change | {"gpus": 1})
    assert bank.committed() == [10 + 6]
    asked = {"workspace": "other", "reason": "they go on with it"}
    client.problem("POST", f"{CLAIMS}/{made['id']}/transfer", 409, "budget-exceeded", json=asked)
    bank.wait(4)
    client.ok("POST", f"{CLAIMS}/{made['id']}/transfer", json=asked)
    assert bank.committed() == [8 + 4]
    assert bank.committed(other) == [2 + 2]
    assert bank.committed(ORGANISATION) == [10 + 6]


def test_a_workspace_takes_its_use_along_to_another_organisation(bank: Bank) -> None:
    client = bank.client
    client.ok("POST", "/api/v1/organisations", 201, json={"slug": "labs", "name": "Labs"})
    labs = "/api/v1/organisations/labs"
    bank.budget(ORGANISATION, gpu_hours="100")
    bank.budget(labs, gpu_hours="10")
    made = bank.claim(2, 6)
    client.problem("PATCH", DEFAULT, 409, "budget-exceeded", json={"organisation": "labs"})
    bank.wait(1)
    bank.release(made)
    held = bank.claim(1, 3)
    client.ok("PATCH", DEFAULT, json={"organisation": "labs"})
    assert (bank.committed(ORGANISATION), bank.committed(labs)) == ([0], [5])
    bank.refused("budget-exceeded", 1, 6)
    bank.release(held)
    assert (bank.committed(ORGANISATION), bank.committed(labs)) == ([0], [2])
    bank.budget(labs)
    bank.budget(ORGANISATION, gpu_hours="0")
    bank.claim(8, 100)  # its new organisation has none any more


def test_another_time_zone_counts_from_the_next_month_on(bank: Bank) -> None:
    bank.budget(gpu_hours="1000")
    window = {"not_before": "2027-03-31T20:00:00Z", "expires_at": "2027-05-01T06:00:00Z"}
    made = bank.client.ok("POST", CLAIMS, 201, json={"gpus": 1} | window)
    assert bank.committed() == [4, 720, 6]
    bank.client.ok("PATCH", DEFAULT, json={"time_zone": "America/Los_Angeles"})
    edges = [(period["start"], period["end"]) for period in bank.periods()]
    assert edges == [
        ("2027-03-01T00:00:00Z", "2027-04-01T00:00:00Z"),
        ("2027-04-01T00:00:00Z", "2027-05-01T07:00:00Z"),
    ]
    assert bank.committed() == [4, 726]
    bank.release(made)
    assert bank.committed() == [0, 0]


def test_the_database_refuses_an_overrun_by_raw_sql(bank: Bank) -> None:
    bank.budget(gpu_hours="1")
    bank.claim(1, 0.5)
    periods = table(BudgetPeriod)
    more = sa.update(periods).values(committed=periods.c.committed + Decimal(1801))
    with pytest.raises(DBAPIError, match="budget would be overrun"), bank.database.transaction() as tx:
        tx.execute(more)
    with pytest.raises(DBAPIError), bank.database.transaction() as tx:
        tx.execute(sa.update(periods).values(committed=Decimal(-1)))


def test_budgets_are_set_by_those_who_may(bank: Bank) -> None:
    client = bank.client
    owner, member = client.as_new("member"), client.as_new("member")
    for user, role in ((owner, "owner"), (member, "member")):
        client.ok("PUT", f"{DEFAULT}/members/{user.user_id}", json={"role": role})
    theirs = f"{DEFAULT}/members/{member.user_id}/budgets"
    asked = {"gpu_hours": "3"}
    owner.problem("PUT", f"{DEFAULT}/budgets", 403, "forbidden", json=asked)
    owner.problem("PUT", f"{ORGANISATION}/budgets", 403, "forbidden", json=asked)
    member.problem("PUT", theirs, 403, "forbidden", json=asked)
    owner.ok("PUT", theirs, json=asked)
    assert member.ok("GET", theirs)[0]["hard_limit"] == "3.000000"
    member.problem("GET", f"{DEFAULT}/members/{owner.user_id}/budgets", 403, "forbidden")
    member.problem("GET", f"{ORGANISATION}/budgets", 403, "forbidden")
    client.as_new("member").problem("GET", f"{DEFAULT}/budgets", 404, "not-found")
    for wrong in (
        {"gpu_hours": "-1"},
        {"money": "1.001"},
        {"money": "1", "soft": {"money": "2"}},
        {"gpus": 1},
    ):
        client.problem("PUT", f"{DEFAULT}/budgets", 422, "invalid-request", json=wrong)
    actions = {event["action"] for event in client.ok("GET", "/api/v1/admin/audit")["items"]}
    assert "budget.changed" in actions


def test_budgets_have_a_version(bank: Bank) -> None:
    seen = bank.client.get(f"{DEFAULT}/budgets").headers["ETag"]
    bank.client.ok("PUT", f"{DEFAULT}/budgets", json={"gpu_hours": "9"}, headers={"If-Match": seen})
    bank.client.problem(
        "PUT", f"{DEFAULT}/budgets", 412, "version-conflict", json={}, headers={"If-Match": seen}
    )
    seen = bank.client.get(f"{DEFAULT}/budgets").headers["ETag"]
    bank.claim(1, 1)
    bank.client.ok("PUT", f"{DEFAULT}/budgets", json={"gpu_hours": "8"}, headers={"If-Match": seen})


def test_without_budgets_a_claim_asks_nothing_of_them(bank: Bank) -> None:
    said: list[str] = []
    engine = bank.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    bank.release(bank.claim(1, 1, labels={}, model=H100))
    assert said
    assert [one for one in said if "budget_periods" in one or "FROM budgets" in one] == []


def test_a_claim_that_waits_is_refused_up_front_too(bank: Bank) -> None:
    bank.budget(gpu_hours="2")
    bank.refused("budget-exceeded", 1, 3, wait=True)
    bank.client.problem("POST", f"{CLAIMS}?dry_run=true", 409, "budget-exceeded", json={"gpus": 3})
    bank.client.ok("POST", f"{CLAIMS}?dry_run=true", json={"gpus": 1, "duration_seconds": HOUR})
    assert bank.committed() == [0]
