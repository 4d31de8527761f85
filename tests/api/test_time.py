"""Windows that have not begun: what is set aside, what that refuses, and who counts what."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from api.allocations.models import Reservation
from api.core.db import Database, table
from api.core.ids import new_id
from api.fleet.models import Gpu
from api.settings import Settings
from tests.conftest import Client
from tests.support import times
from tests.support.ledger import H100
from tests.support.times import BOOKINGS, CLAIMS, GAP, Times

RESERVATIONS, GPUS = table(Reservation), table(Gpu)
QUOTAS = "/api/v1/workspaces/default/quotas"


@pytest.fixture
def clock(client: Client, database: Database, settings: Settings) -> Times:
    return times.begin(client, database, settings)


def test_a_window_that_begins_later_sets_gpus_aside_and_holds_nothing(clock: Times, fleet: Any) -> None:
    host = fleet("a", gpus=4)
    made = clock.claim(clock.window(1, 2, gpus=3))
    assert (made["state"], made["gpus"], made["started_at"]) == ("reserved", [], None)
    assert made["why"]["hosts"][0]["host"] == "a"
    rows = clock.reserved(allocation_id=made["id"])
    assert len({row["gpu_id"] for row in rows}) == 3
    assert {row["host_id"] for row in rows} == {str(host)}
    moments = {(row["starts_at"], row["ends_at"]) for row in rows}
    assert moments == {(made["not_before"], made["expires_at"])}
    assert clock.client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "idle"
    assert all(gpu["held_by"] is None for gpu in clock.client.ok("GET", "/api/v1/gpus")["items"])


def test_one_that_is_withdrawn_is_free_again(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.window(1, 2))
    clock.refused("capacity-exceeded", clock.until(3))
    assert clock.client.ok("POST", f"{CLAIMS}/{made['id']}/release")["state"] == "cancelled"
    assert clock.reserved() == []
    assert [row["closed_at"] is None for row in clock.reserved(closed=True)] == [False]
    clock.claim(clock.until(3))


@pytest.mark.parametrize(("begin", "end"), [(1, 2), (0.5, 1.5), (1.5, 3), (1.2, 1.3), (0.5, 3), (2.2, 3)])
def test_overlapping_windows_are_refused_with_the_gap(
    clock: Times, fleet: Any, begin: float, end: float
) -> None:
    """The last begins in the clean after the first."""
    fleet("a", gpus=1)
    clock.claim(clock.window(1, 2))
    problem = clock.refused("reservation-conflict", clock.window(begin, end))
    assert (problem["free"], problem["reserved"], problem["matching"]) == (0, 1, 1)
    assert problem["enough_at"] >= clock.at(2.25).isoformat()
    lasts = timedelta(hours=end - begin)
    told = problem["enough_at"]
    later = {"gpus": 1, "not_before": told, "duration_seconds": int(lasts.total_seconds())}
    assert clock.claim(later)["state"] == "reserved"


def test_adjacent_windows_with_exactly_the_gap_fit(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    clock.claim(clock.window(2, 3))
    gap = GAP / timedelta(hours=1)
    second = 1 / 3600
    clock.refused("reservation-conflict", clock.window(3 + gap - second, 4))
    clock.claim(clock.window(3 + gap, 4))
    clock.refused("reservation-conflict", clock.window(1, 2 - gap + second))
    clock.claim(clock.window(1, 2 - gap))


def test_a_hold_and_a_window_after_it(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    clock.claim(clock.until(1))
    clock.refused("capacity-exceeded", clock.window(1.24, 2))
    clock.claim(clock.window(1.25, 2))


def test_a_window_and_a_hold_before_it(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    clock.claim(clock.window(2, 3))
    problem = clock.refused("capacity-exceeded", clock.until(1.76))
    assert problem["reserved"] == 1
    clock.claim(clock.until(1.75))


def _row(database: Database, clock: Times, begin: float, end: float) -> dict[str, Any]:
    """Like the first reservation, by raw SQL."""
    with database.snapshot() as tx:
        row = dict(tx.execute(sa.select(RESERVATIONS).limit(1)).mappings().one())
    when = {"starts_at": clock.at(begin), "ends_at": clock.at(end), "free_at": clock.at(end) + GAP}
    return row | when | {"id": new_id()}


def test_the_database_refuses_overlaps_by_itself(clock: Times, fleet: Any, database: Database) -> None:
    fleet("a", gpus=1)
    clock.claim(clock.window(2, 3))
    for begin, end in ((2, 3), (1, 2.5), (2.9, 4), (2.1, 2.2), (1, 5), (3.2, 4), (1, 1.8)):
        with pytest.raises(DBAPIError), database.transaction() as tx:
            tx.execute(sa.insert(RESERVATIONS), [_row(database, clock, begin, end)])
    for begin, end in ((3.25, 4), (1, 1.75)):
        with database.transaction() as tx:
            tx.execute(sa.insert(RESERVATIONS), [_row(database, clock, begin, end)])
    for change in ({"ends_at": clock.at(2.5)}, {"gpu_id": new_id()}):
        with pytest.raises(DBAPIError), database.transaction() as tx:
            tx.execute(sa.update(RESERVATIONS).values(change))
    with pytest.raises(DBAPIError), database.transaction() as tx:
        tx.execute(sa.delete(RESERVATIONS))


def test_the_database_refuses_a_hold_over_a_reservation_in_both_orders(
    clock: Times, fleet: Any, database: Database
) -> None:
    fleet("a", gpus=2)
    reserved = clock.claim(clock.window(2, 3))
    booked = clock.reserved()[0]["gpu_id"]
    long = sa.update(GPUS).values(held_by=new_id(), held_until=clock.at(2.1))
    with pytest.raises(DBAPIError), database.transaction() as tx:
        tx.execute(long.where(GPUS.c.booked_from.is_not(None)))
    clock.client.ok("POST", f"{CLAIMS}/{reserved['id']}/release")
    held = clock.claim(clock.until(4, gpus=2))
    assert booked in {gpu["gpu_id"] for gpu in held["gpus"]}
    row = _row(database, clock, 2, 3)
    with pytest.raises(DBAPIError), database.transaction() as tx:
        tx.execute(sa.insert(RESERVATIONS), [row | {"closed_at": None}])


@pytest.mark.parametrize(
    ("wanted", "hosts"),
    [
        ({"gpus": 2, "model": "NVIDIA L40S"}, {"small"}),
        ({"gpus": 2, "region": "north"}, {"small"}),
        ({"gpus": 1, "labels": {"rack": "r1"}}, {"small"}),
        ({"gpus": 4, "nvlink": True}, {"small"}),
        ({"gpus": 5, "same_host": True}, {"big"}),
        ({"gpus": 3, "exclusive_host": True}, {"small"}),
        ({"gpus": 8}, {"big", "small"}),
        ({"gpus": 2, "placement": "spread"}, {"big", "small"}),
    ],
)
def test_a_window_keeps_every_filter(
    clock: Times, fleet: Any, wanted: dict[str, Any], hosts: set[str]
) -> None:
    clock.client.ok("PUT", QUOTAS, json={"gpus": 100})
    fleet("big", gpus=6)
    fleet("small", gpus=4, model="NVIDIA L40S", region="north", labels={"rack": "r1"})
    clock.claim(clock.window(1, 2, **wanted))
    rows = clock.reserved(limit=200)
    assert {row["host"] for row in rows} == hosts
    assert len(rows) == (4 if wanted.get("exclusive_host") else wanted["gpus"])


def test_a_window_for_several_groups_is_all_or_nothing(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=3), fleet("b", gpus=3)
    two = {"gpus": 2, "same_host": True}
    asked = clock.window(1, 2, groups=[two, two], separate_hosts=True)
    del asked["gpus"]
    clock.claim(asked)
    assert sorted(row["host"] for row in clock.reserved()) == ["a", "a", "b", "b"]
    clock.refused("reservation-conflict", asked)
    assert len(clock.reserved()) == 4


def test_windows_have_bounds(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    for begin, end in ((24 * 200, 24 * 201), (2, 1), (1, 24 * 100)):
        clock.client.problem("POST", CLAIMS, 422, "invalid-request", json=clock.window(begin, end))
    assert clock.claim(clock.window(-1, 1))["state"] == "active"


def test_a_host_that_will_not_be_there_is_not_counted_on(clock: Times, fleet: Any) -> None:
    host = fleet("a", gpus=1)
    path = f"/api/v1/admin/machines/{host}"
    clock.client.ok("POST", f"{path}/cordon", json={"reason": "fans"})
    clock.refused("capacity-exceeded", clock.window(1, 2))
    clock.client.ok("POST", f"{path}/uncordon")
    clock.client.ok("POST", f"{path}/maintenance")
    clock.refused("capacity-exceeded", clock.window(1, 2))


def test_what_is_reserved_counts_in_the_quota_of_its_time(clock: Times, fleet: Any) -> None:
    clock.client.ok("PUT", QUOTAS, json={"gpus": 2, "models": {H100: 2}})
    fleet("a", gpus=8)
    clock.claim(clock.window(2, 4))
    problem = clock.refused("quota-exceeded", clock.window(3, 5, gpus=2))
    assert (problem["limit"], problem["used"], problem["asked"]) == (2, 1, 2)
    clock.claim(clock.window(4, 6, gpus=2))
    clock.claim(clock.window(3, 4))
    clock.refused("quota-exceeded", clock.window(3.9, 4))
    clock.claim(clock.window(1, 2, gpus=2))


def test_a_claim_now_leaves_what_is_reserved(clock: Times, fleet: Any) -> None:
    clock.client.ok("PUT", QUOTAS, json={"gpus": 2})
    fleet("a", gpus=8)
    clock.claim(clock.window(2, 4, gpus=2))
    problem = clock.refused("quota-exceeded", clock.until(3))
    assert (problem["limit"], problem["used"], problem["asked"]) == (2, 2, 1)
    clock.claim(clock.until(2, gpus=2))
    clock.refused("quota-exceeded", clock.until(1))


def test_consecutive_windows_are_not_added_up(clock: Times, fleet: Any) -> None:
    clock.client.ok("PUT", QUOTAS, json={"gpus": 2})
    fleet("a", gpus=8)
    clock.claim(clock.window(1, 2)), clock.claim(clock.window(2, 3)), clock.claim(clock.window(3, 4))
    assert clock.claim(clock.until(5))["state"] == "active"
    clock.refused("quota-exceeded", clock.until(2))


def test_members_and_organisations_have_quotas_of_their_own_in_that_time(clock: Times, fleet: Any) -> None:
    """A member's reservations count for them alone, those of all workspaces in their organisation."""
    client = clock.client
    fleet("a", gpus=8)
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "other", "name": "Other", "gpus": 8})
    member = client.as_new("member")
    client.ok("PUT", f"/api/v1/workspaces/other/members/{member.user_id}", json={"role": "member"})
    client.ok("PUT", f"/api/v1/workspaces/other/members/{member.user_id}/quotas", json={"gpus": 2})
    theirs = clock.window(1, 2, gpus=2, workspace="other")
    member.ok("POST", CLAIMS, 201, json=theirs)
    for asked in (theirs, clock.until(1.5, workspace="other")):
        problem = member.problem("POST", CLAIMS, 409, "quota-exceeded", json=asked)
        assert (problem["scope"], problem["limit"], problem["used"]) == ("member", 2, 2)
    clock.claim(clock.window(1, 2, workspace="other"))
    client.ok("PUT", "/api/v1/organisations/default/quotas", json={"gpus": 4})
    for asked in (clock.window(1.5, 3, gpus=2), clock.until(2, gpus=2)):
        problem = clock.refused("quota-exceeded", asked)
        assert (problem["scope"], problem["limit"], problem["used"]) == ("organisation", 4, 3)
    clock.claim(clock.until(1, gpus=2))


