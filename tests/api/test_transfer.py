"""Handing an allocation to another workspace: one moment, the same GPUs, nothing counted twice or nowhere."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine

from api.allocations.models import Hold
from api.core.db import Database, table
from api.core.notices import Notice
from tests.conftest import Client

CLAIMS, USAGE = "/api/v1/allocations", "/api/v1/admin/reports/usage"
TO = {"workspace": "vision", "reason": "the team goes on with it"}
DAY = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def vision(client: Client) -> str:
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "vision", "name": "Vision", "gpus": 4})
    return "vision"


def held_by(client: Client) -> dict[str, int]:
    return {
        slug: client.ok("GET", f"/api/v1/workspaces/{slug}/quotas")[0]["used"]
        for slug in ("default", "vision")
    }


def join(client: Client, who: Client, workspace: str, role: str = "member") -> None:
    client.ok("PUT", f"/api/v1/workspaces/{workspace}/members/{who.user_id}", json={"role": role})


def claim(client: Client, **more: Any) -> str:
    made: str = client.ok("POST", CLAIMS, 201, json={"gpus": 2} | more)["id"]
    return made


def test_the_holds_end_and_begin_at_one_moment(
    client: Client, fleet: Any, vision: str, database: Database
) -> None:
    host = fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 2})
    done = client.ok("POST", f"{CLAIMS}/{made['id']}/transfer", json=TO)
    assert (done["workspace"], done["state"], done["gpus"]) == ("vision", "active", made["gpus"])
    assert (done["started_at"], done["expires_at"]) == (made["started_at"], made["expires_at"])
    assert held_by(client) == {"default": 0, "vision": 2}
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "allocated", "nothing was reclaimed"
    with database.transaction() as tx:
        rows = list(tx.execute(sa.select(table(Hold)).order_by(Hold.id)))  # type: ignore[arg-type]
        told = tx.execute(sa.select(table(Notice).c.workspace_id, table(Notice).c.text)).all()
    assert [row.ended_at is None for row in rows] == [False, False, True, True]
    assert len({row.ended_at or row.started_at for row in rows}) == 1, "no gap and no overlap"
    assert len({row.workspace_id for row in told}) == 2
    assert all(TO["reason"] in row.text for row in told)
    assert client.ok("GET", CLAIMS, params={"workspace": "vision"})["items"][0]["id"] == made["id"]
    client.ok("POST", f"{CLAIMS}/{made['id']}/release")
    assert held_by(client) == {"default": 0, "vision": 0}
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "reclaiming"


def test_seconds_before_count_for_the_one_and_after_for_the_other(
    client: Client, fleet: Any, vision: str
) -> None:
    key = client.ok("POST", "/api/v1/api-keys", 201, json={"name": "time traveller"})["key"]
    client.headers["Authorization"] = f"Bearer {key}"
    with time_machine.travel(DAY + timedelta(hours=1), tick=False):
        fleet("a")
    with time_machine.travel(DAY + timedelta(hours=2), tick=False):
        made = claim(client)
    with time_machine.travel(DAY + timedelta(hours=3, seconds=0.4), tick=False):
        client.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)
    with time_machine.travel(DAY + timedelta(hours=3, minutes=30, seconds=0.9), tick=False):
        client.ok("POST", f"{CLAIMS}/{made}/release")
    window = {"from": DAY.isoformat(), "to": (DAY + timedelta(days=1)).isoformat()}
    report = client.ok("GET", USAGE, params=window)
    seconds = dict.fromkeys(("default", "vision"), 0)
    for line in report["usage"]:
        seconds[line["workspace"]] += line["gpu_seconds"]
    assert seconds == {"default": 2 * 3600, "vision": 2 * 1800}
    assert sum(line["allocated_seconds"] for line in report["capacity"]) == 2 * 5400
    for line in report["capacity"]:
        parts = ("allocated", "idle", "reclaiming", "maintenance")
        assert sum(line[f"{part}_seconds"] for part in parts) == line["enrolled_seconds"]


@pytest.mark.parametrize("limits", [{"gpus": 1}, {"gpus": 9, "models": {"NVIDIA H100 80GB HBM3": 1}}])
def test_over_the_other_s_quota_everything_stays_as_it_was(
    client: Client, fleet: Any, vision: str, database: Database, limits: dict[str, Any]
) -> None:
    fleet("a")
    made = claim(client)
    before = client.ok("GET", f"{CLAIMS}/{made}")
    client.ok("PUT", "/api/v1/workspaces/vision/quotas", json=limits)
    problem = client.problem("POST", f"{CLAIMS}/{made}/transfer", 409, "quota-exceeded", json=TO)
    assert (problem["workspace"], problem["limit"], problem["asked"]) == ("vision", 1, 2)
    assert client.ok("GET", f"{CLAIMS}/{made}") == before
    assert held_by(client) == {"default": 2, "vision": 0}
    with database.transaction() as tx:
        ended = table(Hold).c.ended_at
        assert tx.execute(sa.select(sa.func.count()).where(ended.is_not(None))).scalar_one() == 0


def test_within_an_organisation_its_own_limit_is_no_hindrance(
    client: Client, fleet: Any, vision: str
) -> None:
    fleet("a")
    made = claim(client)
    client.ok("PUT", "/api/v1/organisations/default/quotas", json={"gpus": 2})
    assert client.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)["workspace"] == "vision"
    client.problem("POST", CLAIMS, 409, "quota-exceeded", json={"gpus": 1})


def test_only_those_who_may_claim_in_both_hand_over(client: Client, fleet: Any, vision: str) -> None:
    fleet("a")
    made = claim(client)
    member = client.as_new("member")
    member.problem("POST", f"{CLAIMS}/{made}/transfer", 404, "not-found", json=TO)
    join(client, member, "default")
    member.problem("POST", f"{CLAIMS}/{made}/transfer", 404, "not-found", json=TO)
    join(client, member, "vision", "viewer")
    member.problem("POST", f"{CLAIMS}/{made}/transfer", 403, "forbidden", json=TO)
    join(client, member, "vision")
    member.problem("POST", f"{CLAIMS}/{made}/transfer", 422, "invalid-request", json={"workspace": "vision"})
    done = member.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)
    assert done["requested_by"] == "admin@ironyard.local", "who is in both keeps it"
    operator = client.as_new("operator")
    back = operator.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO | {"workspace": "default"})
    assert back["workspace"] == "default"


def test_it_becomes_the_actor_s_where_its_holder_is_no_member(
    client: Client, fleet: Any, vision: str
) -> None:
    fleet("a")
    holder, actor = client.as_new("member"), client.as_new("member")
    for who in (holder, actor):
        join(client, who, "default")
    join(client, actor, "vision")
    made = claim(holder)
    client.ok("PUT", f"/api/v1/workspaces/vision/members/{actor.user_id}/quotas", json={"gpus": 1})
    problem = actor.problem("POST", f"{CLAIMS}/{made}/transfer", 409, "quota-exceeded", json=TO)
    assert problem["scope"] == "member"
    client.ok("PUT", f"/api/v1/workspaces/vision/members/{actor.user_id}/quotas", json={"gpus": 2})
    done = actor.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)
    emails = [who.ok("GET", "/api/v1/auth/me")["email"] for who in (holder, actor)]
    assert done["requested_by"] == emails[1]
    window = {"from": "2020-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"}
    told = {
        (line["workspace"], line["requested_by"]) for line in client.ok("GET", USAGE, params=window)["usage"]
    }
    assert told == {("default", emails[0]), ("vision", emails[1])}, "each answers for what they held"
    holder.problem("GET", f"{CLAIMS}/{made}", 404, "not-found")


def test_no_transfer_leads_round_an_approval(client: Client, fleet: Any, vision: str) -> None:
    fleet("a")
    member = client.as_new("member")
    for workspace in ("default", "vision"):
        join(client, member, workspace)
    made = claim(member)
    client.ok("PATCH", "/api/v1/workspaces/vision", json={"approval": "workspace"})
    problem = member.problem("POST", f"{CLAIMS}/{made}/transfer", 409, "approval-required", json=TO)
    assert problem["approver"] == "workspace"
    assert held_by(client) == {"default": 2, "vision": 0}
    assert client.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)["workspace"] == "vision"


def test_what_holds_nothing_or_is_there_already_is_not_handed_over(
    client: Client, fleet: Any, vision: str
) -> None:
    fleet("a")
    made = claim(client)
    here = TO | {"workspace": "default"}
    client.problem("POST", f"{CLAIMS}/{made}/transfer", 422, "invalid-request", json=here)
    stale = {"If-Match": '"another"'}
    client.problem("POST", f"{CLAIMS}/{made}/transfer", 412, "version-conflict", json=TO, headers=stale)
    client.ok("POST", f"{CLAIMS}/{made}/release")
    client.problem("POST", f"{CLAIMS}/{made}/transfer", 409, "wrong-state", json=TO)


def test_both_sides_are_audited(client: Client, fleet: Any, vision: str) -> None:
    fleet("a")
    made = claim(client)
    client.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)
    ids = {slug: client.ok("GET", f"/api/v1/workspaces/{slug}")["id"] for slug in ("default", "vision")}
    for subject, action in (
        (made, "allocation.transferred"),
        (ids["default"], "allocation.handed_over"),
        (ids["vision"], "allocation.taken_over"),
    ):
        events = client.ok("GET", "/api/v1/admin/audit", params={"subject_id": subject})["items"]
        (event,) = [event for event in events if event["action"] == action]
        assert event["reason"] == TO["reason"]
    history = client.ok("GET", f"{CLAIMS}/{made}/history")["items"]
    assert history[-1]["before"] == {"workspace": "default"}


def test_an_open_change_does_not_go_along(client: Client, fleet: Any, vision: str) -> None:
    fleet("a")
    member = client.as_new("member")
    join(client, member, "default")
    made = claim(member)
    client.ok("PATCH", "/api/v1/workspaces/default", json={"approval": "workspace"})
    path = f"{CLAIMS}/{made}/changes"
    change = member.ok("POST", path, 202, json={"kind": "grow", "gpus": 1})["id"]
    client.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)
    row = client.ok("GET", f"{path}/{change}")
    assert (row["state"], row["reason"]) == ("cancelled", "it was handed to vision")


def test_transfers_and_releases_against_each_other(client: Client, fleet: Any, vision: str) -> None:
    """In both directions at once, and released meanwhile: no deadlock, and every counter is right."""
    fleet("a")
    client.ok("PUT", "/api/v1/workspaces/vision/quotas", json={"gpus": 8})
    made = [claim(client, gpus=1, workspace=slug) for slug in ("default", "vision") * 4]
    gate, failures = threading.Barrier(len(made)), list[str]()

    def move(number: int, allocation: str) -> None:
        gate.wait()
        here, there = ("default", "vision") if number % 2 == 0 else ("vision", "default")
        for to in (there, here, there):
            answer = client.post(f"{CLAIMS}/{allocation}/transfer", json=TO | {"workspace": to})
            if answer.status_code != 200:
                failures.append(answer.text)
        if number < 4:
            client.ok("POST", f"{CLAIMS}/{allocation}/release")

    threads = [threading.Thread(target=move, args=found) for found in enumerate(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert held_by(client) == {"default": 2, "vision": 2}


def test_budgets_go_by_who_holds(client: Client, fleet: Any, vision: str) -> None:
    fleet("a")
    made = claim(client, duration_seconds=10 * 3600)
    path = "/api/v1/workspaces/{}/budgets"
    client.ok("PUT", path.format("default"), json={"gpu_hours": "100"})
    client.ok("PUT", path.format("vision"), json={"gpu_hours": "1"})
    before = client.ok("GET", path.format("default"))
    client.problem("POST", f"{CLAIMS}/{made}/transfer", 409, "budget-exceeded", json=TO)
    assert client.ok("GET", path.format("default")) == before
    assert held_by(client) == {"default": 2, "vision": 0}
    client.ok("PUT", path.format("vision"), json={"gpu_hours": "22"})
    client.ok("POST", f"{CLAIMS}/{made}/transfer", json=TO)
    more = {"kind": "grow", "gpus": 1}
    client.problem("POST", f"{CLAIMS}/{made}/changes", 409, "budget-exceeded", json=more)
    committed = {
        slug: sum(
            Decimal(period["committed"]) for period in client.ok("GET", path.format(slug))[0]["periods"]
        )
        for slug in ("default", "vision")
    }
    assert committed["default"] < Decimal("0.1"), "only the seconds until the transfer"
    assert Decimal("19.9") < committed["vision"] < Decimal("20.5"), "the rest, with the grace"


def test_a_clock_that_was_set_back_since_ends_it_no_earlier_than_it_began_there(
    client: Client, fleet: Any, vision: str
) -> None:
    key = client.ok("POST", "/api/v1/api-keys", 201, json={"name": "time traveller"})["key"]
    client.headers["Authorization"] = f"Bearer {key}"
    with time_machine.travel(DAY + timedelta(hours=1), tick=False) as clock:
        fleet("a")
        handed, grown = claim(client), claim(client, gpus=1)
        clock.shift(timedelta(minutes=10))
        client.ok("POST", f"{CLAIMS}/{handed}/transfer", json=TO)
        client.ok("POST", f"{CLAIMS}/{grown}/changes", 201, json={"kind": "grow", "gpus": 1})
        clock.shift(-timedelta(minutes=1))
        for made in (handed, grown):
            ended = client.ok("POST", f"{CLAIMS}/{made}/release")["ended_at"]
            assert ended == "2026-03-02T01:10:00.000001Z"
    assert held_by(client) == {"default": 0, "vision": 0}
