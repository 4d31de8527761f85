"""An end comes by itself, after warnings and the grace, and is moved only where nobody reserved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from api.allocations import expiry, reminders
from api.core.db import Database, table
from api.fleet.models import Gpu
from api.settings import Settings
from tests.conftest import Client
from tests.support import times
from tests.support.ledger import SYSTEM
from tests.support.times import CLAIMS, GAP, NOTICES, Times

GPUS = table(Gpu)
QUOTAS = "/api/v1/workspaces/default/quotas"
DAY = 24
GRACE = 0.5


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"token_lifetime": 400 * 86400})


@pytest.fixture
def clock(client: Client, database: Database, settings: Settings) -> Times:
    return times.begin(client, database, settings)


@pytest.fixture
def graceful(app: Any, clock: Times) -> Times:
    """With half an hour of grace."""
    clock.settings = app.state.settings = clock.settings.model_copy(update={"allocation_grace": 1800})
    return clock


def extend(clock: Times, made: Any, hours: float) -> Any:
    body = {"expires_at": clock.at(hours).isoformat()}
    return clock.client.ok("POST", f"{CLAIMS}/{made['id']}/extend", json=body)


def not_extended(clock: Times, made: Any, hours: float, code: str, status: int = 409) -> dict[str, Any]:
    body = {"expires_at": clock.at(hours).isoformat()}
    return clock.client.problem("POST", f"{CLAIMS}/{made['id']}/extend", status, code, json=body)


def warned(clock: Times, made: Any) -> list[int]:
    """How long before the end, oldest first."""
    rows = clock.told("allocation.expiring", subject_id=made["id"])
    return [row["facts"]["seconds_before"] for row in reversed(rows)]


def test_holders_are_warned_a_week_a_day_and_an_hour_before_and_once_each(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(10 * DAY))
    for hours, told in (
        (1, []),
        (3 * DAY - 0.01, []),
        (3 * DAY, [604800]),
        (4 * DAY, [604800]),
        (9 * DAY, [604800, 86400]),
        (9 * DAY + 1, [604800, 86400]),
        (10 * DAY - 1, [604800, 86400, 3600]),
        (10 * DAY - 0.01, [604800, 86400, 3600]),
    ):
        with clock.when(hours):
            clock.work()
            assert warned(clock, made) == told
    notice = clock.told("allocation.expiring")[0]
    assert (notice["workspace_id"], notice["user_id"]) == (made["workspace_id"], clock.client.user_id)
    assert datetime.fromisoformat(notice["facts"]["expires_at"]) == clock.at(10 * DAY)
    assert "ends in 1 h," in notice["text"]


def test_only_warnings_within_its_own_length(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=3)
    short = clock.claim(clock.until(2))
    day = clock.claim({"gpus": 1, "duration_seconds": 86400})
    tiny = clock.claim(clock.until(0.5))
    with clock.when(0.01):
        assert warned(clock, short) == warned(clock, day) == warned(clock, tiny) == []
    with clock.when(1):
        assert warned(clock, short) == [3600]
    with clock.when(23.5):
        assert warned(clock, day) == [3600]
        assert warned(clock, tiny) == []


def test_after_a_pause_only_the_nearest_warning_is_told(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(10 * DAY))
    with clock.when(10 * DAY - 0.5):
        assert warned(clock, made) == [3600]


def test_a_moved_end_is_warned_of_anew(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(2))
    with clock.when(1.5):
        assert warned(clock, made) == [3600]
        extend(clock, made, 2.2)
        clock.work()
        assert warned(clock, made) == [3600, 3600]
        extend(clock, made, 4)
        clock.work()
        assert warned(clock, made) == [3600, 3600]
    with clock.when(3.1):
        assert warned(clock, made) == [3600, 3600, 3600]


def test_a_clock_that_jumps_to_and_fro_warns_once(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(10 * DAY))
    for hours in (9 * DAY, 4 * DAY, 9 * DAY + 1, 1, 10 * DAY - 1, 9 * DAY, 10 * DAY - 0.5):
        with clock.when(hours):
            pass
    assert sorted(warned(clock, made)) == [3600, 86400, 604800]


def test_two_workers_warn_once(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=4)
    every = [clock.claim(clock.until(2)) for _ in range(4)]
    with clock.when(1.2, worker=False), ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda _: clock.work(), range(4)))
    assert [warned(clock, made) for made in every] == [[3600]] * 4


def test_warnings_are_set(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(2))
    clock.settings = clock.settings.model_copy(update={"expiry_warnings": []})
    with clock.when(1.9):
        assert warned(clock, made) == []
    clock.settings = clock.settings.model_copy(update={"expiry_warnings": [600, 1200]})
    with clock.when(1.9):
        assert warned(clock, made) == [600]


def test_warnings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(_env_file=None).expiry_warnings == [604800, 86400, 3600]
    monkeypatch.setenv("IRONYARD_EXPIRY_WARNINGS", "[60, 30]")
    assert Settings(_env_file=None).expiry_warnings == [60, 30]
    monkeypatch.setenv("IRONYARD_EXPIRY_WARNINGS", "[0]")
    with pytest.raises(ValueError, match="greater than 0"):
        Settings(_env_file=None)


def test_more_warnings_than_fit_one_transaction(
    clock: Times, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reminders, "BATCH", 2)
    fleet("a", gpus=8)
    every = [clock.claim(clock.until(2)) for _ in range(5)]
    with clock.when(1.2):
        assert [warned(clock, made) for made in every] == [[3600]] * 5


def test_after_the_grace_it_ends_and_its_host_is_reclaimed(graceful: Times, fleet: Any) -> None:
    clock, host = graceful, fleet("a", gpus=1)
    made = clock.claim(clock.until(2))
    assert datetime.fromisoformat(made["ends_at"]) == clock.at(2 + GRACE)
    for hours in (2, 2.1, 2.49):
        with clock.when(hours):
            assert clock.look(made)["state"] == "active"
            (notice,) = clock.told("allocation.grace_begun", subject_id=made["id"])
    assert "keeps its GPUs until" in notice["text"]
    with clock.when(2 + GRACE):
        assert clock.look(made)["state"] == "expired"
        assert clock.client.ok("GET", f"/api/v1/hosts/{host}")["state"] == "reclaiming"


def test_it_is_extended_in_its_grace(graceful: Times, fleet: Any) -> None:
    clock = graceful
    fleet("a", gpus=1)
    made = clock.claim(clock.until(2))
    with clock.when(2.2):
        assert datetime.fromisoformat(extend(clock, made, 5)["ends_at"]) == clock.at(5 + GRACE)
    with clock.when(5.1):
        assert clock.look(made)["state"] == "active"
        assert len(clock.told("allocation.grace_begun")) == 2


def test_without_grace_nothing_is_told_of_one(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(2))
    with clock.when(2):
        assert clock.look(made)["state"] == "expired"
    assert clock.told("allocation.grace_begun") == []


def test_an_end_moves_up_to_a_reservation_and_not_beyond(graceful: Times, fleet: Any) -> None:
    clock = graceful
    fleet("a", gpus=1)
    made = clock.claim(clock.until(1))
    clock.claim(clock.window(5, 6))
    latest = 5 - GRACE - GAP / timedelta(hours=1)
    problem = not_extended(clock, made, latest + 1 / 3600, "reservation-conflict")
    assert datetime.fromisoformat(problem["reserved_from"]) == clock.at(5)
    assert datetime.fromisoformat(problem["latest"]) == clock.at(latest)
    assert problem["gpu_id"] == made["gpus"][0]["gpu_id"]
    assert "GPU 0 of a is reserved from" in problem["detail"]
    assert clock.look(made) == made
    extended = extend(clock, made, latest)
    assert datetime.fromisoformat(extended["expires_at"]) == clock.at(latest)
    with clock.database.snapshot() as tx:
        assert tx.execute(sa.select(GPUS.c.held_until)).scalar_one() == clock.at(5)


def test_an_end_moves_earlier_and_makes_room(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(5))
    clock.refused("capacity-exceeded", clock.window(2, 3))
    with clock.when(0.5):
        not_extended(clock, made, 0.4, "invalid-request", 422)
        extend(clock, made, 0.51)
        clock.claim(clock.window(2, 3))
        not_extended(clock, made, 5, "reservation-conflict")
    with clock.when(0.51):
        assert clock.look(made)["state"] == "expired"


def test_a_longer_hold_leaves_what_the_workspace_has_reserved(clock: Times, fleet: Any) -> None:
    """On other GPUs, so that only the quota speaks against it; a lowered quota alone does not."""
    clock.client.ok("PUT", QUOTAS, json={"gpus": 2})
    fleet("a", gpus=8)
    made = clock.claim(clock.until(1, gpus=2))
    clock.claim(clock.window(2, 3))
    problem = not_extended(clock, made, 2.5, "quota-exceeded")
    assert (problem["limit"], problem["used"], problem["asked"]) == (2, 1, 2)
    extend(clock, made, 1.7)
    clock.client.ok("PUT", QUOTAS, json={"gpus": 1})
    extend(clock, made, 1.74)


def test_the_end_of_a_window_that_has_not_begun_moves_as_well(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.window(1, 2))
    clock.claim(clock.window(4, 5))
    problem = not_extended(clock, made, 3.76, "reservation-conflict")
    assert datetime.fromisoformat(problem["latest"]) == clock.at(3.75)
    not_extended(clock, made, 0.9, "invalid-request", 422)
    assert extend(clock, made, 3.75)["state"] == "reserved"
    (row,) = clock.reserved(allocation_id=made["id"])
    assert datetime.fromisoformat(row["ends_at"]) == clock.at(3.75)
    extend(clock, made, 1.5)
    clock.claim(clock.window(1.75, 3))
    with clock.when(1):
        found = clock.look(made)
        assert found["state"] == "active"
        assert datetime.fromisoformat(found["expires_at"]) == clock.at(1.5)


def test_an_extension_and_a_reservation_at_once(clock: Times, fleet: Any) -> None:
    """Whichever comes first, the other is refused; never both."""
    for number in range(4):
        fleet(f"h{number}", gpus=1, region=f"r{number}")
        made = clock.claim(clock.until(1, region=f"r{number}"))
        tries = (
            (f"{CLAIMS}/{made['id']}/extend", {"expires_at": clock.at(3).isoformat()}),
            (CLAIMS, clock.window(2, 4, region=f"r{number}")),
        )
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda one: clock.client.post(one[0], json=one[1]), tries))
        assert sorted(answer.is_success for answer in answers) == [False, True]
        lost = next(answer for answer in answers if not answer.is_success)
        assert lost.json()["code"] in ("reservation-conflict", "capacity-exceeded")


def test_one_that_was_extended_meanwhile_does_not_end(clock: Times, fleet: Any) -> None:
    fleet("a", gpus=1)
    made = clock.claim(clock.until(2))
    with clock.when(2, worker=False):
        with clock.database.snapshot() as tx:
            (found,) = expiry.overdue(tx)
        with clock.database.transaction() as tx:
            expiry.extend(tx, SYSTEM, found, clock.at(3), clock.settings)
        with clock.database.transaction() as tx:
            assert not expiry.expire(tx, SYSTEM, found)
    assert clock.look(made)["state"] == "active"


def test_notices_are_seen_by_the_workspace_that_they_are_about(clock: Times, fleet: Any) -> None:
    client = clock.client
    fleet("a", gpus=4)
    client.ok("POST", "/api/v1/workspaces", 201, json={"slug": "other", "name": "Other"})
    member, stranger = client.as_new("member"), client.as_new("member")
    client.ok("PUT", f"/api/v1/workspaces/other/members/{member.user_id}", json={"role": "viewer"})
    mine, theirs = clock.claim(clock.until(2)), clock.claim(clock.until(2, workspace="other"))
    with clock.when(1.5):
        assert [row["subject_id"] for row in member.ok("GET", NOTICES)["items"]] == [theirs["id"]]
        assert stranger.ok("GET", NOTICES)["items"] == []
        seen = {row["subject_id"] for row in client.ok("GET", NOTICES)["items"]}
        assert {mine["id"], theirs["id"]} <= seen
        params: dict[str, Any] = {"workspace": "other", "kind": "allocation.expiring"}
        assert [row["subject_id"] for row in client.ok("GET", NOTICES, params=params)["items"]] == [
            theirs["id"]
        ]
        member.problem("GET", NOTICES, 404, "not-found", params={"workspace": "default"})
        page = client.ok("GET", NOTICES, params={"limit": 1})
        following = client.ok("GET", NOTICES, params={"limit": 1, "cursor": page["next_cursor"]})
        assert page["items"][0]["id"] > following["items"][0]["id"]
