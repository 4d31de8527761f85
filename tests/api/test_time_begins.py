"""A reserved window begins by itself: with its GPUs, with others like them, late, or never."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.allocations import activation, claims
from api.allocations.models import Hold, Reservation
from api.core.db import Database, table
from api.fleet.models import Gpu
from api.settings import Settings
from tests.conftest import Client
from tests.support import ledger, times
from tests.support.ledger import H100
from tests.support.times import CLAIMS, Times

GPUS, HOLDS, RESERVATIONS = table(Gpu), table(Hold), table(Reservation)
QUOTAS = "/api/v1/workspaces/default/quotas"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"token_lifetime": 400 * 86400})


@pytest.fixture
def clock(client: Client, database: Database, settings: Settings) -> Times:
    return times.begin(client, database, settings)


def booked(clock: Times, made: Any) -> set[str]:
    return {row["gpu_id"] for row in clock.reserved(allocation_id=made["id"])}


def held(found: Any) -> set[str]:
    return {gpu["gpu_id"] for gpu in found["gpus"]}


def test_it_begins_with_the_gpus_that_were_reserved(clock: Times, fleet: Any) -> None:
    host = fleet("a", gpus=4)
    fleet("b", gpus=4)
    made = clock.claim(clock.window(1, 2, gpus=2))
    mine = booked(clock, made)
    with clock.when(0.99):
        assert clock.look(made)["state"] == "reserved"
    with clock.when(1):
        found = clock.look(made)
        assert (found["state"], held(found)) == ("active", mine)
        assert found["started_at"] == found["not_before"]
        assert found["expires_at"] == made["expires_at"]
        assert found["why"]["policy"] == "reserved"
        assert clock.client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "allocated"
        assert clock.reserved() == []
    with clock.when(2):
        assert clock.look(made)["state"] == "expired"
        assert clock.client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "reclaiming"


def test_it_begins_once_whoever_and_how_often(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=2)
    made = clock.claim(clock.window(1, 2))
    with clock.when(1.1, worker=False), ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda _: clock.work(), range(4)))
        found = clock.look(made)
        assert (found["state"], len(found["gpus"])) == ("active", 1)
        clock.work()
        assert clock.look(made) == found
    with clock.database.snapshot() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(HOLDS)).scalar_one() == 1
        assert tx.execute(sa.select(sa.func.count()).where(GPUS.c.held_by.is_not(None))).scalar_one() == 1
    begun = [
        row
        for row in clock.client.ok("GET", "/api/v1/admin/audit", params={"limit": 200})["items"]
        if row["action"] == "allocation.granted"
    ]
    assert len(begun) == 1


def test_a_worker_that_dies_on_the_way_leaves_it_reserved(
    clock: Times, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet("a", gpus=2)
    made = clock.claim(clock.window(1, 2))
    mine = booked(clock, made)

    class Died(Exception):
        pass

    def dies(tx: Session, *arguments: Any, **more: Any) -> None:
        grant(tx, *arguments, **more)
        raise Died

    grant = claims.grant
    with monkeypatch.context() as patch, clock.when(1, worker=False):
        patch.setattr(claims, "grant", dies)
        clock.work()
        assert clock.look(made)["state"] == "reserved"
        assert booked(clock, made) == mine
    with clock.when(1.01):
        assert held(clock.look(made)) == mine


def test_a_host_in_maintenance_is_replaced_by_one_like_it(clock: Times, fleet: Any) -> None:
    hosts = {"a": fleet("a", gpus=2), "b": fleet("b", gpus=2)}
    fleet("c", gpus=2, model="NVIDIA L40S")
    made = clock.claim(clock.window(1, 2, gpus=2, same_host=True, model=H100))
    (first,) = {row["host"] for row in clock.reserved()}
    clock.client.ok("POST", f"/api/v1/admin/machines/{hosts[first]}/maintenance")
    with clock.when(1):
        found = clock.look(made)
        assert found["state"] == "active"
        assert {gpu["host"] for gpu in found["gpus"]} == hosts.keys() - {first}
        assert clock.reserved() == []


def test_another_s_reservation_is_never_the_replacement(clock: Times, fleet: Any) -> None:
    hosts = {"a": fleet("a", gpus=1), "b": fleet("b", gpus=1)}
    one, two = clock.claim(clock.window(1, 2)), clock.claim(clock.window(1.5, 3))
    (sick,) = {row["host"] for row in clock.reserved(allocation_id=one["id"])}
    clock.client.ok("POST", f"/api/v1/admin/machines/{hosts[sick]}/maintenance")
    others = booked(clock, two)
    with clock.when(1):
        assert clock.look(one)["state"] == "reserved"
        assert booked(clock, two) == others
    with clock.when(1.5):
        assert held(clock.look(two)) == others


def test_it_waits_for_a_host_that_is_cleaned_and_its_workspace_is_told_once(
    clock: Times, fleet: Any, database: Database
) -> None:
    host = fleet("a", gpus=2)
    before = clock.claim(clock.until(0.5, gpus=2))
    made = clock.claim(clock.window(1, 2, gpus=2))
    with clock.when(0.6):
        assert clock.look(before)["state"] == "expired"
    for hours in (1, 1.1, 1.2):
        with clock.when(hours):
            found = clock.look(made)
            assert (found["state"], found["why"]["late"]["code"]) == ("reserved", "capacity-exceeded")
            (notice,) = clock.told("allocation.late", subject_id=made["id"])
            assert notice["user_id"] == clock.client.user_id
            clock.refused("capacity-exceeded", clock.until(1.5))
    with clock.when(1.3, worker=False):
        ledger.finish(database, host, ledger.report("reclaim"))
        clock.work()
        found = clock.look(made)
        assert (found["state"], found["expires_at"]) == ("active", made["expires_at"])
        assert "late" not in found["why"]


def test_what_could_not_begin_until_its_end_is_over(clock: Times, fleet: Any) -> None:
    host = fleet("a", gpus=1)
    made = clock.claim(clock.window(1, 2))
    clock.client.ok("POST", f"/api/v1/admin/machines/{host}/maintenance")
    with clock.when(1.99):
        assert clock.look(made)["state"] == "reserved"
    with clock.when(2):
        found = clock.look(made)
        assert (found["state"], found["started_at"]) == ("expired", None)
        assert "over before" in found["reason"]
        assert clock.reserved() == []
        assert len(clock.told("allocation.missed")) == 1
        clock.work()
        assert len(clock.told("allocation.missed")) == 1


def test_a_tenant_who_is_overdue_is_waited_for(clock: Times, fleet: Any, database: Database) -> None:
    """No worker ran at the end of the hold before: it is ended first, then the host is cleaned."""
    host = fleet("a", gpus=1)
    before = clock.claim(clock.until(0.5))
    made = clock.claim(clock.window(1, 2))
    with clock.when(1):
        assert clock.look(before)["state"] == "expired"
        assert clock.look(made)["state"] == "reserved"
        ledger.finish(database, host, ledger.report("reclaim"))
    with clock.when(1.01):
        assert clock.look(made)["state"] == "active"


def test_a_host_whose_other_tenant_ends_at_that_moment_is_not_cleaned_first(clock: Times, fleet: Any) -> None:
    host = fleet("a", gpus=2)
    before = clock.claim(clock.until(1))
    made = clock.claim(clock.window(1, 2))
    with clock.when(1):
        assert [clock.look(one)["state"] for one in (before, made)] == ["expired", "active"]
        assert clock.client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "allocated"
        assert clock.told("allocation.late") == []
    with clock.when(2):
        assert clock.client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "reclaiming"


def test_a_quota_lowered_meanwhile_is_minded(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=4)
    made = clock.claim(clock.window(1, 2, gpus=2))
    mine = booked(clock, made)
    clock.client.ok("PUT", QUOTAS, json={"gpus": 1})
    with clock.when(1):
        found = clock.look(made)
        assert (found["state"], found["why"]["late"]["code"]) == ("reserved", "quota-exceeded")
        assert booked(clock, made) == mine
        clock.client.ok("PUT", QUOTAS, json={"gpus": 2})
    with clock.when(1.1):
        assert held(clock.look(made)) == mine


def test_one_after_another_up_to_the_quota(clock: Times, fleet: Any, database: Database) -> None:
    """The second begins where the first ends, and each needs all that the workspace may hold."""
    clock.client.ok("PUT", QUOTAS, json={"gpus": 2})
    fleet("a", gpus=2), fleet("b", gpus=2)
    one, two = clock.claim(clock.window(1, 2, gpus=2)), clock.claim(clock.window(2, 3, gpus=2))
    with clock.when(1):
        assert clock.look(one)["state"] == "active"
    with clock.when(2):
        assert [clock.look(made)["state"] for made in (one, two)] == ["expired", "active"]


def test_a_clock_that_steps_back_begins_nothing_twice_and_ends_nothing(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.window(1, 2))
    with clock.when(1.5):
        found = clock.look(made)
        assert found["state"] == "active"
    with clock.when(0.5):
        assert clock.look(made) == found
        clock.refused("capacity-exceeded", clock.window(1, 2))
    with clock.when(1.2):
        ended = clock.client.ok("POST", f"{CLAIMS}/{made['id']}/release")
        assert ended["ended_at"] > ended["started_at"]


def test_a_clock_that_jumps_over_the_window_ends_it(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.window(1, 2))
    with clock.when(24 * 30):
        assert clock.look(made)["state"] == "expired"
    with clock.when(1):
        assert clock.look(made)["state"] == "expired"
        assert clock.claim(clock.window(2, 3))["state"] == "reserved"


def test_one_that_fails_holds_up_no_other(clock: Times, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet("a", gpus=2)
    one, two = clock.claim(clock.window(1, 2)), clock.claim(clock.window(1.1, 2))
    activate = activation.activate

    def fails(tx: Session, actor: Any, allocation_id: Any, settings: Settings, **more: bool) -> bool:
        if str(allocation_id) == one["id"]:
            raise RuntimeError("on purpose")
        return activate(tx, actor, allocation_id, settings, **more)

    monkeypatch.setattr(activation, "activate", fails)
    with clock.when(1.2):
        assert [clock.look(made)["state"] for made in (one, two)] == ["reserved", "active"]


def test_its_log_tells_both(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.window(1, 2))
    with clock.when(1), clock.when(2):
        rows = clock.client.ok("GET", "/api/v1/admin/audit", params={"limit": 200})["items"]
    told = [row["action"] for row in rows if row["subject_id"] == made["id"]]
    assert sorted(told) == ["allocation.expired", "allocation.granted", "allocation.reserved"]
