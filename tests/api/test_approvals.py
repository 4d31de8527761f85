"""Approval over HTTP: request, decide, change, renew; on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine

from api.allocations import changes, decisions, turns
from api.core.db import Database, table
from api.core.notices import Notice
from api.settings import Settings
from tests.conftest import Client
from tests.support.ledger import H100, SYSTEM

CLAIMS, QUEUE = "/api/v1/allocations", "/api/v1/queue"
APPROVALS, RULES = "/api/v1/approvals", "/api/v1/admin/approval-rules"
L40S = "NVIDIA L40S"


@dataclass
class Team:
    """Workspace `vision`: who is in it, and an operator who is not."""

    administrator: Client
    owner: Client
    admin: Client
    member: Client
    other: Client
    operator: Client

    def ask(self, who: Client | None = None, **wanted: Any) -> Any:
        asked = {"workspace": "vision"} | ({} if "groups" in wanted else {"gpus": 2}) | wanted
        made = (who or self.member).ok("POST", CLAIMS, 202, json=asked)
        assert made["state"] == "requested"
        return made

    def waiting(self, who: Client) -> list[str]:
        return [row["id"] for row in who.ok("GET", APPROVALS)["items"]]


@pytest.fixture
def team(client: Client) -> Team:
    made = Team(client, *(client.as_new("member") for _ in range(4)), client.as_new("operator"))
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "vision", "name": "Vision", "gpus": 8})
    for who, role in (
        (made.owner, "owner"),
        (made.admin, "admin"),
        (made.member, "member"),
        (made.other, "member"),
    ):
        client.ok("PUT", f"/api/v1/workspaces/vision/members/{who.user_id}", json={"role": role})
    needs_approval(client, "workspace")
    return made


def needs_approval(client: Client, approver: str, workspace: str = "vision") -> None:
    row = client.ok("PATCH", f"/api/v1/workspaces/{workspace}", json={"approval": approver})
    assert row["approval"] == approver


def held(client: Client) -> int:
    return sum(1 for gpu in client.ok("GET", "/api/v1/gpus")["items"] if gpu["held_by"])


def quota(client: Client, gpus: int, **more: Any) -> None:
    client.ok("PUT", "/api/v1/workspaces/vision/quotas", json={"gpus": gpus} | more)


def notices(database: Database, allocation_id: str) -> list[tuple[str, str | None]]:
    """(kind, user) of all that was said about an allocation, in order."""
    own = table(Notice).c
    with database.transaction() as tx:
        rows = tx.execute(sa.select(own.kind, own.user_id, own.subject_id).order_by(own.id)).all()
    return [
        (row.kind, str(row.user_id) if row.user_id else None)
        for row in rows
        if str(row.subject_id) == allocation_id
    ]


def test_a_claim_is_asked_for_approved_and_held_by_whoever_asked(
    team: Team, fleet: Any, database: Database
) -> None:
    fleet("a")
    made = team.ask(purpose="the paper's last runs", duration_seconds=3600)
    path = f"{CLAIMS}/{made['id']}"
    assert (made["gpus"], made["started_at"], made["expires_at"]) == ([], None, None)
    assert held(team.administrator) == 0
    (row,) = team.owner.ok("GET", APPROVALS)["items"]
    assert (row["kind"], row["workspace"], row["approver"]) == ("claim", "vision", "workspace")
    assert (row["purpose"], row["asked"], row["duration_seconds"]) == (
        "the paper's last runs",
        {"gpus": 2},
        3600,
    )
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=5), tick=False):
        done = team.owner.ok("POST", f"{path}/approve", json={"reason": "go"})
        end = datetime.now(UTC) + timedelta(hours=1)
    assert (done["state"], len(done["gpus"]), done["reason"]) == ("active", 2, "go")
    assert datetime.fromisoformat(done["expires_at"]) == end, "the length counts from the approval"
    assert done["requested_by"] != done["decided_by"]
    assert done["decided_at"]
    assert held(team.administrator) == 2
    assert team.waiting(team.owner) == []
    told = notices(database, made["id"])
    assert sorted(told[:-1]) == sorted(
        ("allocation.requested", who.user_id) for who in (team.owner, team.admin, team.administrator)
    )
    assert told[-1] == ("allocation.approved", team.member.user_id)


def test_the_member_s_own_quota_counts_when_somebody_else_approves(team: Team, fleet: Any) -> None:
    fleet("a")
    member = f"/api/v1/workspaces/vision/members/{team.member.user_id}/quotas"
    team.administrator.ok("PUT", member, json={"gpus": 1})
    made = team.ask()
    problem = team.owner.problem("POST", f"{CLAIMS}/{made['id']}/approve", 409, "quota-exceeded")
    assert (problem["scope"], problem["limit"]) == ("member", 1)
    assert team.waiting(team.owner) == [made["id"]]


def test_who_may_decide(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask()["id"]
    for who in (team.member, team.other):
        who.problem("POST", f"{CLAIMS}/{asked}/approve", 403, "forbidden")
        who.problem("POST", f"{CLAIMS}/{asked}/deny", 403, "forbidden", json={"reason": "no"})
        assert team.waiting(who) == []
    outsider = team.administrator.as_new("member")
    outsider.problem("POST", f"{CLAIMS}/{asked}/approve", 404, "not-found")
    for who in (team.owner, team.admin, team.operator, team.administrator):
        assert team.waiting(who) == [asked]
    team.operator.ok("POST", f"{CLAIMS}/{asked}/approve")


def test_where_operators_decide_owners_do_not(team: Team, fleet: Any, database: Database) -> None:
    fleet("a")
    needs_approval(team.administrator, "operator")
    asked = team.ask(team.owner)["id"]
    assert team.waiting(team.admin) == []
    problem = team.admin.problem("POST", f"{CLAIMS}/{asked}/approve", 403, "forbidden")
    assert problem["approver"] == "operator"
    assert notices(database, asked) == [("allocation.requested", None)]
    assert team.operator.ok("POST", f"{CLAIMS}/{asked}/approve")["state"] == "active"


def test_nobody_decides_about_what_they_asked_for(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask(team.admin)["id"]
    assert team.waiting(team.admin) == []
    team.admin.problem("POST", f"{CLAIMS}/{asked}/approve", 403, "forbidden")
    promoted = f"/api/v1/workspaces/vision/members/{team.admin.user_id}"
    team.administrator.ok("PUT", promoted, json={"role": "owner"})
    team.admin.problem("POST", f"{CLAIMS}/{asked}/approve", 403, "forbidden")
    team.owner.ok("POST", f"{CLAIMS}/{asked}/approve")


def test_whoever_has_the_last_word_need_not_ask(team: Team, fleet: Any) -> None:
    fleet("a")
    for who in (team.owner, team.operator, team.administrator):
        made = who.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 1})
        assert made["state"] == "active"
    needs_approval(team.administrator, "operator")
    team.ask(team.owner)
    needs_approval(team.administrator, "none")
    made = team.member.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 1})
    assert made["state"] == "active"


def test_a_denial_has_a_reason_that_the_requester_reads(team: Team, fleet: Any, database: Database) -> None:
    fleet("a")
    asked = team.ask()["id"]
    for body in ({}, {"reason": " "}, None):
        team.owner.problem("POST", f"{CLAIMS}/{asked}/deny", 422, "invalid-request", json=body)
    done = team.owner.ok("POST", f"{CLAIMS}/{asked}/deny", json={"reason": "ask again in May"})
    assert (done["state"], done["reason"]) == ("denied", "ask again in May")
    assert done["ended_at"]
    assert notices(database, asked)[-1] == ("allocation.denied", team.member.user_id)
    team.owner.problem("POST", f"{CLAIMS}/{asked}/approve", 409, "wrong-state")
    assert team.member.ok("GET", CLAIMS, params={"state": "denied"})["items"][0]["id"] == asked


def test_what_is_decided_or_withdrawn_is_not_decided_again(team: Team, fleet: Any) -> None:
    fleet("a")
    first, second = team.ask()["id"], team.ask()["id"]
    team.owner.ok("POST", f"{CLAIMS}/{first}/approve")
    assert team.owner.problem("POST", f"{CLAIMS}/{first}/approve", 409, "wrong-state")["state"] == "active"
    team.owner.problem("POST", f"{CLAIMS}/{first}/deny", 409, "wrong-state", json={"reason": "x"})
    assert team.member.ok("POST", f"{CLAIMS}/{second}/release")["state"] == "cancelled"
    team.owner.problem("POST", f"{CLAIMS}/{second}/approve", 409, "wrong-state")
    assert held(team.administrator) == 2


def test_a_shortage_at_the_approval_leaves_the_request_waiting(team: Team, fleet: Any) -> None:
    fleet("a", gpus=4)
    asked = team.ask(gpus=3)["id"]
    quota(team.administrator, 2)
    problem = team.owner.problem("POST", f"{CLAIMS}/{asked}/approve", 409, "quota-exceeded")
    assert (problem["limit"], problem["asked"]) == (2, 3)
    quota(team.administrator, 8)
    taken = team.owner.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 2})["id"]
    team.owner.problem("POST", f"{CLAIMS}/{asked}/approve", 409, "capacity-exceeded")
    row = team.owner.ok("GET", f"{CLAIMS}/{asked}")
    assert (row["state"], row["decided_by"]) == ("requested", None)
    assert held(team.administrator) == 2
    team.owner.ok("POST", f"{CLAIMS}/{taken}/release")
    fleet("b", gpus=4)
    assert team.owner.ok("POST", f"{CLAIMS}/{asked}/approve")["state"] == "active"


def test_a_claim_that_may_wait_is_queued_when_it_is_approved(team: Team, fleet: Any) -> None:
    fleet("a", gpus=2)
    team.owner.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 2})
    asked = team.ask(gpus=1, wait=True, duration_seconds=3600)["id"]
    done = team.owner.ok("POST", f"{CLAIMS}/{asked}/approve")
    assert (done["state"], done["gpus"]) == ("queued", [])
    assert done["decided_by"]


@pytest.fixture
def serve(database: Database, settings: Settings) -> Callable[[], None]:
    """One pass over the queue, as a worker makes it."""
    return lambda: turns.serve(database, SYSTEM, settings)


def test_a_claim_is_asked_for_approved_waits_and_is_granted(
    team: Team, fleet: Any, database: Database, serve: Callable[[], None]
) -> None:
    fleet("a", gpus=2)
    keeper, busy = (
        team.owner.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 1})["id"] for _ in range(2)
    )
    asked = team.ask(gpus=1, wait=True, duration_seconds=3600)["id"]
    serve()  # nobody has agreed: it has no place in the line
    assert team.member.ok("GET", f"{CLAIMS}/{asked}")["state"] == "requested"
    assert team.member.ok("GET", QUEUE)["length"] == 0
    done = team.owner.ok("POST", f"{CLAIMS}/{asked}/approve", json={"reason": "fine"})
    assert (done["state"], done["why"]["waits_for"]) == ("queued", "capacity")
    (row,) = team.member.ok("GET", QUEUE)["items"]
    assert (row["id"], row["requested_by"]) == (asked, done["requested_by"])
    serve()
    assert team.member.ok("GET", f"{CLAIMS}/{asked}")["state"] == "queued"
    team.owner.problem("POST", f"{CLAIMS}/{asked}/approve", 409, "wrong-state")
    team.owner.ok("POST", f"{CLAIMS}/{busy}/release")
    serve()
    granted = team.member.ok("GET", f"{CLAIMS}/{asked}")
    assert (granted["state"], len(granted["gpus"])) == ("active", 1)
    begun, ends = (datetime.fromisoformat(granted[name]) for name in ("started_at", "expires_at"))
    assert abs((ends - begun).total_seconds() - 3600) < 1
    assert (granted["decided_by"], granted["reason"]) == (done["decided_by"], "fine")
    kinds = [kind for kind, _ in notices(database, asked)]
    assert kinds[-2:] == ["allocation.approved", "allocation.granted"]
    told = team.member.ok("GET", f"{CLAIMS}/{asked}/history")["items"]
    actions = [row["action"] for row in told if row["action"].startswith("allocation.")]
    assert actions == [f"allocation.{name}" for name in ("requested", "approved", "queued", "granted")]
    assert team.owner.ok("GET", f"{CLAIMS}/{keeper}")["state"] == "active"


def test_a_denied_claim_never_waits(team: Team, fleet: Any, serve: Callable[[], None]) -> None:
    fleet("a", gpus=2)
    asked = team.ask(gpus=1, wait=True, duration_seconds=3600)["id"]
    team.owner.ok("POST", f"{CLAIMS}/{asked}/deny", json={"reason": "no"})
    serve()
    assert team.member.ok("GET", f"{CLAIMS}/{asked}")["state"] == "denied"
    assert team.member.ok("GET", QUEUE)["length"] == held(team.administrator) == 0


def test_a_claim_that_may_wait_lapses_undecided_and_ends_in_the_line(
    team: Team, fleet: Any, database: Database, serve: Callable[[], None]
) -> None:
    fleet("a", gpus=2)
    team.owner.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 2})
    soon = datetime.now(UTC) + timedelta(hours=1)
    undecided, approved = (team.ask(gpus=1, wait=True, expires_at=soon.isoformat())["id"] for _ in range(2))
    assert team.owner.ok("POST", f"{CLAIMS}/{approved}/approve")["state"] == "queued"
    with time_machine.travel(soon + timedelta(seconds=1), tick=False):
        for late in database.run(decisions.lapsed, reading=True):
            database.run(lambda tx, late=late: decisions.lapse(tx, SYSTEM, late))
        serve()
        rows = [team.owner.ok("GET", f"{CLAIMS}/{one}") for one in (undecided, approved)]
    assert [row["state"] for row in rows] == ["expired", "expired"]
    assert "nobody decided" in rows[0]["reason"]
    assert "while it waited" in rows[1]["reason"]
    assert notices(database, undecided)[-1][0] == "allocation.lapsed"
    assert notices(database, approved)[-1][0] == "allocation.withdrawn"


def test_what_is_approved_waits_for_its_quota_or_is_refused_where_that_is_in_vain(
    team: Team, fleet: Any, serve: Callable[[], None]
) -> None:
    fleet("a", gpus=4)
    taken = team.owner.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 2})["id"]
    short, vain = (team.ask(gpus=gpus, wait=True, duration_seconds=3600)["id"] for gpus in (2, 4))
    quota(team.administrator, 3)
    done = team.owner.ok("POST", f"{CLAIMS}/{short}/approve")
    assert (done["state"], done["why"]["waits_for"]) == ("queued", "quota")
    team.owner.problem("POST", f"{CLAIMS}/{vain}/approve", 409, "quota-exceeded")
    assert team.member.ok("GET", f"{CLAIMS}/{vain}")["state"] == "requested"
    quota(team.administrator, 4)
    serve()
    assert team.member.ok("GET", f"{CLAIMS}/{short}")["state"] == "active"
    assert team.owner.ok("POST", f"{CLAIMS}/{vain}/approve")["state"] == "queued"
    for one in (taken, vain):
        team.owner.ok("POST", f"{CLAIMS}/{one}/release")
    assert team.member.ok("GET", f"{CLAIMS}/{vain}")["state"] == "cancelled"


def test_a_claim_for_later_is_reserved_when_it_is_approved(team: Team, fleet: Any) -> None:
    fleet("a", gpus=2)
    begin = datetime.now(UTC) + timedelta(days=2)
    asked = team.ask(not_before=begin.isoformat(), duration_seconds=7200)
    assert datetime.fromisoformat(asked["expires_at"]) == begin + timedelta(hours=2)
    done = team.owner.ok("POST", f"{CLAIMS}/{asked['id']}/approve")
    assert done["state"] == "reserved"
    assert datetime.fromisoformat(done["not_before"]) == begin
    assert held(team.administrator) == 0


def test_a_request_whose_time_has_passed_lapses(team: Team, fleet: Any, database: Database) -> None:
    fleet("a")
    soon = datetime.now(UTC) + timedelta(hours=1)
    named = team.ask(expires_at=soon.isoformat())["id"]
    open_ended = team.ask(duration_seconds=60)["id"]
    assert database.run(decisions.lapsed, reading=True) == []
    with time_machine.travel(soon + timedelta(seconds=1), tick=False):
        with database.transaction() as tx:
            late = decisions.lapsed(tx)
            assert [str(found) for found in late] == [named]
            assert decisions.lapse(tx, SYSTEM, late[0])
            assert not decisions.lapse(tx, SYSTEM, late[0])
        assert database.run(decisions.lapsed, reading=True) == []
    row = team.member.ok("GET", f"{CLAIMS}/{named}")
    assert row["state"] == "expired"
    assert "nobody decided" in row["reason"]
    assert notices(database, named)[-1] == ("allocation.lapsed", team.member.user_id)
    assert team.waiting(team.owner) == [open_ended]


def test_a_window_that_has_passed_is_not_approved(team: Team, fleet: Any) -> None:
    fleet("a")
    soon = datetime.now(UTC) + timedelta(seconds=30)
    asked = team.ask(expires_at=soon.isoformat())["id"]
    with time_machine.travel(soon + timedelta(seconds=1), tick=False):
        team.owner.problem("POST", f"{CLAIMS}/{asked}/approve", 409, "wrong-state")


def test_whoever_left_the_workspace_is_not_given_anything(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask()["id"]
    team.administrator.ok("DELETE", f"/api/v1/workspaces/vision/members/{team.member.user_id}", 204)
    team.owner.problem("POST", f"{CLAIMS}/{asked}/approve", 409, "conflict")
    assert held(team.administrator) == 0
    team.owner.ok("POST", f"{CLAIMS}/{asked}/deny", json={"reason": "left"})


def test_two_who_decide_at_once(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask()["id"]
    answers: list[int] = []
    gate = threading.Barrier(3)

    def decide(who: Client, path: str, body: dict[str, str]) -> None:
        gate.wait()
        answers.append(who.post(f"{CLAIMS}/{asked}/{path}", json=body).status_code)

    threads = [
        threading.Thread(target=decide, args=(who, path, body))
        for who, path, body in (
            (team.owner, "approve", {}),
            (team.admin, "approve", {}),
            (team.operator, "deny", {"reason": "x"}),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [200, 409, 409]
    state = team.owner.ok("GET", f"{CLAIMS}/{asked}")["state"]
    assert held(team.administrator) == (2 if state == "active" else 0)


def test_a_ruled_model_needs_approval_named_or_not(team: Team, fleet: Any) -> None:
    fleet("a"), fleet("b", model=L40S)
    needs_approval(team.administrator, "none")
    administrator = team.administrator
    assert administrator.ok("GET", RULES) == []
    rule = {"approver": "operator"}
    assert administrator.ok("PUT", f"{RULES}/{H100}", json=rule) == {"model": H100, "approver": "operator"}
    free = team.member.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 1, "model": L40S})
    assert free["state"] == "active"
    named = team.ask(gpus=1, model=H100)["id"]
    unnamed = team.ask(gpus=1)["id"]
    grouped = team.ask(groups=[{"gpus": 1, "model": L40S}, {"gpus": 1, "model": H100}])
    assert team.waiting(team.owner) == []
    assert team.waiting(team.operator) == [named, unnamed, grouped["id"]]
    team.owner.problem("POST", f"{CLAIMS}/{named}/approve", 403, "forbidden")
    administrator.ok("DELETE", f"{RULES}/{H100}", 204)
    made = team.member.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 1})
    assert made["state"] == "active"


def test_the_strictest_rule_wins(team: Team, fleet: Any) -> None:
    fleet("a"), fleet("b", model=L40S)
    needs_approval(team.administrator, "none")
    team.administrator.ok("PUT", f"{RULES}/*", json={"approver": "workspace"})
    team.administrator.ok("PUT", f"{RULES}/{H100}", json={"approver": "operator"})
    assert [row["model"] for row in team.operator.ok("GET", RULES)] == [None, H100]
    lenient, strict = team.ask(model=L40S)["id"], team.ask(model=H100)["id"]
    assert team.waiting(team.owner) == [lenient]
    team.administrator.ok("PUT", f"{RULES}/{L40S}", json={"approver": "operator"})
    problem = team.owner.problem("POST", f"{CLAIMS}/{lenient}/approve", 403, "forbidden")
    assert problem["approver"] == "operator", "a rule that came meanwhile counts"
    assert team.waiting(team.operator) == [lenient, strict]


def test_rules_are_kept_by_administrators_and_have_versions(team: Team) -> None:
    rule = {"approver": "operator"}
    team.operator.problem("PUT", f"{RULES}/{H100}", 403, "forbidden", json=rule)
    team.member.problem("GET", RULES, 403, "forbidden")
    administrator = team.administrator
    administrator.problem("PUT", f"{RULES}/{H100}", 422, "invalid-request", json={"approver": "none"})
    administrator.problem("DELETE", f"{RULES}/{H100}", 404, "not-found")
    administrator.problem("PUT", f"{RULES}/x", 412, "version-conflict", json=rule, headers={"If-Match": "*"})
    tag = administrator.put(f"{RULES}/{H100}", json=rule).headers["ETag"]
    assert administrator.get(f"{RULES}/{H100}", headers={"If-None-Match": tag}).status_code == 304
    administrator.ok("PUT", f"{RULES}/{H100}", json={"approver": "workspace"}, headers={"If-Match": tag})
    stale = {"If-Match": tag}
    administrator.problem("DELETE", f"{RULES}/{H100}", 412, "version-conflict", headers=stale)
    events = administrator.ok("GET", "/api/v1/admin/audit", params={"action": "approval_rule.set"})["items"]
    assert events[0]["before"] == {"model": H100, "approver": "operator"}


def test_a_decision_about_an_earlier_version_is_refused(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask()["id"]
    tag = team.owner.get(f"{CLAIMS}/{asked}").headers["ETag"]
    stale = {"If-Match": '"another"'}
    team.owner.problem("POST", f"{CLAIMS}/{asked}/approve", 412, "version-conflict", headers=stale)
    team.owner.ok("POST", f"{CLAIMS}/{asked}/approve", headers={"If-Match": tag})


def test_a_dry_decision_key_is_answered_once(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask()["id"]
    key = {"Idempotency-Key": "decided"}
    first = team.owner.ok("POST", f"{CLAIMS}/{asked}/approve", headers=key)
    again = team.owner.post(f"{CLAIMS}/{asked}/approve", headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first


def test_renewing_where_approval_is_needed_waits_for_it(team: Team, fleet: Any, database: Database) -> None:
    fleet("a")
    asked = team.ask(duration_seconds=3600)["id"]
    active = team.owner.ok("POST", f"{CLAIMS}/{asked}/approve")
    planned = datetime.fromisoformat(active["expires_at"])
    later = {"expires_at": (planned + timedelta(hours=4)).isoformat()}
    waits = team.member.ok("POST", f"{CLAIMS}/{asked}/extend", 202, json=later)
    assert (waits["kind"], waits["state"], waits["approver"]) == ("extend", "requested", "workspace")
    assert team.member.ok("GET", f"{CLAIMS}/{asked}")["expires_at"] == active["expires_at"]
    team.member.problem("POST", f"{CLAIMS}/{asked}/extend", 409, "already-exists", json=later)
    (row,) = team.owner.ok("GET", APPROVALS)["items"]
    assert (row["id"], row["kind"], row["allocation_id"]) == (waits["id"], "extend", asked)
    path = f"{CLAIMS}/{asked}/changes/{waits['id']}"
    team.member.problem("POST", f"{path}/approve", 403, "forbidden")
    done = team.owner.ok("POST", f"{path}/approve", json={"reason": "fine"})
    assert (done["state"], done["reason"]) == ("done", "fine")
    end = datetime.fromisoformat(team.member.ok("GET", f"{CLAIMS}/{asked}")["expires_at"])
    assert end == planned + timedelta(hours=4)
    team.owner.problem("POST", f"{path}/approve", 409, "wrong-state")
    assert notices(database, asked)[-1] == ("allocation.change_approved", team.member.user_id)
    earlier = {"expires_at": (planned + timedelta(hours=1)).isoformat()}
    assert team.member.ok("POST", f"{CLAIMS}/{asked}/extend", json=earlier)["state"] == "active"
    assert team.owner.ok("POST", f"{CLAIMS}/{asked}/extend", json=later)["state"] == "active"


def test_growing_adds_gpus_of_the_same_kind_until_the_same_end(team: Team, fleet: Any) -> None:
    fleet("a"), fleet("b", model=L40S)
    client = team.owner
    made = client.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 2, "model": L40S})
    path = f"{CLAIMS}/{made['id']}"
    done = client.ok("POST", f"{path}/changes", 201, json={"kind": "grow", "gpus": 3})
    assert (done["state"], done["approver"]) == ("done", None)
    grown = client.ok("GET", path)
    assert len({gpu["gpu_id"] for gpu in grown["gpus"]}) == 5
    assert {gpu["model"] for gpu in grown["gpus"]} == {L40S}
    assert grown["wanted"]["gpus"] == 5
    assert grown["expires_at"] == made["expires_at"]
    problem = client.problem(
        "POST", f"{path}/changes", 409, "quota-exceeded", json={"kind": "grow", "gpus": 4}
    )
    assert (problem["used"], problem["asked"]) == (5, 4)
    quota(team.administrator, 100)
    client.problem("POST", f"{path}/changes", 409, "capacity-exceeded", json={"kind": "grow", "gpus": 4})
    assert len(client.ok("GET", path)["gpus"]) == 5, "a refusal changes nothing"
    client.ok("POST", f"{path}/release")
    assert held(team.administrator) == 0
    client.problem("POST", f"{path}/changes", 409, "wrong-state", json={"kind": "grow", "gpus": 1})


def test_what_is_together_grows_together(team: Team, fleet: Any) -> None:
    fleet("a", gpus=8), fleet("b", gpus=4)
    quota(team.administrator, 100)
    wanted = {"workspace": "vision", "gpus": 5, "same_host": True}
    made = team.owner.ok("POST", CLAIMS, 201, json=wanted)
    assert {gpu["host"] for gpu in made["gpus"]} == {"a"}
    path = f"{CLAIMS}/{made['id']}"
    team.owner.ok("POST", f"{path}/changes", 201, json={"kind": "grow", "gpus": 2})
    assert {gpu["host"] for gpu in team.owner.ok("GET", path)["gpus"]} == {"a"}
    more = {"kind": "grow", "gpus": 2}
    problem = team.owner.problem("POST", f"{path}/changes", 409, "capacity-exceeded", json=more)
    assert problem["free"] == 1, "host b is free, and would tear it apart"
    nvlink = team.owner.ok("POST", CLAIMS, 201, json={"workspace": "vision", "gpus": 2, "nvlink": True})
    assert {gpu["host"] for gpu in nvlink["gpus"]} == {"b"}
    team.owner.ok("POST", f"{CLAIMS}/{nvlink['id']}/changes", 201, json=more)
    assert {gpu["host"] for gpu in team.owner.ok("GET", f"{CLAIMS}/{nvlink['id']}")["gpus"]} == {"b"}


def test_a_group_grows_by_its_number(team: Team, fleet: Any) -> None:
    fleet("a"), fleet("b", model=L40S)
    groups = [{"gpus": 1, "model": H100}, {"gpus": 1, "model": L40S}]
    made = team.owner.ok("POST", CLAIMS, 201, json={"workspace": "vision", "groups": groups})
    path = f"{CLAIMS}/{made['id']}"
    more = {"kind": "grow", "gpus": 2, "group": 1}
    team.owner.ok("POST", f"{path}/changes", 201, json=more)
    grown = team.owner.ok("GET", path)
    assert sorted(gpu["model"] for gpu in grown["gpus"]) == [H100, L40S, L40S, L40S]
    assert [group["gpus"] for group in grown["wanted"]["groups"]] == [1, 3]
    team.owner.problem("POST", f"{path}/changes", 422, "invalid-request", json=more | {"group": 2})


def test_growing_waits_for_approval_and_counts_for_the_holder(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask()["id"]
    team.owner.ok("POST", f"{CLAIMS}/{asked}/approve")
    more = {"kind": "grow", "gpus": 2, "purpose": "a larger batch"}
    change = team.member.ok("POST", f"{CLAIMS}/{asked}/changes", 202, json=more)
    assert held(team.administrator) == 2
    (row,) = team.admin.ok("GET", APPROVALS)["items"]
    assert (row["purpose"], row["asked"]) == ("a larger batch", {"gpus": 2, "group": 0})
    path = f"{CLAIMS}/{asked}/changes/{change['id']}"
    quota(team.administrator, 3)
    team.admin.problem("POST", f"{path}/approve", 409, "quota-exceeded")
    assert team.admin.ok("GET", path)["state"] == "requested"
    quota(team.administrator, 8)
    team.admin.ok("POST", f"{path}/approve")
    assert held(team.administrator) == 4
    member = f"/api/v1/workspaces/vision/members/{team.member.user_id}/quotas"
    team.administrator.ok("PUT", member, json={"gpus": 5})
    again = team.owner.problem("POST", f"{CLAIMS}/{asked}/changes", 409, "quota-exceeded", json=more)
    assert (again["scope"], again["used"]) == ("member", 4)


def test_changes_are_denied_withdrawn_and_dropped_at_the_end(
    team: Team, fleet: Any, database: Database
) -> None:
    fleet("a")
    asked = team.ask()["id"]
    team.owner.ok("POST", f"{CLAIMS}/{asked}/approve")
    more, path = {"kind": "grow", "gpus": 1}, f"{CLAIMS}/{asked}/changes"
    denied = team.member.ok("POST", path, 202, json=more)["id"]
    team.owner.problem("POST", f"{path}/{denied}/deny", 422, "invalid-request", json={})
    assert team.owner.ok("POST", f"{path}/{denied}/deny", json={"reason": "no"})["state"] == "denied"
    withdrawn = team.member.ok("POST", path, 202, json=more)["id"]
    for _ in range(2):
        assert team.member.ok("POST", f"{path}/{withdrawn}/cancel")["state"] == "cancelled"
    team.member.problem("POST", f"{path}/{denied}/cancel", 409, "wrong-state")
    left = team.member.ok("POST", path, 202, json=more)["id"]
    team.member.ok("POST", f"{CLAIMS}/{asked}/release")
    assert team.waiting(team.owner) == []
    team.owner.problem("POST", f"{path}/{left}/approve", 409, "wrong-state")
    with database.transaction() as tx:
        (over,) = changes.left_over(tx)
        changes.drop_left_over(tx, SYSTEM, over)
    states = [(row["id"], row["state"]) for row in team.member.ok("GET", path)["items"]]
    assert states == [(left, "cancelled"), (withdrawn, "cancelled"), (denied, "denied")]
    other = team.ask()["id"]
    team.owner.problem("GET", f"{CLAIMS}/{other}/changes/{left}", 404, "not-found")


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "grow"},
        {"kind": "grow", "gpus": 0},
        {"kind": "grow", "gpus": 1, "expires_at": "2030-01-01T00:00:00Z"},
        {"kind": "extend"},
        {"kind": "extend", "expires_at": "2000-01-01T00:00:00Z"},
        {"kind": "shrink", "gpus": 1},
    ],
)
def test_changes_that_make_no_sense_are_refused(client: Client, fleet: Any, body: dict[str, Any]) -> None:
    fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    client.problem("POST", f"{CLAIMS}/{made['id']}/changes", 422, "invalid-request", json=body)


def test_the_history_tells_everything_in_order(team: Team, fleet: Any) -> None:
    fleet("a")
    asked = team.ask(purpose="the paper")["id"]
    team.owner.ok("POST", f"{CLAIMS}/{asked}/approve", json={"reason": "go"})
    change = team.member.ok("POST", f"{CLAIMS}/{asked}/changes", 202, json={"kind": "grow", "gpus": 1})["id"]
    team.owner.ok("POST", f"{CLAIMS}/{asked}/changes/{change}/approve")
    team.member.ok("POST", f"{CLAIMS}/{asked}/release")
    rows = team.other.ok("GET", f"{CLAIMS}/{asked}/history")["items"]
    assert [row["action"] for row in rows] == [
        "allocation.requested",
        "allocation.approved",
        "allocation.granted",
        "allocation.change_requested",
        "allocation.change_approved",
        "allocation.grown",
        "allocation.released",
    ]
    assert (rows[0]["reason"], rows[1]["reason"]) == ("the paper", "go")
    assert (rows[3]["change"]["id"], rows[3]["change"]["state"]) == (change, "done")
    assert all("address" not in row for row in rows)
    page = team.other.ok("GET", f"{CLAIMS}/{asked}/history", params={"limit": 4})
    rest = team.other.ok("GET", f"{CLAIMS}/{asked}/history", params={"cursor": page["next_cursor"]})
    assert page["items"] + rest["items"] == rows
    outsider = team.administrator.as_new("member")
    outsider.problem("GET", f"{CLAIMS}/{asked}/history", 404, "not-found")


def test_what_waits_is_listed_page_by_page_oldest_first(team: Team, fleet: Any) -> None:
    fleet("a")
    first = team.ask()["id"]
    team.owner.ok("POST", f"{CLAIMS}/{first}/approve")
    wanted = [team.ask()["id"]]
    wanted.append(
        team.member.ok("POST", f"{CLAIMS}/{first}/changes", 202, json={"kind": "grow", "gpus": 1})["id"]
    )
    wanted.append(team.ask()["id"])
    page = team.owner.ok("GET", APPROVALS, params={"limit": 2})
    rest = team.owner.ok("GET", APPROVALS, params={"limit": 2, "cursor": page["next_cursor"]})
    assert [row["id"] for row in page["items"] + rest["items"]] == wanted
    assert rest["next_cursor"] is None
