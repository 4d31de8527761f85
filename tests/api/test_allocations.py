"""The ledger over HTTP, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from api.allocations import expiry
from api.core.db import Database
from tests.conftest import Client
from tests.support import ledger
from tests.support.ledger import H100, SYSTEM

CLAIMS = "/api/v1/allocations"


def held(quotas: list[Any]) -> list[tuple[Any, ...]]:
    return [(row["model"], row["gpu_limit"], row["gpus_held"]) for row in quotas]


def test_a_claim_holds_gpus_of_one_host_and_says_which(client: Client, fleet: Any) -> None:
    host = fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 3})
    assert [gpu["index"] for gpu in made["gpus"]] == [0, 1, 2]
    assert {gpu["host"] for gpu in made["gpus"]} == {"a"}
    assert made["workspace"] == "default"
    assert made["requested_by"] == "admin@ironyard.local"
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "allocated"
    assert client.ok("GET", f"{CLAIMS}/{made['id']}") == made
    (quota,) = client.ok("GET", "/api/v1/workspaces/default/quotas")
    assert (quota["model"], quota["gpu_limit"], quota["gpus_held"]) == (None, 8, 3)


def test_all_or_nothing(client: Client, fleet: Any) -> None:
    fleet("a", gpus=4)
    problem = client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 5})
    assert (problem["free"], problem["matching"], problem["asked"]) == (4, 4, {"gpus": 5})
    assert all(gpu["held_by"] is None for gpu in client.ok("GET", "/api/v1/gpus")["items"])


def test_the_quota_is_checked_in_total_and_by_model(client: Client, fleet: Any) -> None:
    fleet("a"), fleet("b", model="NVIDIA L40S")
    quota = {"gpus": 6, "models": {H100: 2}}
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json=quota)
    problem = client.problem("POST", CLAIMS, 409, "quota-exceeded", json={"gpus": 3, "model": H100})
    assert (problem["limit"], problem["used"], problem["asked"], problem["model"]) == (2, 0, 3, H100)
    client.ok("POST", CLAIMS, 201, json={"gpus": 2, "model": H100})
    client.ok("POST", CLAIMS, 201, json={"gpus": 4, "model": "NVIDIA L40S"})
    problem = client.problem("POST", CLAIMS, 409, "quota-exceeded", json={"gpus": 1})
    assert (problem["limit"], problem["used"], problem["model"]) == (6, 6, None)


def test_a_quota_below_what_is_held_blocks_only_new_claims(client: Client, fleet: Any) -> None:
    fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 3})
    rows = client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 1, "models": {H100: 0}})
    assert [(row["model"], row["gpu_limit"], row["gpus_held"]) for row in rows] == [
        (None, 1, 3),
        (H100, 0, 3),
    ]
    client.problem("POST", CLAIMS, 409, "quota-exceeded", json={"gpus": 1})
    assert client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "active"
    client.ok("POST", f"{CLAIMS}/{made['id']}/release")
    assert {row["gpus_held"] for row in client.ok("GET", "/api/v1/workspaces/default/quotas")} == {0}


@pytest.mark.parametrize(
    ("wanted", "hosts"),
    [
        ({"gpus": 2, "model": "NVIDIA L40S"}, {"small"}),
        ({"gpus": 2, "memory_mib": 60000}, {"big"}),
        ({"gpus": 6, "same_host": True}, {"big"}),
        ({"gpus": 2, "region": "north"}, {"small"}),
        ({"gpus": 1, "labels": {"rack": "r1"}}, {"small"}),
        ({"gpus": 4, "nvlink": True}, {"small"}),
        ({"gpus": 3, "exclusive_host": True}, {"small"}),
        ({"gpus": 8}, {"big", "small"}),
    ],
)
def test_constraints(client: Client, fleet: Any, wanted: dict[str, Any], hosts: set[str]) -> None:
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 100})
    fleet("big", gpus=6)
    fleet("small", gpus=4, model="NVIDIA L40S", region="north", labels={"rack": "r1"})
    if wanted.get("memory_mib"):
        wanted = wanted | {"model": H100}
    made = client.ok("POST", CLAIMS, 201, json=wanted)
    assert {gpu["host"] for gpu in made["gpus"]} == hosts
    assert len(made["gpus"]) == (4 if wanted.get("exclusive_host") else wanted["gpus"])


def test_partly_used_hosts_are_filled_first_and_the_tightest_fit_is_taken(client: Client, fleet: Any) -> None:
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 100})
    fleet("first", gpus=8)
    fleet("second", gpus=4)

    def hosts(**wanted: Any) -> list[str]:
        return [gpu["host"] for gpu in client.ok("POST", CLAIMS, 201, json=wanted)["gpus"]]

    assert hosts(gpus=3, same_host=True) == ["second"] * 3
    assert hosts(gpus=1) == ["second"]
    assert hosts(gpus=8) == ["first"] * 8


def test_a_repeated_idempotency_key_answers_with_the_first_allocation(client: Client, fleet: Any) -> None:
    fleet("a")
    key = {"Idempotency-Key": "once"}
    first = client.ok("POST", CLAIMS, 201, json={"gpus": 2}, headers=key)
    again = client.post(CLAIMS, json={"gpus": 2}, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first
    client.problem("POST", CLAIMS, 409, "idempotency-key-reused", json={"gpus": 3}, headers=key)
    assert len(client.ok("GET", CLAIMS)["items"]) == 1


def test_the_last_release_starts_reclaim_and_only_verified_leads_back(
    client: Client, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    first, second = (client.ok("POST", CLAIMS, 201, json={"gpus": 4})["id"] for _ in range(2))
    client.ok("POST", f"{CLAIMS}/{first}/release")
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "allocated"
    client.ok("POST", f"{CLAIMS}/{second}/release")
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "reclaiming"
    operations = client.ok("GET", "/api/v1/operations", params={"subject_id": str(host), "state": "queued"})
    assert [row["kind"] for row in operations["items"]] == ["host.reclaim"]
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1})
    ledger.finish(database, host, ledger.report("reclaim"))
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "idle"
    client.ok("POST", CLAIMS, 201, json={"gpus": 1})


def test_releasing_twice_is_harmless(client: Client, fleet: Any) -> None:
    fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    first = client.ok("POST", f"{CLAIMS}/{made['id']}/release")
    assert first["state"] == "released"
    assert client.ok("POST", f"{CLAIMS}/{made['id']}/release") == first


def test_extend_and_its_bounds(client: Client, fleet: Any) -> None:
    fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 1, "duration_seconds": 600})
    path = f"{CLAIMS}/{made['id']}/extend"
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    assert client.ok("POST", path, json={"expires_at": later})["expires_at"][:19] == later[:19]
    past = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    client.problem("POST", path, 422, "invalid-request", json={"expires_at": past})
    far = (datetime.now(UTC) + timedelta(days=4000)).isoformat()
    client.problem("POST", path, 422, "invalid-request", json={"expires_at": far})
    client.ok("POST", f"{CLAIMS}/{made['id']}/release")
    client.problem("POST", path, 409, "wrong-state", json={"expires_at": later})


def test_an_expired_allocation_ends_and_its_host_is_reclaimed(
    client: Client, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 1, "duration_seconds": 60})
    with database.snapshot() as tx:
        assert expiry.overdue(tx) == []
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        with database.snapshot() as tx:
            overdue = expiry.overdue(tx)
        assert [str(found) for found in overdue] == [made["id"]]
        with database.transaction() as tx:
            assert expiry.expire(tx, SYSTEM, overdue[0])
        with database.transaction() as tx:
            assert not expiry.expire(tx, SYSTEM, overdue[0])
    assert client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "expired"
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "reclaiming"


def test_a_cordoned_host_takes_no_claims_and_keeps_its_holds(client: Client, fleet: Any) -> None:
    host = fleet("a")
    made = client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    client.ok("POST", f"/api/v1/admin/machines/{host}/cordon", json={"reason": "fans"})
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1})
    assert client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "active"
    client.ok("POST", f"/api/v1/admin/machines/{host}/uncordon")
    client.ok("POST", CLAIMS, 201, json={"gpus": 1})


def test_a_held_host_is_not_taken_away(client: Client, fleet: Any) -> None:
    host = fleet("a")
    client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    for action in ("reclaim", "maintenance", "retire", "verify", "enroll"):
        problem = client.problem("POST", f"/api/v1/admin/machines/{host}/{action}", 409, "host-not-idle")
        assert problem["gpus_held"] == 1
    body = {"playbook": "reclaim", "hosts": [str(host)], "controller": "ada@bastion"}
    client.problem("POST", "/api/v1/runs", 409, "host-not-idle", json=body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"gpus": 0},
        {"gpus": -1},
        {"gpus": "many"},
        {"gpus": 1, "surprise": True},
        {"gpus": 1, "duration_seconds": 1},
        {"gpus": 1, "expires_at": "2020-01-01T00:00:00Z"},
        {"gpus": 1, "expires_at": "2020-01-01T00:00:00"},
        {"gpus": 1, "duration_seconds": 60, "expires_at": "2099-01-01T00:00:00Z"},
    ],
)
def test_bad_claims_change_nothing(client: Client, fleet: Any, body: dict[str, Any]) -> None:
    fleet("a")
    client.problem("POST", CLAIMS, 422, "invalid-request", json=body)
    assert client.ok("GET", CLAIMS)["items"] == []


def test_members_see_and_touch_only_their_workspaces(client: Client, fleet: Any) -> None:
    fleet("a")
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "other", "name": "Other"})
    mine = client.ok("POST", CLAIMS, 201, json={"gpus": 1})["id"]
    member, viewer = client.as_new("member"), client.as_new("viewer")
    for user, role in ((member, "member"), (viewer, "viewer")):
        path = f"/api/v1/workspaces/other/members/{user.user_id}"
        client.ok("PUT", path, json={"role": role})
    member.problem("POST", CLAIMS, 404, "not-found", json={"gpus": 1})
    member.problem("GET", f"{CLAIMS}/{mine}", 404, "not-found")
    member.problem("POST", f"{CLAIMS}/{mine}/release", 404, "not-found")
    own = member.ok("POST", CLAIMS, 201, json={"gpus": 1, "workspace": "other"})["id"]
    assert [row["id"] for row in member.ok("GET", CLAIMS)["items"]] == [own]
    assert viewer.ok("GET", f"{CLAIMS}/{own}")["id"] == own
    viewer.problem("POST", CLAIMS, 403, "forbidden", json={"gpus": 1, "workspace": "other"})
    viewer.problem("POST", f"{CLAIMS}/{own}/release", 403, "forbidden")


def test_lists_page_by_cursor(client: Client, fleet: Any) -> None:
    fleet("a")
    made = [client.ok("POST", CLAIMS, 201, json={"gpus": 1})["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.ok("GET", CLAIMS, params=params)
        seen += [row["id"] for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    client.problem("GET", CLAIMS, 422, "invalid-request", params={"cursor": "nonsense!"})