def test_members_see_the_calendar_of_their_workspaces(clock: Times, fleet: Any) -> None:
    client = clock.client
    host = fleet("a", gpus=4)
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "other", "name": "Other"})
    member = client.as_new("member")
    client.ok("PUT", f"/api/v1/workspaces/other/members/{member.user_id}", json={"role": "member"})
    clock.claim(clock.window(1, 2))
    own = member.ok("POST", CLAIMS, 201, json=clock.window(3, 4, workspace="other"))
    assert [row["allocation_id"] for row in member.ok("GET", BOOKINGS)["items"]] == [own["id"]]
    member.problem("GET", BOOKINGS, 404, "not-found", params={"workspace": "default"})
    assert len(clock.reserved()) == 2
    assert len(clock.reserved(workspace="other")) == 1
    assert len(clock.reserved(host_id=str(host))) == 2
    assert clock.reserved(host_id=str(new_id())) == []
    gpu = clock.reserved()[0]["gpu_id"]
    assert {row["gpu_id"] for row in clock.reserved(gpu_id=gpu)} == {gpu}
    times_of = {"from": clock.at(2.5).isoformat(), "to": clock.at(3.5).isoformat()}
    assert [row["workspace"] for row in clock.reserved(**times_of)] == ["other"]
    assert len(clock.reserved(**{"from": clock.at(2.1).isoformat()})) == 2
    page = client.ok("GET", BOOKINGS, params={"limit": 1})
    following = client.ok("GET", BOOKINGS, params={"limit": 1, "cursor": page["next_cursor"]})
    assert {row["id"] for row in page["items"] + following["items"]} == {
        row["id"] for row in clock.reserved()
    }


