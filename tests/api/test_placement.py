"""Which GPUs a claim gets and why, what a refused one is told, and what either costs in a large fleet."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from api.core import clock
from api.core.db import Database, table
from api.core.ids import new_id
from api.fleet import placement
from api.fleet.models import Gpu, Health
from api.fleet.placement import CapacityExceeded, Wanted
from tests.bench import bulk
from tests.conftest import Client
from tests.support.ledger import H100, SYSTEM

CLAIMS = "/api/v1/allocations"
GPUS = table(Gpu)
GAP = timedelta(seconds=900)

postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture(autouse=True)
def _room(client: Client) -> None:
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 1000})


def where(made: dict[str, Any]) -> Counter[str]:
    return Counter(gpu["host"] for gpu in made["gpus"])


def change(database: Database, host: UUID, *, index: int | None = None, **values: Any) -> None:
    own = GPUS.c.host_id == host
    with database.transaction() as tx:
        which = own if index is None else sa.and_(own, GPUS.c.index == index)
        tx.execute(sa.update(GPUS).where(which).values(values))


def claim(client: Client, **asked: Any) -> dict[str, Any]:
    made: dict[str, Any] = client.ok("POST", CLAIMS, 201, json=asked)
    return made


def refused(client: Client, **asked: Any) -> dict[str, Any]:
    return client.problem("POST", CLAIMS, 409, "capacity-exceeded", json=asked)


# Groups


def test_groups_on_hosts_of_their_own(client: Client, fleet: Any) -> None:
    for name in ("a", "b", "c"):
        fleet(name, gpus=4)
    pair = [{"gpus": 2, "same_host": True}, {"gpus": 2, "same_host": True}]
    assert where(claim(client, groups=pair)) == {"a": 4}
    made = claim(client, groups=pair, separate_hosts=True)
    assert where(made) == {"b": 2, "c": 2}
    assert made["wanted"]["gpus"] == 4
    assert [(one["group"], one["host"], one["gpus"]) for one in made["why"]["hosts"]] == [
        (1, "b", 2),
        (2, "c", 2),
    ]


def test_all_groups_or_none(client: Client, fleet: Any) -> None:
    host = fleet("a", gpus=4)
    groups = [{"gpus": 2, "same_host": True}, {"gpus": 1, "model": "NVIDIA L40S"}]
    problem = refused(client, groups=groups)
    assert problem["group"] == 2
    assert problem["asked"] == {"gpus": 1, "model": "NVIDIA L40S"}
    assert [one["matching"] for one in problem["groups"]] == [4, 0]
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "idle"
    assert not any(gpu["held_by"] for gpu in client.ok("GET", "/api/v1/gpus")["items"])


def test_groups_that_compete_find_the_one_way(client: Client, fleet: Any) -> None:
    fleet("a", gpus=2, region="north"), fleet("b", gpus=2)
    groups = [
        {"gpus": 2, "same_host": True, "model": H100},
        {"gpus": 2, "same_host": True, "region": "north"},
    ]
    assert [gpu["host"] for gpu in claim(client, groups=groups)["gpus"]] == ["b", "b", "a", "a"]


def test_groups_that_are_too_many_together_are_told_so(client: Client, fleet: Any) -> None:
    fleet("a", gpus=4)
    problem = refused(client, groups=[{"gpus": 3}, {"gpus": 2}])
    assert "not enough beside the other groups" in problem["detail"]
    apart = refused(client, groups=[{"gpus": 1}, {"gpus": 1}], separate_hosts=True)
    assert [one["free"] for one in apart["groups"]] == [4, 4]


# Packing and spreading


def test_partly_used_hosts_are_filled_and_whole_ones_stay_whole(client: Client, fleet: Any) -> None:
    fleet("small", gpus=2), fleet("large", gpus=4), fleet("other", gpus=4)
    first = claim(client, gpus=1)
    assert where(first) == {"small": 1}
    assert first["why"] == {
        "policy": "pack",
        "hosts": [
            {"host": "small", "gpus": 1, "because": "it was idle: no partly used host had enough that match"}
        ],
    }
    tight = claim(client, gpus=3, same_host=True)
    assert where(tight) == {"large": 3}
    last = claim(client, gpus=2)
    assert where(last) == {"small": 1, "large": 1}
    assert {one["because"] for one in last["why"]["hosts"]} == {"it was partly used: its free GPUs go first"}
    assert where(claim(client, gpus=4, exclusive_host=True)) == {"other": 4}


def test_spread_uses_as_many_hosts_as_it_can(client: Client, fleet: Any) -> None:
    for name in ("a", "b", "c"):
        fleet(name, gpus=4)
    claim(client, gpus=1)
    made = claim(client, gpus=2, placement="spread")
    assert where(made) == {"b": 1, "c": 1}
    assert made["why"]["policy"] == "spread"
    assert where(claim(client, gpus=7, placement="spread")) == {"a": 3, "b": 2, "c": 2}


def test_spread_puts_groups_on_hosts_of_their_own_while_it_can(client: Client, fleet: Any) -> None:
    fleet("a", gpus=4), fleet("b", gpus=4)
    pair = [{"gpus": 2, "same_host": True}, {"gpus": 2, "same_host": True}]
    assert where(claim(client, groups=pair, placement="spread")) == {"a": 2, "b": 2}
    assert where(claim(client, groups=pair, placement="spread")) == {"a": 2, "b": 2}


def test_a_host_with_a_sick_gpu_is_not_whole(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a", gpus=4)
    change(database, host, index=3, health=Health.FAILED, schedulable=False)
    assert refused(client, gpus=3, exclusive_host=True)["apart"] is True
    assert refused(client, gpus=4)["unwell"] == 1
    fleet("b", gpus=3)
    assert where(claim(client, gpus=2, exclusive_host=True)) == {"b": 3}


def test_an_nvlink_domain_may_be_larger_than_a_host(client: Client, fleet: Any, database: Database) -> None:
    racks = [fleet(name, gpus=2) for name in ("a", "b", "c", "d")]
    for host, domain in zip(racks, ("other", "rack", "rack", "rack"), strict=True):
        change(database, host, nvlink_domain=domain)
    made = claim(client, gpus=5, nvlink=True)
    assert where(made) == {"b": 2, "c": 2, "d": 1}
    assert refused(client, gpus=3, nvlink=True)["apart"] is True
    refused(client, gpus=3, nvlink=True, same_host=True)
    assert where(claim(client, gpus=2, nvlink=True)) == {"a": 2}


def test_a_mig_profile_is_cut_from_whole_gpus_that_can_carry_it(
    client: Client, fleet: Any, database: Database
) -> None:
    unable, able = fleet("a"), fleet("b")
    change(database, able, mig_mode="disabled")
    assert unable != able
    made = claim(client, gpus=2, mig_profile="1g.10gb")
    assert where(made) == {"b": 2}
    (why,) = made["why"]["hosts"]
    assert why["because"].endswith("; each of its GPUs carries 7 of 1g.10gb")
    assert refused(client, gpus=1, mig_profile="1g.18gb")["matching"] == 0
    assert refused(client, gpus=9, mig_profile="3g.40gb")["matching"] == 8


# Refusals


def test_a_refusal_counts_why_each_gpu_cannot_be_had(client: Client, fleet: Any, database: Database) -> None:
    fleet("held", gpus=2)
    held = claim(client, gpus=2, duration_seconds=3600)
    cordoned, sick = fleet("cordoned", gpus=3), fleet("sick", gpus=2)
    client.ok("POST", f"/api/v1/admin/machines/{cordoned}/cordon", json={"reason": "fans"})
    change(database, sick, index=0, health=Health.FAILED, schedulable=False)
    problem = refused(client, gpus=4)
    counts = ("free", "held", "cordoned", "unwell", "unchecked", "reserved", "away", "matching")
    assert [problem[name] for name in counts] == [1, 2, 3, 1, 0, 0, 0, 7]
    assert problem["enough_at"] is None
    assert "3 are on cordoned hosts." in problem["detail"]
    soon = refused(client, gpus=3)
    assert datetime.fromisoformat(soon["enough_at"]) == datetime.fromisoformat(held["ends_at"]) + GAP
    assert "Enough will be free at" in soon["detail"]


def test_when_enough_will_be_together(client: Client, fleet: Any) -> None:
    fleet("a", gpus=2), fleet("b", gpus=2)
    ends = [
        claim(client, gpus=1, same_host=True, duration_seconds=hours * 3600, placement="spread")["ends_at"]
        for hours in (1, 5)
    ]
    problem = refused(client, gpus=2, same_host=True)
    assert problem["apart"] is True
    assert problem["free"] == 2
    assert datetime.fromisoformat(problem["enough_at"]) == datetime.fromisoformat(ends[0]) + GAP
    both = refused(client, groups=[{"gpus": 2, "same_host": True}] * 2)
    assert datetime.fromisoformat(both["enough_at"]) == datetime.fromisoformat(ends[1]) + GAP
    assert refused(client, gpus=3, same_host=True)["enough_at"] is None


def test_a_reservation_is_in_the_way_only_of_what_would_run_into_it(client: Client, fleet: Any) -> None:
    fleet("a", gpus=1)
    begin = datetime.now(UTC) + timedelta(hours=2)
    reserved = claim(client, gpus=1, not_before=begin.isoformat(), duration_seconds=3600)
    assert reserved["state"] == "reserved"
    problem = refused(client, gpus=1, duration_seconds=4 * 3600)
    assert (problem["free"], problem["reserved"]) == (0, 1)
    assert datetime.fromisoformat(problem["enough_at"]) == datetime.fromisoformat(reserved["ends_at"]) + GAP
    assert claim(client, gpus=1, duration_seconds=3600)["state"] == "active"


def test_what_is_being_cleaned_comes_back(client: Client, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = claim(client, gpus=1)
    client.ok("POST", f"{CLAIMS}/{made['id']}/release")
    problem = refused(client, gpus=1)
    assert (problem["away"], problem["held"]) == (1, 0)
    assert datetime.fromisoformat(problem["enough_at"]) <= datetime.now(UTC) + GAP


# Windows


def test_windows_are_chosen_around_holds_and_reservations(
    client: Client, fleet: Any, database: Database
) -> None:
    fleet("a", gpus=2), fleet("b", gpus=2)
    claim(client, gpus=1, duration_seconds=3600)
    now = datetime.now(UTC)
    claim(client, gpus=1, not_before=(now + timedelta(hours=5)).isoformat(), duration_seconds=3600)

    def hosts(start: float, end: float, *groups: Wanted, **how: bool) -> list[str]:
        window = [now + timedelta(hours=hours) for hours in (start, end)]
        with database.transaction() as tx:
            return [gpu.host for gpu in placement.choose(tx, groups, window[0], window[1], **how)]

    assert hosts(0.5, 1, Wanted(2, same_host=True)) == ["b", "b"]
    assert hosts(2, 4, Wanted(4)) == ["a", "a", "b", "b"]
    assert hosts(2, 4, Wanted(2), spread=True) == ["a", "b"]
    assert hosts(2, 4, Wanted(1), Wanted(1), separate=True) == ["a", "b"]
    assert hosts(2, 4, Wanted(2, exclusive_host=True)) == ["a", "a"]
    with pytest.raises(CapacityExceeded) as short:
        hosts(5.5, 6, Wanted(4))
    assert short.value.facts["free"] == 3


# Dry runs


def test_a_dry_run_answers_the_same_and_holds_nothing(client: Client, fleet: Any) -> None:
    host = fleet("a", gpus=4)
    before = client.ok("GET", "/api/v1/admin/audit")["items"]
    key = {"Idempotency-Key": "tried"}
    tried = client.ok("POST", CLAIMS, params={"dry_run": True}, json={"gpus": 2}, headers=key)
    assert tried["dry_run"] is True
    assert client.ok("GET", CLAIMS)["items"] == []
    assert client.ok("GET", "/api/v1/admin/audit")["items"] == before
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "idle"
    client.problem("GET", f"{CLAIMS}/{tried['id']}", 404, "not-found")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 2}, headers=key)
    assert made["dry_run"] is False
    assert [gpu["uuid"] for gpu in made["gpus"]] == [gpu["uuid"] for gpu in tried["gpus"]]
    assert made["why"] == tried["why"]
    dry = client.problem("POST", CLAIMS, 409, "capacity-exceeded", params={"dry_run": True}, json={"gpus": 3})
    assert dry["detail"] == refused(client, gpus=3)["detail"]


def test_a_dry_run_of_what_would_wait_or_begin_later(client: Client, fleet: Any) -> None:
    fleet("a", gpus=1)
    claim(client, gpus=1, duration_seconds=3600)
    waits = client.ok("POST", CLAIMS, params={"dry_run": True}, json={"gpus": 1, "wait": True})
    assert waits["state"] == "queued"
    begin = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    later = client.ok("POST", CLAIMS, params={"dry_run": True}, json={"gpus": 1, "not_before": begin})
    assert later["state"] == "reserved"
    assert [row["state"] for row in client.ok("GET", CLAIMS)["items"]] == ["active"]


# Large fleets


@postgresql
@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(1),
        Wanted(8, model=H100, memory_mib=1000),
        Wanted(2, same_host=True),
        Wanted(8, nvlink=True),
        Wanted(8, exclusive_host=True),
    ],
)
def test_a_claim_reads_a_few_rows_of_a_large_fleet(
    client: Client, fleet: Any, database: Database, wanted: Wanted
) -> None:
    first = fleet("h")
    bulk.hosts(database, first, 1000)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("ANALYZE"))
    seen: list[tuple[str, Any]] = []

    def note(*told: Any) -> None:
        if told[2].startswith("SELECT") and "FROM gpus" in told[2]:
            seen.append((told[2], told[3]))

    with Session(database.engine, info=dict(database.info)) as tx:
        event.listen(database.engine, "before_cursor_execute", note)
        placement.take(tx, SYSTEM, [wanted], new_id(), clock.now(), until=clock.now() + GAP)
        event.remove(database.engine, "before_cursor_execute", note)
    assert seen
    with database.engine.connect() as connection:
        for statement, parameters in seen:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            assert rows_read(explained.scalar_one()[0]["Plan"]) < 1000, statement


def rows_read(plan: dict[str, Any]) -> int:
    """By all scans below, with what their filters threw away."""
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if "Scan" in plan["Node Type"] else 0
    below = sum(rows_read(part) for part in plan.get("Plans", []))
    return int(own * plan["Actual Loops"]) + below
