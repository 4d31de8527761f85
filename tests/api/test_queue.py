"""Claims that wait: their order, who may be served before them, and what a pass over the queue does."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2 as httpx
import pytest
import sqlalchemy as sa
import time_machine
from sqlmodel import col

from api.allocations import turns
from api.core.db import Database, make_engine
from api.fleet.models import Gpu
from api.settings import Settings
from tests.conftest import Client
from tests.support import ledger
from tests.support.ledger import H100, SYSTEM
from tests.support.server import api_server, worker_process

CLAIMS, QUEUE = "/api/v1/allocations", "/api/v1/queue"
L40S = "NVIDIA L40S"
HOUR, DAY = 3600, 86400


@pytest.fixture
def serve(database: Database, settings: Settings) -> Any:
    """One pass over the queue, as a worker makes it."""
    return lambda: turns.serve(database, SYSTEM, settings)


def quota(client: Client, gpus: int = 1000, workspace: str = "default") -> None:
    client.ok("PUT", f"/api/v1/workspaces/{workspace}/quotas", json={"gpus": gpus})


def workspace(client: Client, slug: str, gpus: int = 1000) -> str:
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": slug, "name": slug, "gpus": gpus})
    return slug


def member(client: Client, slug: str, role: str = "member") -> Client:
    user = client.as_new("member")
    client.ok("PUT", f"/api/v1/workspaces/{slug}/members/{user.user_id}", json={"role": role})
    return user


def hold(client: Client, gpus: int, seconds: int = DAY, **more: Any) -> str:
    made = client.ok("POST", CLAIMS, 201, json={"gpus": gpus, "duration_seconds": seconds, **more})
    assert made["state"] == "active"
    return str(made["id"])


def wait(client: Client, gpus: int, seconds: int = DAY, **more: Any) -> str:
    body = {"gpus": gpus, "duration_seconds": seconds, "wait": True, **more}
    made = client.ok("POST", CLAIMS, 202, json=body)
    assert made["state"] == "queued"
    assert made["gpus"] == []
    return str(made["id"])


def state(client: Client, allocation_id: str) -> str:
    return str(client.ok("GET", f"{CLAIMS}/{allocation_id}")["state"])


def release(client: Client, allocation_id: str) -> None:
    client.ok("POST", f"{CLAIMS}/{allocation_id}/release")


def line(client: Client) -> list[str]:
    return [row["id"] for row in client.ok("GET", QUEUE)["items"]]


def seen(client: Client, allocation_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        row for row in client.ok("GET", QUEUE)["items"] if row["id"] == allocation_id
    )
    return found


def test_a_claim_that_can_be_granted_does_not_wait(client: Client, fleet: Any) -> None:
    fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 2, "wait": True})
    assert made["state"] == "active"
    assert client.ok("GET", QUEUE) == {"length": 0, "items": []}


def test_a_claim_waits_and_is_granted_when_gpus_come_free(client: Client, fleet: Any, serve: Any) -> None:
    quota(client)
    fleet("a", gpus=4)
    other, held = hold(client, 1), hold(client, 3, 7200)
    body = {"gpus": 3, "duration_seconds": HOUR, "wait": True}
    made = client.ok("POST", CLAIMS, 202, json=body)
    assert (made["state"], made["started_at"], made["expires_at"]) == ("queued", None, None)
    assert made["why"]["waits_for"] == "capacity"
    assert made["why"]["position"] == 1
    planned = datetime.fromisoformat(client.ok("GET", f"{CLAIMS}/{held}")["ends_at"])
    assert datetime.fromisoformat(made["why"]["enough_at"]) == planned + timedelta(minutes=15)
    serve()
    assert state(client, made["id"]) == "queued"
    release(client, held)
    serve()
    granted = client.ok("GET", f"{CLAIMS}/{made['id']}")
    assert (granted["state"], len(granted["gpus"])) == ("active", 3)
    begun, ends = (datetime.fromisoformat(granted[name]) for name in ("started_at", "expires_at"))
    assert abs((ends - begun).total_seconds() - HOUR) < 1
    assert state(client, other) == "active"
    actions = [row["action"] for row in client.ok("GET", "/api/v1/admin/audit")["items"]]
    assert [name for name in actions if name.startswith("allocation.")][:3] == [
        "allocation.granted",
        "allocation.released",
        "allocation.queued",
    ]


def test_what_can_never_be_granted_is_refused_at_once(client: Client, fleet: Any) -> None:
    quota(client, 12)
    fleet("a", gpus=4), fleet("b", gpus=4)
    code = "capacity-exceeded"
    body = {"wait": True}
    client.problem("POST", CLAIMS, 409, code, json=body | {"gpus": 9})
    client.problem("POST", CLAIMS, 409, code, json=body | {"gpus": 5, "same_host": True})
    client.problem("POST", CLAIMS, 409, code, json=body | {"gpus": 1, "model": "none such"})
    three = [{"gpus": 3, "same_host": True}] * 3
    client.problem("POST", CLAIMS, 409, code, json=body | {"groups": three})
    client.problem("POST", CLAIMS, 409, "quota-exceeded", json=body | {"gpus": 13})
    hold(client, 8)
    client.problem("POST", CLAIMS, 409, code, json=body | {"gpus": 5, "model": L40S})
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 12, "models": {H100: 3}})
    named = body | {"gpus": 4, "model": H100}
    client.problem("POST", CLAIMS, 409, "quota-exceeded", json=named)
    assert client.ok("GET", QUEUE)["length"] == 0
    assert len({gpu["held_by"] for gpu in client.ok("GET", "/api/v1/gpus")["items"]}) == 1


def test_priority_then_use_then_age(client: Client, fleet: Any, serve: Any) -> None:
    """One GPU at a time comes free; each pass serves the next in line."""
    client.outlast_sessions()
    quota(client)
    for slug in ("much", "little"):
        workspace(client, slug)
    host = fleet("a", gpus=5)
    keeper = hold(client, 1)
    now = datetime.now(UTC)
    with time_machine.travel(now + timedelta(hours=1)):
        held = [hold(client, 1, 10 * DAY, workspace="much") for _ in range(3)]
    with time_machine.travel(now + timedelta(hours=6)):
        held.append(hold(client, 1, 10 * DAY, workspace="little"))
        busy = wait(client, 1, workspace="much")
        idle = wait(client, 1, workspace="little")
        idle_later = wait(client, 1, workspace="little")
        low = wait(client, 1, workspace="little", priority=-1)
        high = wait(client, 1, workspace="much", priority=5)
        assert line(client) == [high, idle, idle_later, busy, low]
        assert [row["position"] for row in client.ok("GET", QUEUE)["items"]] == [1, 2, 3, 4, 5]
    with time_machine.travel(now + timedelta(hours=7)):
        assert seen(client, busy)["share_gpu_seconds"] == pytest.approx(3 * 6 * HOUR, abs=180)
        assert seen(client, idle)["share_gpu_seconds"] == pytest.approx(HOUR, abs=60)
        for expected, freed in zip((high, idle), held, strict=False):
            release(client, freed)
            serve()
            assert state(client, expected) == "active"
    assert state(client, keeper) == "active"
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "allocated"
    # What was used longer ago than the window does not count any more.
    with time_machine.travel(now + timedelta(days=9)):
        release(client, held[2])
    with time_machine.travel(now + timedelta(days=8, hours=23)):
        assert seen(client, busy)["share_gpu_seconds"] <= 2 * 7 * DAY


def test_a_priority_above_0_needs_owner_or_admin(client: Client, fleet: Any) -> None:
    fleet("a", gpus=1)
    workspace(client, "lab")
    low, boss = member(client, "lab"), member(client, "lab", "admin")
    hold(client, 1)
    body = {"gpus": 1, "workspace": "lab", "wait": True}
    problem = low.problem("POST", CLAIMS, 403, "forbidden", json=body | {"priority": 1})
    assert "owner or admin of lab" in problem["detail"]
    low.problem("POST", CLAIMS, 403, "forbidden", json={"gpus": 1, "workspace": "lab", "priority": 1})
    first = wait(low, 1, workspace="lab", priority=0)
    second = wait(boss, 1, workspace="lab", priority=100)
    assert line(client) == [second, first]
    low.problem("POST", CLAIMS, 422, "invalid-request", json=body | {"priority": -101})


def test_members_see_their_own_and_how_many_there_are(client: Client, fleet: Any) -> None:
    quota(client)
    fleet("a", gpus=1)
    for slug in ("one", "two"):
        workspace(client, slug)
    first, second = member(client, "one"), member(client, "two")
    hold(client, 1)
    mine = wait(first, 1, workspace="one")
    theirs = wait(second, 1, workspace="two")
    told = second.ok("GET", QUEUE)
    assert told["length"] == 2
    assert [(row["id"], row["position"]) for row in told["items"]] == [(theirs, 2)]
    assert mine not in str(told)
    assert line(client) == [mine, theirs]
    assert line(client.as_new("operator")) == [mine, theirs]
    assert client.ok("GET", QUEUE, params={"limit": 1})["items"][0]["id"] == mine


def test_a_small_short_claim_goes_first_and_a_small_long_one_does_not(
    client: Client, fleet: Any, serve: Any
) -> None:
    quota(client)
    fleet("a", gpus=8)
    hold(client, 6, 4 * HOUR)
    head = wait(client, 8, HOUR, exclusive_host=True)
    # Free again 15 minutes (the clean) before the head can begin, or not.
    short = hold(client, 1, 3 * HOUR, wait=True)
    problem = client.problem(
        "POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1, "duration_seconds": 5 * HOUR}
    )
    assert problem["ahead"] == 1
    assert "wait=true" in problem["detail"]
    long = wait(client, 1, 5 * HOUR)
    serve()
    assert [state(client, one) for one in (head, short, long)] == ["queued", "active", "queued"]
    assert seen(client, long)["waits_for"] == "turn"
    assert seen(client, head)["waits_for"] == "capacity"
    # When the head gives up, there is nothing to wait for.
    release(client, head)
    assert state(client, head) == "cancelled"
    serve()
    assert state(client, long) == "active"


def test_gpus_that_nobody_in_line_could_use_are_lent_at_once(client: Client, fleet: Any) -> None:
    quota(client)
    fleet("a", gpus=2), fleet("b", gpus=2, model=L40S), fleet("north", gpus=2, region="north")
    hold(client, 1, model=H100, region="test")
    wait(client, 2, model=H100, region="test")
    hold(client, 2, 80 * DAY, model=L40S)
    hold(client, 2, 80 * DAY, region="north")
    body = {"gpus": 1, "duration_seconds": 80 * DAY, "model": H100}
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json=body)


def test_who_waits_for_a_mig_profile_waits_for_gpus_that_carry_it(
    client: Client, fleet: Any, database: Database, serve: Any
) -> None:
    """GPUs of the same model beside it: one cannot be cut at all, one not so."""
    quota(client)
    able, small, _ = (fleet(name, gpus=gpus) for name, gpus in (("able", 3), ("small", 2), ("unable", 2)))
    cuttable: dict[Any, dict[str, Any]] = {
        able: {"mig_mode": "disabled"},
        small: {"mig_mode": "disabled", "memory_mib": 40_000},
    }
    with database.transaction() as tx:
        for host, values in cuttable.items():
            tx.execute(sa.update(Gpu).where(col(Gpu.host_id) == host).values(**values))
    hold(client, 1, mig_profile="1g.10gb")  # its host goes on being lent
    held = hold(client, 2, 4 * HOUR, mig_profile="1g.10gb")
    code, body = "capacity-exceeded", {"gpus": 4, "mig_profile": "1g.10gb", "wait": True}
    assert "would not help" in client.problem("POST", CLAIMS, 409, code, json=body)["detail"]
    head = wait(client, 2, HOUR, mig_profile="1g.10gb")
    end = datetime.fromisoformat(client.ok("GET", f"{CLAIMS}/{held}")["ends_at"])
    known = end + timedelta(minutes=15)  # and not now, with the GPUs that are free
    assert datetime.fromisoformat(seen(client, head)["enough_at"]) == known
    serve()
    assert datetime.fromisoformat(seen(client, head)["enough_at"]) == known
    hold(client, 4, 80 * DAY)  # none of them is of use to the head
    release(client, held)
    client.problem("POST", CLAIMS, 409, code, json={"gpus": 1, "duration_seconds": 80 * DAY})
    serve()
    granted = client.ok("GET", f"{CLAIMS}/{head}")
    assert (granted["state"], {gpu["host"] for gpu in granted["gpus"]}) == ("active", {"able"})


def test_what_is_left_over_beside_the_head_is_lent_for_any_time(client: Client, fleet: Any) -> None:
    quota(client)
    fleet("a", gpus=8)
    hold(client, 4)
    wait(client, 6)
    for _ in range(2):
        hold(client, 1, 80 * DAY)
    body = {"gpus": 1, "duration_seconds": 80 * DAY}
    problem = client.problem("POST", CLAIMS, 409, "capacity-exceeded", json=body)
    assert problem["ahead"] == 1


def extend(client: Client, allocation_id: str, hours: float) -> dict[str, Any]:
    row = client.ok("GET", f"{CLAIMS}/{allocation_id}")
    end = datetime.fromisoformat(row["created_at"]) + timedelta(hours=hours)
    return {"path": f"{CLAIMS}/{allocation_id}/extend", "json": {"expires_at": end.isoformat()}}


def test_a_later_end_does_not_push_back_who_waits(client: Client, fleet: Any, serve: Any) -> None:
    """The holder is the last in line for more time; whoever operates the platform may put them first."""
    quota(client)
    fleet("a", gpus=4), fleet("b", gpus=1, model=L40S)
    owner, user = member(client, "default", "owner"), member(client, "default")
    hold(client, 1, 10 * DAY, model=H100)
    first = hold(owner, 1, 2 * HOUR, model=H100, priority=1)
    held, other = hold(user, 2, 2 * HOUR, model=H100), hold(user, 1, 2 * HOUR, model=L40S)
    user.ok("POST", **extend(user, held, 3))  # nobody waits
    head = wait(client, 2, HOUR, model=H100)
    planned = seen(client, head)["enough_at"]
    end = datetime.fromisoformat(client.ok("GET", f"{CLAIMS}/{held}")["expires_at"])
    assert datetime.fromisoformat(planned) == end + timedelta(minutes=15)
    code = "capacity-exceeded"
    problem = user.problem("POST", status=409, code=code, **extend(user, held, 4))
    assert (problem["ahead"], datetime.fromisoformat(problem["latest"])) == (1, end)
    assert datetime.fromisoformat(client.ok("GET", f"{CLAIMS}/{held}")["expires_at"]) == end
    user.ok("POST", **extend(user, other, 90))  # of no use to the head
    owner.ok("POST", **extend(owner, first, 2.9))  # the head begins no later for it
    serve()
    assert seen(client, head)["enough_at"] == planned
    owner.ok("POST", **extend(owner, first, 5))  # comes before the head
    client.ok("POST", **extend(client, held, 6))  # by an operator
    serve()
    assert seen(client, head)["enough_at"] > planned
    release(client, head)
    user.ok("POST", **extend(user, held, 7))


def test_what_grows_does_not_push_back_who_waits(client: Client, fleet: Any) -> None:
    quota(client)
    fleet("a", gpus=4)
    long, short = hold(client, 1, 10 * DAY), hold(client, 1, 2 * HOUR)
    hold(client, 1, 3 * HOUR)
    wait(client, 3, HOUR)
    grow, code = {"kind": "grow", "gpus": 1}, "capacity-exceeded"
    assert client.problem("POST", f"{CLAIMS}/{long}/changes", 409, code, json=grow)["ahead"] == 1
    client.ok("POST", f"{CLAIMS}/{short}/changes", 201, json=grow)  # is free again when the head can begin


def test_a_claim_of_higher_priority_goes_first(client: Client, fleet: Any) -> None:
    quota(client)
    fleet("a", gpus=2)
    hold(client, 1)
    wait(client, 2, priority=1)
    body = {"gpus": 1, "duration_seconds": 80 * DAY}
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json=body | {"priority": 1})
    client.ok("POST", CLAIMS, 201, json=body | {"priority": 2})


def test_a_stream_of_small_claims_does_not_starve_a_whole_host(
    client: Client, fleet: Any, serve: Any, database: Database
) -> None:
    """Four GPUs, each lent for an hour from another quarter of it on, and always somebody for the next."""
    quota(client)
    fleet("a", gpus=4)
    workspace(client, "stream")
    begin = datetime.now(UTC).replace(microsecond=0)
    running: list[tuple[datetime, str]] = []
    head = ""
    for quarter in range(24):
        at = begin + timedelta(minutes=15 * quarter)
        with time_machine.travel(at):
            for end, one in [pair for pair in running if pair[0] <= at]:
                release(client, one)
                running.remove((end, one))
            if quarter == 4:
                head = wait(client, 4, HOUR, exclusive_host=True)
            serve()
            if head and state(client, head) == "active":
                break
            host = client.ok("GET", "/api/v1/hosts")["items"][0]
            if host["state"] == "reclaiming":
                ledger.finish(database, UUID(host["id"]), ledger.report("reclaim"))
                serve()
                continue
            body = {"gpus": 1, "duration_seconds": HOUR, "workspace": "stream"}
            answer = client.post(CLAIMS, json=body)
            assert answer.status_code in (201, 409), answer.text
            if answer.status_code == 201:
                running.append((at + timedelta(hours=1), answer.json()["id"]))
    assert state(client, head) == "active"
    assert quarter <= 10, "the head began later than its own known start and a clean"


def test_who_waits_for_its_quota_blocks_nobody(client: Client, fleet: Any, serve: Any) -> None:
    fleet("a", gpus=8)
    workspace(client, "small", 2)
    workspace(client, "other")
    first = hold(client, 2, workspace="small")
    queued = wait(client, 2, workspace="small")
    told = seen(client, queued)
    assert (told["waits_for"], told["position"], told["enough_at"]) == ("quota", 1, None)
    hold(client, 6, 80 * DAY, workspace="other")
    serve()
    assert state(client, queued) == "queued"
    release(client, first)
    serve()
    assert state(client, queued) == "active"


def test_a_lowered_quota_keeps_it_waiting_and_frees_what_waited_for(
    client: Client, fleet: Any, serve: Any
) -> None:
    fleet("a", gpus=4)
    workspace(client, "small", 4)
    workspace(client, "other")
    hold(client, 2, workspace="other")
    queued = wait(client, 4, workspace="small")
    body = {"gpus": 1, "duration_seconds": 80 * DAY, "workspace": "other"}
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json=body)
    quota(client, 3, "small")
    serve()
    assert seen(client, queued)["waits_for"] == "quota"
    client.ok("POST", CLAIMS, 201, json=body)


def test_it_waits_no_longer_than_its_end(client: Client, fleet: Any, serve: Any) -> None:
    fleet("a", gpus=2)
    hold(client, 2)
    end = datetime.now(UTC) + timedelta(hours=1)
    body = {"gpus": 1, "wait": True, "expires_at": end.isoformat()}
    queued = client.ok("POST", CLAIMS, 202, json=body)
    assert datetime.fromisoformat(queued["expires_at"]) == end
    # By the known ends it never begins, so it keeps nobody waiting.
    assert queued["why"]["enough_at"] is None
    with time_machine.travel(end - timedelta(seconds=5)):
        serve()
        assert state(client, queued["id"]) == "queued"
    with time_machine.travel(end + timedelta(seconds=5)):
        serve()
    over = client.ok("GET", f"{CLAIMS}/{queued['id']}")
    assert (over["state"], over["started_at"]) == ("expired", None)
    assert "passed" in over["reason"]


def test_without_a_membership_nothing_is_granted(client: Client, fleet: Any, serve: Any) -> None:
    fleet("a", gpus=2)
    workspace(client, "lab")
    gone, stays = member(client, "lab"), member(client, "lab")
    held = hold(client, 1), hold(client, 1)
    left, kept = wait(gone, 1, workspace="lab"), wait(stays, 1, workspace="lab")
    client.ok("DELETE", f"/api/v1/workspaces/lab/members/{gone.user_id}", 204)
    release(client, held[0])
    serve()
    assert state(client, left) == "cancelled"
    assert state(client, kept) == "active"


def test_claims_of_several_groups_wait_for_all_of_them(
    client: Client, fleet: Any, serve: Any, database: Database
) -> None:
    quota(client)
    fleet("a", gpus=4)
    second = fleet("b", gpus=4)
    hold(client, 1)
    whole = hold(client, 1, exclusive_host=True)
    groups = {"groups": [{"gpus": 3, "same_host": True}, {"gpus": 4, "same_host": True}]}
    body = groups | {"wait": True, "separate_hosts": True, "duration_seconds": HOUR}
    queued = client.ok("POST", CLAIMS, 202, json=body)["id"]
    serve()
    assert state(client, queued) == "queued"
    release(client, whole)
    serve()
    assert state(client, queued) == "queued"
    ledger.finish(database, second, ledger.report("reclaim"))
    serve()
    granted = client.ok("GET", f"{CLAIMS}/{queued}")
    assert (granted["state"], len(granted["gpus"])) == ("active", 7)


def test_a_mistake_with_one_claim_keeps_nobody_else_waiting(
    client: Client, fleet: Any, serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quota(client)
    fleet("a", gpus=2)
    held = hold(client, 2)
    first, second = wait(client, 1, priority=1), wait(client, 1, HOUR)
    release(client, held)
    fleet("b", gpus=2)
    whole = turns.turn

    def broken(tx: Any, **arguments: Any) -> Any:
        if str(arguments["seen"].id) == first:
            raise RuntimeError("on purpose")
        return whole(tx, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(turns, "turn", broken)
        serve()
    assert [state(client, one) for one in (first, second)] == ["queued", "active"]
    assert "on purpose" in caplog.text
    serve()
    assert state(client, first) == "active"


def test_metrics(client: Client, fleet: Any) -> None:
    fleet("a", gpus=1)
    assert "ironyard_queue_oldest_seconds 0.0" in client.get("/metrics").text
    hold(client, 1)
    wait(client, 1)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=5)):
        text = client.get("/metrics").text
    assert 'ironyard_queue{priority="0"} 1.0' in text
    oldest = next(row for row in text.splitlines() if row.startswith("ironyard_queue_oldest_seconds "))
    assert 299 < float(oldest.split()[1]) < 310


@pytest.mark.postgres
def test_two_workers_at_once_grant_nothing_twice(
    client: Client, fleet: Any, database: Database, settings: Settings
) -> None:
    quota(client)
    fleet("a", gpus=8)
    keeper, held = hold(client, 1), hold(client, 7)
    queued = [wait(client, 1) for _ in range(12)]
    release(client, held)
    others = [Database(make_engine(settings), **database.info) for _ in range(3)]
    barrier = threading.Barrier(len(others))
    failures: list[BaseException] = []

    def work(own: Database) -> None:
        barrier.wait()
        try:
            turns.serve(own, SYSTEM, settings)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for own in others:
        own.engine.dispose()
    assert failures == []
    states = [state(client, one) for one in queued]
    assert states.count("active") == 7
    assert states == ["active"] * 7 + ["queued"] * 5
    held_by = [gpu["held_by"] for gpu in client.ok("GET", "/api/v1/gpus")["items"]]
    assert len(set(held_by)) == 8
    assert keeper in held_by
    granted = client.ok("GET", "/api/v1/admin/audit", params={"action": "allocation.granted"})["items"]
    assert len(granted) == 7


@pytest.mark.postgres
def test_many_at_once_do_not_hold_up_together_whom_none_holds_up_alone(client: Client, fleet: Any) -> None:
    quota(client)
    fleet("a", gpus=8)
    hold(client, 4)
    for number in range(4):  # each its own: claims of one workspace take turns anyway
        workspace(client, f"w{number}")
    wait(client, 6)
    body = {"gpus": 1, "duration_seconds": 80 * DAY}
    answers: list[int] = []

    def claim(number: int) -> None:
        answers.append(client.post(CLAIMS, json=body | {"workspace": f"w{number}"}).status_code)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [201, 201, 409, 409]


def test_end_to_end_with_a_real_worker(
    client: Client, fleet: Any, settings: Settings, tmp_path: Path
) -> None:
    """Wait, another's release, its host cleaned, granted: with an API server and a worker of their own."""
    host = fleet("a", gpus=2)
    held = hold(client, 2)
    url = settings.database_url
    own = {"Authorization": client.headers["Authorization"]}
    with (
        api_server(tmp_path, url) as address,
        httpx.Client(base_url=address, headers=own) as api,
        worker_process(tmp_path, url, queue_interval="0.2", queue_polling="600", playbooks_dir="/nowhere"),
    ):
        answer = api.post(CLAIMS, json={"gpus": 2, "duration_seconds": HOUR, "wait": True})
        assert answer.status_code == 202, answer.text
        queued = answer.json()["id"]
        time.sleep(0.6)
        assert api.get(f"{CLAIMS}/{queued}").json()["state"] == "queued"
        assert api.post(f"{CLAIMS}/{held}/release").status_code == 200
        time.sleep(0.6)
        assert api.get(f"{CLAIMS}/{queued}").json()["state"] == "queued"
        fleet("b", gpus=2)
        deadline = time.monotonic() + 30
        while (found := api.get(f"{CLAIMS}/{queued}").json())["state"] == "queued":
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
    assert (found["state"], {gpu["host"] for gpu in found["gpus"]}) == ("active", {"b"})
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] != "idle"
