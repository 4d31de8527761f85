"""Preemptible allocations yield, after a notice, to claims that wait and are not preemptible."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2 as httpx
import pytest
import sqlalchemy as sa
import time_machine

from api.allocations import preemption, turns
from api.allocations.preemption import Holder
from api.core import clock
from api.core.db import Database
from api.core.ids import new_id
from api.core.notices import Notice
from api.fleet.placement import Wanted
from api.fleet.pool import Demand, Pool, Slot
from api.settings import Settings
from tests.api.test_queue import CLAIMS, DAY, HOUR, hold, line, quota, release, seen, state, wait, workspace
from tests.conftest import Client
from tests.support import ledger
from tests.support.ledger import SYSTEM
from tests.support.server import api_server, worker_process

NOTICE = 600


@pytest.fixture
def serve(database: Database, settings: Settings) -> Any:
    return lambda: turns.serve(database, SYSTEM, settings)


def look(client: Client, allocation_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.ok("GET", f"{CLAIMS}/{allocation_id}")
    return found


def planned(client: Client, *ids: str) -> list[bool]:
    return [look(client, one)["preempt_at"] is not None for one in ids]


def notices(database: Database, subject: str) -> list[str]:
    statement = sa.select(Notice).where(Notice.subject_id == UUID(subject)).order_by(Notice.id)  # type: ignore[arg-type]
    with database.snapshot() as tx:
        return [row.kind for row in tx.execute(statement).scalars()]


def test_it_yields_also_where_notice_and_clean_take_less_than_a_minute(
    client: Client, fleet: Any, database: Database, settings: Settings
) -> None:
    quota(client)
    workspace(client, "cheap")
    fleet("a", gpus=2)
    victim = hold(client, 2, preemptible=True, workspace="cheap")
    claim = wait(client, 2)
    brief = settings.model_copy(update={"preemption_notice": 10, "cleaning_gap": 10})
    turns.serve(database, SYSTEM, brief)
    assert planned(client, victim) == [True]
    with time_machine.travel(clock.now() + timedelta(seconds=11), tick=False):
        turns.serve(database, SYSTEM, brief)
        assert state(client, victim) == "preempted"
    assert state(client, claim) == "queued"


def test_it_yields_after_a_notice_and_the_gpus_go_to_whom_it_yielded_to(
    client: Client, fleet: Any, serve: Any, database: Database
) -> None:
    quota(client)
    workspace(client, "cheap")
    host = fleet("a", gpus=4)
    victim = hold(client, 4, preemptible=True, workspace="cheap")
    problem = client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 2})
    assert problem["preemptible"] == 4
    assert "wait=true" in problem["detail"]
    begin = datetime.now(UTC)
    queued = wait(client, 2, workspace="default")
    serve()
    told = look(client, victim)
    assert told["state"] == "active"
    at = datetime.fromisoformat(told["preempt_at"])
    assert 0 <= (at - begin).total_seconds() - NOTICE < 60
    assert notices(database, victim) == ["allocation.preemption_planned"]
    assert seen(client, queued)["yielding"] == 1
    assert datetime.fromisoformat(seen(client, queued)["enough_at"]) == at + timedelta(minutes=15)
    serve()
    assert look(client, victim)["preempt_at"] == told["preempt_at"]

    with time_machine.travel(at + timedelta(seconds=1)):
        serve()
        ended = look(client, victim)
        assert (ended["state"], ended["preempt_at"]) == ("preempted", None)
        assert queued in ended["reason"]
        assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "reclaiming"
        ledger.finish(database, host, ledger.report("reclaim"))
        # Idle, and not served yet: nobody who comes by may take what it needs, in whatever way they ask.
        passer_by = {"gpus": 3, "duration_seconds": DAY}
        client.problem("POST", CLAIMS, 409, "capacity-exceeded", json=passer_by)
        client.problem("POST", CLAIMS, 409, "capacity-exceeded", json=passer_by | {"priority": 100})
        pushing = wait(client, 3, priority=100)
        serve()
        assert state(client, queued) == "active"
        assert state(client, pushing) == "queued"
    assert notices(database, victim) == ["allocation.preemption_planned", "allocation.preempted"]
    assert notices(database, queued) == ["allocation.granted"]
    actions = {row["action"] for row in client.ok("GET", "/api/v1/admin/audit")["items"]}
    assert {"allocation.preemption_planned", "allocation.preempted", "allocation.granted"} <= actions


def test_a_withdrawn_claim_calls_it_off(client: Client, fleet: Any, serve: Any, database: Database) -> None:
    fleet("a", gpus=2)
    victim = hold(client, 2, preemptible=True)
    queued = wait(client, 2)
    serve()
    assert planned(client, victim) == [True]
    release(client, queued)
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=NOTICE + 60)):
        serve()
    assert look(client, victim)["state"] == "active"
    assert planned(client, victim) == [False]
    assert "yields_to" not in look(client, victim)["why"]
    assert notices(database, victim) == ["allocation.preemption_planned", "allocation.preemption_called_off"]
    # And it can be asked to yield again.
    wait(client, 1)
    serve()
    assert planned(client, victim) == [True]


def test_a_claim_that_is_granted_otherwise_calls_it_off(client: Client, fleet: Any, serve: Any) -> None:
    quota(client)
    fleet("a", gpus=2)
    victim = hold(client, 2, preemptible=True)
    queued = wait(client, 2)
    serve()
    assert planned(client, victim) == [True]
    fleet("b", gpus=2)
    serve()
    assert state(client, queued) == "active"
    serve()
    assert planned(client, victim) == [False]
    assert state(client, victim) == "active"


def test_a_claim_that_waits_for_its_quota_makes_nobody_yield(client: Client, fleet: Any, serve: Any) -> None:
    workspace(client, "small", 2)
    quota(client)
    fleet("a", gpus=2)
    victim = hold(client, 2, preemptible=True)
    wait(client, 2, workspace="small")
    serve()
    assert planned(client, victim) == [True]
    quota(client, 1, "small")
    serve()
    serve()
    assert planned(client, victim) == [False]


def test_nobody_yields_to_a_preemptible_claim_nor_do_guaranteed_ones(
    client: Client, fleet: Any, serve: Any
) -> None:
    quota(client)
    fleet("a", gpus=4)
    guaranteed = hold(client, 2)
    cheap = hold(client, 2, preemptible=True)
    problem = client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1, "preemptible": True})
    assert "preemptible" not in problem
    wait(client, 2, preemptible=True, priority=100)
    wait(client, 4)  # with all that may yield there is still too little
    serve()
    assert planned(client, guaranteed, cheap) == [False, False]
    wait(client, 2, 2 * DAY)  # that would take from the one of four what it waits for
    serve()
    assert planned(client, guaranteed, cheap) == [False, False]
    wait(client, 2, HOUR)
    serve()
    assert planned(client, guaranteed, cheap) == [False, True]


def test_nobody_yields_when_it_would_begin_as_early_anyway(client: Client, fleet: Any, serve: Any) -> None:
    quota(client)
    fleet("a", gpus=2)
    hold(client, 1, NOTICE)
    cheap = hold(client, 1, preemptible=True)
    wait(client, 1)
    serve()
    assert planned(client, cheap) == [False]


def test_the_fewest_and_least_yield(client: Client, fleet: Any, serve: Any) -> None:
    quota(client)
    fleet("a", gpus=8)
    now = datetime.now(UTC)
    victims = {}
    for number, (gpus, priority) in enumerate([(1, -5), (2, 0), (2, 0), (1, 0), (1, 3)]):
        with time_machine.travel(now + timedelta(minutes=number)):
            victims[number] = hold(client, gpus, preemptible=True, priority=priority)
    with time_machine.travel(now + timedelta(minutes=10)):
        hold(client, 1)
        wait(client, 1)
        serve()
        assert planned(client, *victims.values()) == [True, False, False, False, False]
        wait(client, 2)
        serve()  # of the equal ones the later
        assert planned(client, *victims.values()) == [True, False, True, False, False]


def test_two_claims_make_two_yield(client: Client, fleet: Any, serve: Any, database: Database) -> None:
    quota(client)
    fleet("a", gpus=4)
    hold(client, 2)
    victims = [hold(client, 1, preemptible=True) for _ in range(2)]
    queued = [wait(client, 1) for _ in range(2)]
    serve()
    assert planned(client, *victims) == [True, True]
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=NOTICE + 60)):
        serve()
        serve()
        assert [state(client, one) for one in victims] == ["preempted", "preempted"]
        assert [state(client, one) for one in queued] == ["active", "active"]
    assert line(client) == []


def test_a_victim_that_ends_by_itself_is_not_preempted(client: Client, fleet: Any, serve: Any) -> None:
    quota(client)
    fleet("a", gpus=2)
    hold(client, 1)
    victim = hold(client, 1, preemptible=True)
    queued = wait(client, 1)
    serve()
    release(client, victim)
    serve()
    assert state(client, queued) == "active"
    assert look(client, victim)["state"] == "released"


def test_choosing() -> None:
    """The rules of choice by themselves: GPUs of one host each, all held."""
    now = clock.now()
    hosts = [new_id() for _ in range(3)]
    later = now + timedelta(days=1)

    def slot(host: UUID, holder: UUID, gpus: int) -> Slot:
        return Slot(host, "d", "m", 1000, "r", {}, holder, later, None, gpus)

    def holder(priority: int, minutes: int, gpus: int) -> Holder:
        return Holder(new_id(), priority, now + timedelta(minutes=minutes), gpus)

    at = now + timedelta(hours=1)
    ones = [holder(0, number, 1) for number in range(4)]
    whole, high = holder(0, 9, 4), holder(1, 20, 4)
    pool = Pool(
        now,
        (
            *(slot(hosts[0], one.id, 1) for one in ones),
            slot(hosts[1], whole.id, 4),
            slot(hosts[2], high.id, 4),
        ),
    )
    everybody = [*ones, whole, high]

    def chosen(*groups: Wanted) -> list[Holder]:
        return preemption.choose(pool, Demand(groups, lasts=timedelta(hours=1)), everybody, at)

    assert chosen(Wanted(1)) == [ones[3]]  # holds least, and began last of those
    assert chosen(Wanted(4, same_host=True)) == [whole]  # one instead of four
    assert set(chosen(Wanted(5))) == {whole, ones[3]}
    assert high not in chosen(Wanted(8))  # those of lower priority suffice
    assert len(chosen(Wanted(12))) == 6
    assert chosen(Wanted(13)) == []
    assert chosen(Wanted(1, model="another")) == []


def test_the_notice_is_a_setting(client: Client, fleet: Any, database: Database, settings: Settings) -> None:
    fleet("a", gpus=2)
    hold(client, 1)
    victim = hold(client, 1, preemptible=True)
    queued = wait(client, 1, HOUR)
    at_once = settings.model_copy(update={"preemption_notice": 0})
    for _ in range(2):
        turns.serve(database, SYSTEM, at_once)
    assert state(client, victim) == "preempted"
    assert state(client, queued) == "active"


def test_end_to_end_with_a_real_worker(
    client: Client, fleet: Any, settings: Settings, tmp_path: Path
) -> None:
    fleet("a", gpus=2)
    hold(client, 1)
    victim = hold(client, 1, preemptible=True)
    url = settings.database_url
    with (
        api_server(tmp_path, url) as address,
        httpx.Client(base_url=address, headers={"Authorization": client.headers["Authorization"]}) as api,
        worker_process(tmp_path, url, queue_interval="0.2", preemption_notice="1", queue_polling="600"),
    ):
        answer = api.post(CLAIMS, json={"gpus": 1, "duration_seconds": HOUR, "wait": True})
        assert answer.status_code == 202, answer.text
        path = f"{CLAIMS}/{answer.json()['id']}"
        deadline = time.monotonic() + 30
        noticed = False
        while (found := api.get(path).json())["state"] == "queued":
            assert time.monotonic() < deadline, found
            noticed = noticed or api.get(f"{CLAIMS}/{victim}").json()["preempt_at"] is not None
            time.sleep(0.1)
    assert noticed
    assert found["state"] == "active"
    assert state(client, victim) == "preempted"
