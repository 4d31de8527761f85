"""Allocations that are held and idle: found, warned, released; seen and decided about by whom it concerns."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from api.core.audit import AuditEvent
from api.core.db import Database
from api.core.notices import Notice
from api.monitoring import runner
from api.monitoring.models import Finding
from api.settings import Settings
from tests.conftest import Client
from tests.support.leaks import ADMIN, CLAIMS, HOSTS, LEAKS, RECLAIM, Fake, Watch

WINDOW, DAY = 7200, 86400
LATER = WINDOW + 1


@pytest.fixture
def watch(client: Client, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Watch:
    client.outlast_sessions()
    fake = Fake()
    monkeypatch.setattr(runner, "Prometheus", fake)
    return Watch(client, database, settings, fake)


@pytest.fixture
def hosts(watch: Watch, fleet: Any) -> None:
    with watch.at(-10):
        for name in "abc":
            fleet(name, gpus=2)


def notices(database: Database) -> list[Notice]:
    with database.snapshot() as tx:
        return list(tx.execute(sa.select(Notice).order_by(Notice.id)).scalars())


def test_an_idle_allocation_is_told_once_and_resolved_when_it_is_used(
    watch: Watch, hosts: None, database: Database
) -> None:
    made = watch.claim(2)
    watch.show(made, 1.5, 74166)
    assert watch.scan(WINDOW - 1).opened == 0, "it may have been busy before the hold"
    assert watch.scan(LATER).opened == 1
    found = watch.one()
    assert (found["kind"], found["state"], found["policy"]) == ("idle-gpu", "open", "notify")
    assert (found["subject_id"], found["workspace"]) == (made["id"], "default")
    assert (found["owner"], found["action"]) == ("admin@ironyard.local", "release-allocation")
    assert "2 of 2 GPUs did nothing in the last 7200 seconds: 1.5 % at most" in found["detail"]
    evidence = found["evidence"]
    assert (evidence["window_seconds"], evidence["threshold_percent"]) == (WINDOW, 5)
    assert evidence["query"].startswith("max by (UUID) (max_over_time(DCGM_FI_DEV_GPU_UTIL{")
    assert evidence["readings"][0]["memory_most_mib"] == 74166
    again = watch.scan(LATER + 300)
    assert (again.opened, again.unresolved) == (0, 1)
    assert watch.one()["last_seen_at"] > found["last_seen_at"]
    (told,) = notices(database)
    assert (told.kind, str(told.workspace_id)) == ("leak.found", found["workspace_id"])
    watch.show(made, 60)
    assert watch.scan(LATER + 600).resolved == 1
    found = watch.one()
    assert (found["state"], found["resolved_by"]) == ("resolved", "ironyard")
    assert "60 % at most" in found["resolution"]
    watch.show(made, 0)
    assert watch.scan(LATER + 900).opened == 1
    assert len(watch.findings()) == 2


def test_with_the_policy_it_is_warned_and_then_released(
    watch: Watch, hosts: None, database: Database
) -> None:
    made = watch.claim(2)
    watch.show(made, 0)
    assert watch.scan(LATER, **RECLAIM).warned == 1
    warned = watch.one()
    assert warned["state"] == "warned"
    assert warned["act_at"] == "2026-03-03T14:00:01Z"
    (told,) = notices(database)
    assert told.kind == "leak.warned"
    assert "the allocation is released at 2026-03-03T14:00:01Z" in told.text
    assert told.facts["act_at"] == "2026-03-03T14:00:01+00:00"
    assert watch.scan(LATER + DAY - 1, **RECLAIM).acted == 0
    assert watch.scan(LATER + DAY, **RECLAIM).acted == 1
    ended = watch.client.ok("GET", f"{CLAIMS}/{made['id']}")
    assert ended["state"] == "released"
    assert "idle-gpu" in ended["reason"]
    host = watch.client.ok("GET", f"{HOSTS}/{made['gpus'][0]['host_id']}")
    assert host["state"] == "reclaiming"
    found = watch.one()
    assert (found["state"], found["resolution"]) == ("acted", "As announced.")
    assert [row.kind for row in notices(database)] == ["leak.warned", "leak.acted"]
    with database.snapshot() as tx:
        events = sa.select(AuditEvent.action).where(AuditEvent.subject_id == UUID(found["id"]))
        told_of = list(tx.execute(events.order_by(AuditEvent.id)).scalars())
    assert told_of == ["finding.opened", "finding.warned", "finding.acted_upon"]
    assert watch.scan(LATER + DAY + 300, **RECLAIM).unresolved == 0


@pytest.mark.parametrize("why", ["down", "no series", "gap"])
def test_unknown_is_not_idle_and_changes_nothing(watch: Watch, hosts: None, why: str) -> None:
    made, other = watch.claim(1), watch.claim(1)
    watch.show(made, 0)
    assert watch.scan(LATER, **RECLAIM).warned == 1
    if why == "gap":
        watch.show(other, 0)
        watch.fake.covers = {gpu["uuid"]: 0.9 for one in (made, other) for gpu in one["gpus"]}
    elif why == "no series":
        watch.fake.shows = {}
    watch.fake.down = why == "down"
    found = watch.scan(LATER + 2 * DAY, **RECLAIM)
    assert (found.opened, found.warned, found.acted, found.resolved, found.unresolved) == (0, 0, 0, 0, 1)
    assert sum(row.subjects for row in found.unknown if row.kind == "idle-gpu") == 2
    assert watch.one()["state"] == "warned"
    watch.fake.down, watch.fake.covers = False, {}
    watch.show(made, 0)
    watch.show(other, 50)
    assert watch.scan(LATER + 2 * DAY + 300, **RECLAIM).acted == 1
    assert watch.client.ok("GET", f"{CLAIMS}/{other['id']}")["state"] == "active"


def test_without_a_prometheus_nothing_is_idle_and_what_has_ended_is_resolved(
    watch: Watch, hosts: None
) -> None:
    made = watch.claim(1)
    watch.show(made, 0)
    assert watch.scan(LATER).opened == 1
    found = watch.scan(LATER + 300, prometheus_url="")
    assert (found.resolved, found.unresolved) == (0, 1)
    assert {row.reason for row in found.unknown} >= {"IRONYARD_PROMETHEUS_URL is not set."}
    with watch.at(LATER + 400):
        watch.client.ok("POST", f"{CLAIMS}/{made['id']}/release")
    assert watch.scan(LATER + 500, prometheus_url="").resolved == 1


def test_a_warning_is_taken_back_when_a_part_is_used_and_given_anew(
    watch: Watch, hosts: None, database: Database
) -> None:
    made = watch.claim(2, same_host=True)
    first, second = (gpu["uuid"] for gpu in made["gpus"])
    watch.show(made, 0)
    watch.scan(LATER, **RECLAIM)
    watch.fake.shows[second] = (80, 0)
    watch.scan(LATER + DAY, **RECLAIM)
    found = watch.one()
    assert (found["state"], found["act_at"], found["action"]) == ("open", None, "look")
    assert found["evidence"]["gpus"] == {"idle": 1, "busy": 1, "unknown": 0}
    watch.fake.shows[second] = (0, 0)
    assert watch.scan(LATER + 2 * DAY, **RECLAIM).warned == 1
    del watch.fake.shows[first]
    watch.scan(LATER + 4 * DAY, **RECLAIM)
    found = watch.one()
    assert (found["state"], found["action"]) == ("warned", "release-allocation"), "half of it is unknown"
    assert [row.kind for row in notices(database)] == ["leak.warned"] * 2
    assert watch.client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "active"


def test_what_changes_while_it_is_measured_is_not_acted_upon(watch: Watch, hosts: None) -> None:
    made = watch.claim(1)
    watch.show(made, 0)
    watch.scan(LATER, **RECLAIM)

    def release() -> None:
        watch.fake.meanwhile = lambda: None
        watch.client.ok("POST", f"{CLAIMS}/{made['id']}/release")

    watch.fake.meanwhile = release
    assert watch.scan(LATER + DAY, **RECLAIM).acted == 0
    assert watch.client.ok("GET", f"{CLAIMS}/{made['id']}")["reason"] is None
    assert watch.scan(LATER + DAY + 300, **RECLAIM).resolved == 1


def test_another_policy_takes_a_warning_back(watch: Watch, hosts: None) -> None:
    watch.show(watch.claim(1), 0)
    watch.scan(LATER, **RECLAIM)
    watch.scan(LATER + DAY, leak_policy_idle="notify")
    assert watch.one()["state"] == "open"


def test_a_dismissed_finding_is_left_alone_for_as_long_as_it_lasts(watch: Watch, hosts: None) -> None:
    made = watch.claim(1)
    watch.show(made, 0)
    watch.scan(LATER, **RECLAIM)
    found = watch.one()
    dismissal = f"{ADMIN}/{found['id']}/dismiss"
    watch.client.problem("POST", dismissal, 422, "invalid-request", json={"reason": " "})
    tag = watch.client.get(f"{LEAKS}/{found['id']}").headers["ETag"]
    body = {"reason": "waits for data until Monday"}
    stale = {"If-Match": '"x"'}
    watch.client.problem("POST", dismissal, 412, "version-conflict", json=body, headers=stale)
    dismissed = watch.client.ok("POST", dismissal, json=body, headers={"If-Match": tag})
    assert (dismissed["state"], dismissed["act_at"]) == ("dismissed", None)
    assert dismissed["resolution"] == body["reason"]
    watch.client.problem("POST", dismissal, 409, "wrong-state", json=body)
    again = watch.scan(LATER + 3 * DAY, **RECLAIM)
    assert (again.opened, again.warned, again.acted, again.unresolved) == (0, 0, 0, 1)
    watch.client.problem("POST", f"{ADMIN}/{found['id']}/act", 409, "wrong-state", json=body)
    watch.show(made, 90)
    assert watch.scan(LATER + 4 * DAY, **RECLAIM).resolved == 1
    watch.show(made, 0)
    assert watch.scan(LATER + 5 * DAY, **RECLAIM).warned == 1


def test_a_version_stands_while_only_the_measurement_changes(watch: Watch, hosts: None) -> None:
    made = watch.claim(1)
    watch.show(made, 0)
    watch.scan(LATER)
    path = f"{LEAKS}/{watch.one()['id']}"
    tag = watch.client.get(path).headers["ETag"]
    assert watch.client.get(path, headers={"If-None-Match": tag}).status_code == 304
    watch.show(made, 2)
    watch.scan(LATER + 300)
    renewed = watch.client.get(path, headers={"If-None-Match": tag})
    assert renewed.status_code == 200
    assert renewed.headers["ETag"].split("-")[0] == tag.split("-")[0]


def test_an_operator_releases_an_idle_allocation_at_once(watch: Watch, hosts: None) -> None:
    made = watch.claim(1)
    watch.show(made, 0)
    watch.scan(LATER)
    found = watch.one()
    with watch.at(LATER):
        done = watch.client.ok("POST", f"{ADMIN}/{found['id']}/act", json={"reason": "nobody answers"})
    assert (done["state"], done["resolved_by"]) == ("acted", "admin@ironyard.local")
    assert watch.client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "released"


def test_members_see_the_findings_of_their_workspaces_and_decide_nothing(
    watch: Watch, hosts: None, database: Database
) -> None:
    watch.client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "vision", "name": "V", "gpus": 4})
    ours, theirs = watch.claim(1, workspace="vision"), watch.claim(1)
    for made in (ours, theirs):
        watch.show(made, 0)
    with database.transaction() as tx:
        tx.execute(sa.text("UPDATE hosts SET state = 'allocated' WHERE name = 'c'"))
    assert watch.scan(LATER).opened == 3
    member = watch.client.as_new("member")
    assert member.ok("GET", LEAKS)["items"] == []
    path = f"/api/v1/workspaces/vision/members/{member.user_id}"
    watch.client.ok("PUT", path, json={"role": "viewer"})
    (seen,) = member.ok("GET", LEAKS)["items"]
    assert seen["subject_id"] == ours["id"]
    assert member.ok("GET", f"{LEAKS}/{seen['id']}")["id"] == seen["id"]
    for found in watch.findings():
        if found["id"] != seen["id"]:
            member.problem("GET", f"{LEAKS}/{found['id']}", 404, "not-found")
    for action in ("dismiss", "act"):
        member.problem("POST", f"{ADMIN}/{seen['id']}/{action}", 403, "forbidden", json={"reason": "no"})
    member.problem("POST", f"{ADMIN}/scan", 403, "forbidden")
    assert len(watch.client.as_new("operator").ok("GET", LEAKS)["items"]) == 3


def test_lists_are_filtered_and_paged_and_counted(watch: Watch, hosts: None) -> None:
    watch.client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "vision", "name": "V", "gpus": 4})
    made = [watch.claim(1), watch.claim(1), watch.claim(1, workspace="vision")]
    for one in made:
        watch.show(one, 0)
    watch.scan(LATER)
    watch.show(made[0], 50)
    watch.scan(LATER + 300)
    assert len(watch.findings(unresolved=True)) == 2
    assert watch.one(unresolved=False)["subject_id"] == made[0]["id"]
    assert watch.one(workspace="vision")["workspace"] == "vision"
    assert watch.findings(kind="unexplained") == []
    assert len(watch.findings(state=["open", "resolved"])) == 3
    first = watch.client.ok("GET", LEAKS, params={"limit": 2})
    second = watch.client.ok("GET", LEAKS, params={"limit": 2, "cursor": first["next_cursor"]})
    assert [len(page["items"]) for page in (first, second)] == [2, 1]
    text = watch.client.get("/metrics").text
    assert 'ironyard_findings{kind="idle-gpu",state="open"} 2.0' in text
    assert 'ironyard_findings{kind="idle-gpu",state="resolved"} 1.0' in text


def test_scans_at_the_same_time_make_one_finding_and_act_once(
    watch: Watch, hosts: None, database: Database
) -> None:
    made = watch.claim(1)
    watch.show(made, 0)

    def together(seconds: float) -> list[runner.ScanRead]:
        done: list[runner.ScanRead] = []
        given = watch.settings.model_copy(update={"prometheus_url": "http://prometheus", **RECLAIM})
        threads = [
            threading.Thread(target=lambda: done.append(runner.scan(database, given))) for _ in range(4)
        ]
        with watch.at(seconds):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        return done

    assert sum(one.warned for one in together(LATER)) == 1
    assert sum(one.acted for one in together(LATER + DAY)) == 1
    with database.snapshot() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(Finding)).scalar_one() == 1
    assert [row.kind for row in notices(database)] == ["leak.warned", "leak.acted"]


def test_a_scan_over_http_tells_what_it_did(watch: Watch, hosts: None) -> None:
    with watch.at(LATER):
        found = watch.client.ok("POST", f"{ADMIN}/scan")
    assert (found["at"], found["opened"], found["unresolved"]) == ("2026-03-02T14:00:01Z", 0, 0)
    not_set = {"kind": "unexplained", "reason": "IRONYARD_PROMETHEUS_URL is not set.", "subjects": 6}
    assert (found["unknown"], found["group_id"]) == ([not_set], None)