def test_racing_windows_for_the_same_gpus_have_one_winner_each(clock: Times, fleet: Any) -> None:
    clock.client.ok("PUT", QUOTAS, json={"gpus": 100})
    fleet("a", gpus=3)
    other = clock.client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "b", "name": "B", "gpus": 100})
    line = threading.Barrier(8)

    def book(number: int) -> tuple[int, str]:
        line.wait()
        workspace = "default" if number % 2 else other["slug"]
        asked = clock.window(1, 2, workspace=workspace)
        answer = clock.client.post(
            CLAIMS, json=asked if number < 6 else clock.until(1.5, workspace=workspace)
        )
        return answer.status_code, answer.json().get("code", "")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(book, range(8)))
    assert sorted(status for status, _ in answers) == [201] * 3 + [409] * 5
    assert {code for _, code in answers} <= {"", "reservation-conflict", "capacity-exceeded"}
    with clock.database.snapshot() as tx:
        clash = sa.and_(GPUS.c.held_by.is_not(None), GPUS.c.held_until > GPUS.c.booked_from)
        assert tx.execute(sa.select(GPUS.c.id).where(clash)).all() == []
        open_ones = RESERVATIONS.c.closed_at.is_(None)
        booked = list(tx.execute(sa.select(RESERVATIONS.c.gpu_id).where(open_ones)).scalars())
        held = list(tx.execute(sa.select(GPUS.c.id).where(GPUS.c.held_by.is_not(None))).scalars())
        assert len(set(booked + held)) == len(booked + held) == 3


