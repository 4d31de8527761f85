"""Nobody overwrites what somebody else wrote meanwhile: ETag, If-Match, If-None-Match."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from api.core import clock, etags
from api.core.db import Database, table
from api.core.ids import new_id
from api.core.operations.models import Operation
from api.fleet.models import Host
from api.workspaces.models import Budget, Quota
from tests.conftest import Client

WORKSPACE = "/api/v1/workspaces/default"
H100 = "NVIDIA H100 80GB HBM3"
ROUNDS = 8


def end(hours: int) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


class Thing:
    """Where something can be seen, and two changes of it that may follow one another."""

    def __init__(self, see: str, *changes: tuple[str, str, Any]) -> None:
        self.see = see
        self.changes = changes


def host(client: Client, fleet: Any) -> Thing:
    path = f"/api/v1/hosts/{fleet('a')}"
    return Thing(path, ("PATCH", path, {"labels": {"a": "1"}}), ("PATCH", path, {"labels": {"a": "2"}}))


def acted_on_host(client: Client, fleet: Any) -> Thing:
    made = fleet("a")
    machine = f"/api/v1/admin/machines/{made}"
    return Thing(
        f"/api/v1/hosts/{made}", ("POST", f"{machine}/cordon", {}), ("POST", f"{machine}/uncordon", {})
    )


def allocation(client: Client, fleet: Any) -> Thing:
    fleet("a")
    path = f"/api/v1/allocations/{client.ok('POST', '/api/v1/allocations', 201, json={'gpus': 1})['id']}"
    return Thing(path, ("POST", f"{path}/extend", {"expires_at": end(2)}), ("POST", f"{path}/release", None))


def quotas(client: Client, fleet: Any) -> Thing:
    path = f"{WORKSPACE}/quotas"
    return Thing(path, ("PUT", path, {"gpus": 5}), ("PUT", path, {"gpus": 5, "models": {H100: 2}}))


def member(client: Client, fleet: Any) -> Thing:
    path = f"{WORKSPACE}/members/{client.as_new('member').user_id}"
    client.ok("PUT", path, json={"role": "viewer"})
    return Thing(path, ("PUT", path, {"role": "admin"}), ("PUT", path, {"role": "member"}))


def user(client: Client, fleet: Any) -> Thing:
    path = f"/api/v1/admin/users/{client.as_new('member').user_id}"
    return Thing(path, ("PATCH", path, {"role": "operator"}), ("PATCH", path, {"active": False}))


THINGS = pytest.mark.parametrize("make", [host, acted_on_host, allocation, quotas, member, user])


def tag(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200, response.text
    return str(response.headers["ETag"])


@THINGS
def test_a_change_for_an_earlier_version_is_refused(
    client: Client, fleet: Any, make: Callable[..., Thing]
) -> None:
    thing = make(client, fleet)
    (method, path, body), later = thing.changes[0], thing.changes[1]
    seen = tag(client, thing.see)
    first = client.request(method, path, json=body, headers={"If-Match": seen})
    assert first.status_code == 200, first.text
    assert first.headers["ETag"] == tag(client, thing.see) != seen
    before = client.ok("GET", thing.see)

    stale = client.request(later[0], later[1], json=later[2], headers={"If-Match": seen})
    assert (stale.status_code, stale.json()["code"]) == (412, "version-conflict")
    assert client.ok("GET", thing.see) == before
    assert stale.headers["ETag"] == stale.json()["etag"]

    now = client.request(later[0], later[1], json=later[2], headers={"If-Match": stale.json()["etag"]})
    assert now.status_code == 200, now.text


@THINGS
def test_who_names_no_version_overwrites(client: Client, fleet: Any, make: Callable[..., Thing]) -> None:
    thing = make(client, fleet)
    for number, (method, path, body) in enumerate(thing.changes):
        headers = {"If-Match": "*"} if number else {}
        client.ok(method, path, json=body, headers=headers)


@THINGS
def test_what_is_known_is_not_sent_again(client: Client, fleet: Any, make: Callable[..., Thing]) -> None:
    thing = make(client, fleet)
    seen = tag(client, thing.see)
    for known in (seen, "*", f'"other", {seen}', f"W/{seen}"):
        answer = client.get(thing.see, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", seen)
    method, path, body = thing.changes[0]
    client.ok(method, path, json=body)
    assert client.get(thing.see, headers={"If-None-Match": seen}).status_code == 200


def test_what_moves_by_itself_is_seen_but_stops_no_change(
    client: Client, fleet: Any, database: Database
) -> None:
    path = f"/api/v1/hosts/{fleet('a')}"
    limits = f"{WORKSPACE}/quotas"
    seen, known = tag(client, path), tag(client, limits)
    database.run(lambda tx: tx.execute(sa.update(table(Host)).values(health_checked_at=clock.now())))
    assert client.get(path, headers={"If-None-Match": seen}).status_code == 200
    client.ok("PATCH", path, json={"labels": {"a": "1"}}, headers={"If-Match": seen})
    client.ok("POST", "/api/v1/allocations", 201, json={"gpus": 1})
    assert client.get(limits, headers={"If-None-Match": known}).json()[0]["gpus_held"] == 1
    client.ok("PUT", limits, json={"gpus": 3}, headers={"If-Match": known})


@pytest.mark.parametrize("given", ['"x"', 'W/"x"', '"x", "y"', '"x-y"'])
def test_other_versions_do_not_match(client: Client, given: str) -> None:
    path = f"{WORKSPACE}/quotas"
    client.problem("PUT", path, 412, "version-conflict", json={"gpus": 1}, headers={"If-Match": given})
    weak = f"W/{tag(client, path)}"
    client.problem("PUT", path, 412, "version-conflict", json={"gpus": 1}, headers={"If-Match": weak})


def test_one_of_several_versions_is_enough(client: Client) -> None:
    path = f"{WORKSPACE}/quotas"
    headers = {"If-Match": f'"x" ,{tag(client, path)},"y"'}
    client.ok("PUT", path, json={"gpus": 1}, headers=headers)


@pytest.mark.parametrize("given", ["x", "", '"x', '"x" "y"', "*, *", 'w/"x"'])
def test_what_is_no_entity_tag_is_refused(client: Client, given: str) -> None:
    path, headers = f"{WORKSPACE}/quotas", {"If-Match": given}
    client.problem("PUT", path, 422, "invalid-request", json={"gpus": 1}, headers=headers)


def test_what_does_not_exist_matches_nothing(client: Client) -> None:
    path = f"{WORKSPACE}/members/{client.as_new('member').user_id}"
    body = {"role": "viewer"}
    client.problem("PUT", path, 412, "version-conflict", json=body, headers={"If-Match": "*"})
    client.problem("GET", path, 404, "not-found")
    client.ok("PUT", path, json=body, headers={"If-None-Match": "*"})
    client.problem("PUT", path, 412, "version-conflict", json=body, headers={"If-None-Match": "*"})
    client.problem("DELETE", path, 412, "version-conflict", headers={"If-Match": '"x"'})
    client.ok("DELETE", path, 204, headers={"If-Match": tag(client, path)})


def test_an_api_key_is_revoked_as_it_was_seen(client: Client) -> None:
    path = f"/api/v1/api-keys/{client.ok('POST', '/api/v1/api-keys', 201, json={'name': 'a'})['id']}"
    client.problem("DELETE", path, 412, "version-conflict", headers={"If-Match": '"x"'})
    seen = tag(client, path)
    client.ok("DELETE", path, headers={"If-Match": seen})
    assert tag(client, path) != seen


def test_what_goes_on_is_cancelled_as_it_was_seen(client: Client, fleet: Any, database: Database) -> None:
    one = fleet("a")
    fleet("b", labels={"rack": "b1"})
    operation = client.ok("POST", f"/api/v1/admin/machines/{one}/verify", 202, json={})["id"]
    asked = {"action": "verify", "hosts": {"labels": {"rack": "b1"}}}
    group = client.ok("POST", "/api/v1/operation-groups", 202, json=asked)["id"]
    for path in (f"/api/v1/operations/{operation}", f"/api/v1/operation-groups/{group}"):
        seen = tag(client, path)
        database.run(lambda tx: tx.execute(sa.update(table(Operation)).values(progress=50)))
        answer = client.post(f"{path}/cancel", headers={"If-Match": seen})
        assert (answer.status_code, answer.headers["ETag"]) == (202, tag(client, path)), answer.text
        client.problem("POST", f"{path}/cancel", 412, "version-conflict", headers={"If-Match": seen})


def test_a_stranger_learns_no_version(client: Client, fleet: Any) -> None:
    made = allocation(client, fleet).see
    stranger = client.as_new("member")
    stranger.problem("POST", f"{made}/release", 404, "not-found", headers={"If-Match": '"x"'})
    stranger.problem("GET", made, 404, "not-found", headers={"If-None-Match": "*"})


def test_a_replay_is_not_held_to_the_version_that_it_made_itself(client: Client) -> None:
    path = f"{WORKSPACE}/quotas"
    headers = {"If-Match": tag(client, path), "Idempotency-Key": "k"}
    first, again = (client.put(path, json={"gpus": 3}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["ETag"] == first.headers["ETag"]


RACES: dict[str, Callable[[int, int], Any]] = {
    "limits": lambda number, who: {"gpus": 100 * number + who},
    # Each adds a row of its own and changes none that the other has locked.
    "models": lambda number, who: {"gpus": 8, "models": {f"model {number} {who}": 1}},
}


@pytest.mark.parametrize("race", RACES)
def test_of_two_writers_with_one_version_one_wins(app: FastAPI, client: Client, race: str) -> None:
    path = f"{WORKSPACE}/quotas"
    writers = [Client(app, raise_server_exceptions=False) for _ in range(2)]
    for number in range(ROUNDS):
        headers = {"If-Match": tag(client, path), "Authorization": client.headers["Authorization"]}

        def write(who: int, number: int = number, headers: dict[str, str] = headers) -> Any:
            return writers[who].put(path, json=RACES[race](number, who), headers=headers)

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(write, range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 412]
        (winner,) = (answer for answer in answers if answer.status_code == 200)
        assert client.ok("GET", path) == winner.json()


def test_of_two_who_change_one_host_one_wins(app: FastAPI, client: Client, fleet: Any) -> None:
    path = f"/api/v1/hosts/{fleet('a')}"
    writers = [Client(app, raise_server_exceptions=False) for _ in range(2)]
    for number in range(ROUNDS):
        headers = {"If-Match": tag(client, path), "Authorization": client.headers["Authorization"]}

        def write(who: int, number: int = number, headers: dict[str, str] = headers) -> int:
            body = {"labels": {"round": f"{number}-{who}"}}
            return writers[who].patch(path, json=body, headers=headers).status_code

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(write, range(2))) == [200, 412]


def test_a_version_is_the_same_just_assigned_and_read() -> None:
    utc = datetime(2026, 1, 5, 12, tzinfo=UTC)
    there = utc.astimezone(timezone(timedelta(hours=5)))
    one: dict[str, Any] = {"id": new_id(), "created_at": utc}
    assert etags.version(Host(**one, state_since=utc)) == etags.version(Host(**one, state_since=there))
    budget: dict[str, Any] = {"scope_id": new_id(), "resource": "money", "scope": "workspace"}
    short, padded = (Budget(**budget, hard_limit=Decimal(text)) for text in ("1.5", "1.500000"))
    assert etags.version(short) == etags.version(padded)


def test_what_is_set_aside_makes_no_version() -> None:
    quota: dict[str, Any] = {"scope_id": new_id(), "scope": "workspace", "hard_limit": 3}
    before, after = Quota(**quota, used=1), Quota(**quota, used=2)
    assert etags.version(before) != etags.version(after)
    assert etags.version(before, aside={"used"}) == etags.version(after, aside={"used"})


def test_the_description_says_where_versions_are_looked_at(app: FastAPI) -> None:
    tagged = set()
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            names = {one["name"] for one in operation.get("parameters", []) if one["in"] == "header"}
            assert ("If-Match" in names) == ("412" in operation["responses"]), f"{method} {path}"
            assert ("If-None-Match" in names) == ("304" in operation["responses"]), f"{method} {path}"
            if "304" in operation["responses"]:
                assert "ETag" in operation["responses"]["200"]["headers"]
                tagged.add(path)
    assert len(tagged) > 6
