"""A workspace's Harbor project, against a Harbor that holds every request to the vendor's specification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stacks.tenancy.harbor import Harbor, HarborError
from stacks.tenancy.registry import _Projects
from tests.stacks.harbor import AUTHORIZATION, BASE, PASSWORD, USER, FakeHarbor

GIB = 1024**3


@pytest.fixture
def harbor(contracts: Path) -> Iterator[FakeHarbor]:
    fake = FakeHarbor(contracts)
    fake.add_user("ada", "ada@example.org")
    yield fake
    fake.stop()
    assert fake.faults == []


def inputs(harbor: FakeHarbor, **change: Any) -> dict[str, Any]:
    return {
        "url": harbor.url,
        "username": USER,
        "password": PASSWORD,
        "ca_file": "",
        "project": "vision",
        "storage": 100 * GIB,
        "members": {"ada@example.org": "owner"},
    } | change


def made(harbor: FakeHarbor, **change: Any) -> tuple[str, dict[str, Any]]:
    result = _Projects().create(inputs(harbor, **change))
    assert result.outs is not None
    return result.id, result.outs


def test_a_workspace_gets_a_private_project_under_quota_and_a_robot(harbor: FakeHarbor) -> None:
    _, outs = made(harbor)
    (project,) = harbor.projects.values()
    assert (project["name"], project["metadata"]) == ("vision", {"public": "false"})
    assert harbor.quotas[outs["project_id"]] == 100 * GIB
    assert harbor.roles("vision") == {USER: 1, "ada": 1}
    assert outs["robot"] == "robot$vision+workloads"
    assert outs["robot_secret"].startswith("secret-")


def test_what_an_interrupted_run_made_is_taken_on(harbor: FakeHarbor) -> None:
    first, _ = made(harbor, storage=GIB)
    second, outs = made(harbor, storage=2 * GIB)
    assert first == second
    assert len(harbor.projects) == len(harbor.robots) == 1
    assert harbor.quotas[int(second)] == 2 * GIB
    assert outs["robot_secret"].startswith("renewed-")


def test_members_come_change_and_go_and_those_of_others_stay(harbor: FakeHarbor) -> None:
    harbor.add_user("bob@example.org", "other@example.org")
    harbor.add_user("eve", "eve@example.org")
    number, outs = made(harbor)
    harbor._join(int(number), "eve", 2)
    provider = _Projects()
    wanted = {"ada@example.org": "viewer", "bob@example.org": "member"}
    outs = provider.update(number, outs, inputs(harbor, members=wanted)).outs or {}
    assert harbor.roles("vision") == {USER: 1, "ada": 3, "bob@example.org": 2, "eve": 2}
    provider.update(number, outs, inputs(harbor, members={"bob@example.org": "admin"}))
    assert harbor.roles("vision") == {USER: 1, "bob@example.org": 4, "eve": 2}


def test_a_member_whom_harbor_does_not_know_yet_is_added_once_it_does(harbor: FakeHarbor) -> None:
    wanted = {"members": {"late@example.org": "member"}}
    number, outs = made(harbor, **wanted)
    assert outs["absent"] == ["late@example.org"]
    provider = _Projects()
    assert not provider.diff(number, outs, inputs(harbor, **wanted)).changes
    harbor.add_user("late", "late@example.org")
    assert provider.diff(number, outs, inputs(harbor, **wanted)).changes
    outs = provider.update(number, outs, inputs(harbor, **wanted)).outs or {}
    assert outs["absent"] == []
    assert harbor.roles("vision")["late"] == 2


def test_nothing_changes_when_nothing_did(harbor: FakeHarbor) -> None:
    number, outs = made(harbor)
    before = len(harbor.calls)
    found = _Projects().diff(number, outs, inputs(harbor))
    assert (found.changes, found.replaces, len(harbor.calls)) == (False, [], before)


@pytest.mark.parametrize(
    ("change", "replaces"),
    [({"project": "audio"}, ["project"]), ({"storage": GIB}, []), ({"password": "another"}, [])],
)
def test_another_name_is_another_project(harbor: FakeHarbor, change: Any, replaces: list[str]) -> None:
    number, outs = made(harbor)
    found = _Projects().diff(number, outs, inputs(harbor, **change))
    assert (found.changes, found.replaces) == (True, replaces)


def test_a_project_that_is_gone_is_seen(harbor: FakeHarbor) -> None:
    number, outs = made(harbor)
    provider = _Projects()
    assert provider.read(number, outs).id == number
    provider.delete(number, outs)
    assert harbor.projects == harbor.robots == {}
    assert provider.read(number, outs).id == ""
    provider.delete(number, outs)


def test_a_project_with_images_is_not_deleted(harbor: FakeHarbor) -> None:
    number, outs = made(harbor)
    harbor.repositories.add(int(number))
    with pytest.raises(HarborError, match="still has repositories"):
        _Projects().delete(number, outs)
    assert harbor.projects


def test_pages_are_followed(harbor: FakeHarbor) -> None:
    number, _ = made(harbor)
    for index in range(150):
        harbor._join(int(number), f"user-{index}", 2)
    harbor.add_user("user-149", "last@example.org")
    client = Harbor(harbor.url, USER, PASSWORD)
    client.set_members(int(number), {"last@example.org": "viewer"}, set())
    assert harbor.roles("vision")["user-149"] == 3
    assert len(harbor.members[int(number)]) == 152


def test_the_fake_sees_what_the_specification_does_not_allow(contracts: Path) -> None:
    fake = FakeHarbor(contracts)
    headers = {"Authorization": AUTHORIZATION}
    for method, target, body in (
        ("POST", "/projects", {"project_name": "x", "storage": 1}),
        ("POST", "/projects", {"project_name": "x", "storage_limit": "1Gi"}),
        ("GET", "/quotas?project=1", None),
        ("GET", "/workspaces", None),
    ):
        assert fake.take(method, BASE + target, headers, body)[0] == 400
    assert len(fake.faults) == 4
    fake.stop()


def test_what_harbor_says_reaches_the_reader(harbor: FakeHarbor) -> None:
    with pytest.raises(HarborError, match="POST /projects: 401 on purpose"):
        Harbor(harbor.url, USER, "wrong").ensure_project("vision", GIB)
    with pytest.raises(HarborError, match=r"Harbor at http://127\.0\.0\.1:9/api/v2\.0 cannot be reached"):
        Harbor("http://127.0.0.1:9", USER, PASSWORD).ensure_project("vision", GIB)