def test_the_earliest_begin_is_kept_when_two_are_written_at_once(
    clock: Times, fleet: Any, database: Database
) -> None:
    """Each transaction writes one window of the same GPU while the other is not committed."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    fleet("a", gpus=1)
    clock.claim(clock.window(9, 10))
    insert, open_ones = sa.insert(RESERVATIONS), RESERVATIONS.c.closed_at.is_(None)
    close = (
        sa.update(RESERVATIONS).where(RESERVATIONS.c.starts_at == clock.at(1)).values(closed_at=clock.zero)
    )

    def meanwhile(statement: sa.Executable, rows: list[dict[str, Any]] | None = None) -> None:
        with database.transaction() as tx:
            tx.execute(statement, rows)

    for first, second in (
        ((insert, [_row(database, clock, 1, 2)]), (insert, [_row(database, clock, 5, 6)])),
        ((insert, [_row(database, clock, 3, 4)]), (close,)),
    ):
        with ThreadPoolExecutor(1) as thread:
            with database.transaction() as tx:
                tx.execute(*first)
                waits = thread.submit(meanwhile, *second)
                with pytest.raises(TimeoutError):
                    waits.result(0.3)
            waits.result(10)
        with database.snapshot() as tx:
            least = sa.select(sa.func.min(RESERVATIONS.c.starts_at)).where(open_ones)
            assert tx.execute(sa.select(GPUS.c.booked_from)).scalar_one() == tx.execute(least).scalar_one()
