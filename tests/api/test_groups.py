"""One thing done to many hosts: slices, a failure budget, cancel, the failed ones again; and draining."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from api.core.db import Database
from api.core.operations.lifecycle import Event as OperationEvent
from api.fleet import group_router, groups
from tests.api.test_live import meanwhile, parsed_any
from tests.conftest import Client
from tests.support import ledger

GROUPS = "/api/v1/operation-groups"


@pytest.fixture
def rack(fleet: Any) -> dict[str, UUID]:
    """Six hosts of one rack, and one of another."""
    made = {name: fleet(name, gpus=1, labels={"rack": "b1"}) for name in "abcdef"}
    return made | {"z": fleet("z", gpus=1, region="south", labels={"rack": "b2"})}


def begin(client: Client, action: str = "reclaim", status: int = 202, **more: Any) -> Any:
    body = {"action": action, "hosts": {"labels": {"rack": "b1"}}, "at_once": 2} | more
    return client.ok("POST", GROUPS, status, json=body)


def states(group: Any) -> str:
    """One letter a host, by name: waiting, running, succeeded, failed, skipped: `x` is skipped."""
    found = sorted(group["members"], key=lambda member: member["host"])
    return "".join("x" if member["state"] == "skipped" else member["state"][0] for member in found)


def advance(client: Client, database: Database, group: Any) -> Any:
    """What a worker does every second."""
    with database.transaction() as tx:
        for group_id in groups.running(tx):
            groups.advance(tx, groups.lock(tx, group_id))
    return client.ok("GET", f"{GROUPS}/{group['id']}")


def succeed(database: Database, *hosts: UUID) -> None:
    for host in hosts:
        ledger.finish(database, host, ledger.report("reclaim"))


def fail(database: Database, *hosts: UUID) -> None:
    for host in hosts:
        ledger.finish(database, host, event=OperationEvent.FAIL, reason="disk full", step="wipe")


def test_slices_follow_one_another(client: Client, rack: dict[str, UUID], database: Database) -> None:
    group = begin(client)
    assert (states(group), group["hosts"]) == ("rrwwww", {"running": 2, "waiting": 4})
    running = next(member for member in group["members"] if member["state"] == "running")
    operation = client.ok("GET", f"/api/v1/operations/{running['operation_id']}")
    assert (operation["kind"], operation["requested_by"]) == ("host.reclaim", "admin@ironyard.local")
    succeed(database, rack["a"])
    assert states(advance(client, database, group)) == "srrwww"
    succeed(database, rack["b"], rack["c"])
    assert states(advance(client, database, group)) == "sssrrw"
    succeed(database, rack["d"], rack["e"])
    assert states(advance(client, database, group)) == "sssssr"
    succeed(database, rack["f"])
    done = advance(client, database, group)
    assert (states(done), done["state"], done["reason"]) == ("ssssss", "succeeded", None)
    assert done["ended_at"] is not None
    assert client.ok("GET", GROUPS)["items"][0]["hosts"] == {"succeeded": 6}


def test_a_spent_budget_stops_it_and_the_failed_are_tried_again(
    client: Client, rack: dict[str, UUID], database: Database
) -> None:
    group = begin(client, max_failures=1)
    fail(database, rack["a"])
    assert states(advance(client, database, group)) == "frrwww"
    fail(database, rack["b"])
    stopping = advance(client, database, group)
    assert (states(stopping), stopping["state"]) == ("ffrxxx", "running")
    client.problem("POST", f"{GROUPS}/{group['id']}/retry", 409, "conflict")
    succeed(database, rack["c"])
    done = advance(client, database, group)
    assert (states(done), done["state"]) == ("ffsxxx", "failed")
    assert done["reason"] == "Stopped after 2 failures, of 1 allowed; 3 hosts were not begun."
    assert next(m for m in done["members"] if m["host"] == "a")["reason"] == "disk full"
    again = client.ok("POST", f"{GROUPS}/{group['id']}/retry", 202)
    assert [member["host"] for member in again["members"]] == ["a", "b"]
    assert (again["retries"], again["at_once"], again["action"]) == (group["id"], 2, "reclaim")
    succeed(database, rack["a"], rack["b"])
    assert advance(client, database, again)["state"] == "succeeded"
    with_skipped = client.ok("POST", f"{GROUPS}/{group['id']}/retry", 202, json={"skipped": True})
    assert len(with_skipped["members"]) == 5
    client.problem("POST", f"{GROUPS}/{again['id']}/retry", 422, "invalid-request")


def test_what_cannot_be_begun_counts_as_failed(
    client: Client, rack: dict[str, UUID], database: Database
) -> None:
    client.ok("POST", f"/api/v1/admin/machines/{rack['a']}/maintenance")
    client.ok("POST", f"/api/v1/admin/machines/{rack['b']}/verify", 202)
    group = begin(client, "verify", max_failures=2, at_once=1)
    assert states(group) == "ffrwww"
    assert "maintenance cannot check" in next(m for m in group["members"] if m["host"] == "a")["reason"]


def test_a_cancelled_group_begins_no_more(client: Client, rack: dict[str, UUID], database: Database) -> None:
    group = begin(client)
    stopping = client.ok("POST", f"{GROUPS}/{group['id']}/cancel", 202)
    assert (states(stopping), stopping["state"]) == ("rrxxxx", "running")
    cut = client.ok("POST", f"{GROUPS}/{group['id']}/cancel", 202, json={"running": True})
    ids = [m["operation_id"] for m in cut["members"] if m["operation_id"]]
    assert all(client.ok("GET", f"/api/v1/operations/{i}")["cancel_requested"] for i in ids)
    for name in "ab":
        ledger.finish(database, rack[name], event=OperationEvent.CANCEL, reason="Cancelled while it ran.")
    done = advance(client, database, group)
    assert (done["state"], states(done)) == ("cancelled", "ffxxxx")
    client.problem("POST", f"{GROUPS}/{group['id']}/cancel", 409, "conflict")


def test_a_host_is_enrolled_when_its_first_reclaim_has_ended(
    client: Client, rack: dict[str, UUID], database: Database
) -> None:
    group = begin(client, "enroll", hosts={"names": ["a", "b"]}, at_once=1, trust_new_host_key=True)
    report = ledger.report("enroll", facts=ledger.facts(1), manifest={"of": "a"})
    ledger.finish(database, rack["a"], report)
    assert states(advance(client, database, group)) == "rw"
    succeed(database, rack["a"])
    assert states(advance(client, database, group)) == "sr"
    operation = client.ok("GET", "/api/v1/operations", params={"kind": "host.enroll"})["items"][0]
    assert operation["subject"] == "b"
    fail(database, rack["b"])
    assert advance(client, database, group)["state"] == "failed"


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ({"names": ["a", "z"]}, "az"),
        ({"region": "south"}, "z"),
        ({"labels": {"rack": "b1"}, "names": ["c"]}, "c"),
        ({"state": "idle"}, "abcdefz"),
    ],
)
def test_hosts_are_selected(client: Client, rack: dict[str, UUID], hosts: Any, names: str) -> None:
    group = begin(client, "cordon", hosts=hosts)
    assert sorted(member["host"] for member in group["members"]) == sorted(names)
    assert (group["state"], set(states(group))) == ("succeeded", {"s"})
    listed = client.ok("GET", "/api/v1/hosts", params={"cordoned": True})["items"]
    assert {row["name"] for row in listed} == set(names)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hosts": {}}, "at least one"),
        ({"hosts": {"names": ["a", "nobody"]}}, "nobody"),
        ({"hosts": {"region": "nowhere"}}, "No host fits"),
        ({"at_once": 0}, "at_once"),
        ({"action": "explode"}, "action"),
    ],
)
def test_bad_groups_are_refused_whole(client: Client, rack: dict[str, UUID], change: Any, says: str) -> None:
    body = {"action": "reclaim", "hosts": {"labels": {"rack": "b1"}}} | change
    assert says in client.problem("POST", GROUPS, 422, "invalid-request", json=body)["detail"]
    assert client.ok("GET", GROUPS)["items"] == []


def test_a_draining_host_leaves_when_it_is_free_and_clean(
    client: Client, rack: dict[str, UUID], database: Database
) -> None:
    lent = client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 1})
    host = UUID(lent["gpus"][0]["host_id"])
    (name,) = [name for name, host_id in rack.items() if host_id == host]
    other = next(n for n in "abcdef" if n != name)
    group = begin(client, "drain", hosts={"names": sorted({name, other})}, to="retired")
    found = client.ok("GET", f"/api/v1/hosts/{host}")
    assert (found["state"], found["cordoned"], found["drains_to"]) == ("allocated", True, "retired")
    assert client.ok("GET", f"/api/v1/hosts/{rack[other]}")["state"] == "retired"
    client.ok("POST", f"/api/v1/allocations/{lent['id']}/release")
    assert advance(client, database, group)["state"] == "running"
    succeed(database, host)
    assert client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "retired"
    newest = client.ok("GET", "/api/v1/operations")["items"][0]
    assert (newest["kind"], newest["subject"]) == ("host.retire", name)
    assert advance(client, database, group)["state"] == "succeeded"


def test_a_drain_whose_clean_fails_or_that_is_taken_back(
    client: Client, rack: dict[str, UUID], database: Database
) -> None:
    for name in "ab":
        client.ok("POST", f"/api/v1/admin/machines/{rack[name]}/reclaim", 202)
    group = begin(client, "drain", hosts={"names": ["a", "b"]}, max_failures=2)
    fail(database, rack["a"])
    client.ok("POST", f"/api/v1/admin/machines/{rack['b']}/uncordon")
    done = advance(client, database, group)
    assert (done["state"], states(done)) == ("failed", "ff")
    assert client.ok("GET", f"/api/v1/hosts/{rack['a']}")["state"] == "maintenance"
    succeed(database, rack["b"])
    assert client.ok("GET", f"/api/v1/hosts/{rack['b']}")["state"] == "idle"


def test_draining_an_idle_host_puts_it_in_maintenance(client: Client, rack: dict[str, UUID]) -> None:
    found = client.ok("POST", f"/api/v1/admin/machines/{rack['a']}/drain", json={"reason": "fans"})
    assert (found["state"], found["cordoned"], found["drains_to"]) == ("maintenance", True, None)
    found = client.ok("POST", f"/api/v1/admin/machines/{rack['a']}/drain", json={"to": "retired"})
    assert found["state"] == "retired"


def test_a_group_is_followed_to_its_end(
    client: Client, rack: dict[str, UUID], database: Database, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_router, "POLL_SECONDS", 0.05)
    group = begin(client, hosts={"names": ["a", "b"]}, at_once=1, max_failures=1)

    def go_on() -> None:
        for name, end in (("a", succeed), ("b", fail)):
            end(database, rack[name])
            advance(client, database, group)

    with meanwhile(go_on):
        told = list(parsed_any(client.get(f"{GROUPS}/{group['id']}/events").text))
    assert told[-1]["event"] == "end"
    assert (told[-1]["data"]["state"], told[-1]["data"]["hosts"]) == ("failed", {"succeeded": 1, "failed": 1})
    ends = {m["data"]["host"]: m["data"]["state"] for m in told if m["event"] == "member"}
    assert ends == {"a": "succeeded", "b": "failed"}
    client.problem("GET", f"{GROUPS}/{rack['a']}/events", 404, "not-found")


def test_only_operators_use_groups(client: Client, rack: dict[str, UUID]) -> None:
    group = begin(client, "cordon")
    member = client.as_new("member")
    member.problem("GET", GROUPS, 403, "forbidden")
    member.problem("GET", f"{GROUPS}/{group['id']}/events", 403, "forbidden")
    member.problem("POST", f"{GROUPS}/{group['id']}/retry", 403, "forbidden")
