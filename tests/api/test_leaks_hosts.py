"""Hosts, holds and operations that contradict each other, what nobody explains, how hosts are looked at."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from api.allocations.models import Hold
from api.core.db import Database
from api.core.ids import new_id
from api.core.operations import service as operations
from api.core.operations import workers
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.models import Operation
from api.fleet.lifecycle import State
from api.fleet.models import Gpu, Host
from api.monitoring import looks, runner
from api.settings import Settings
from tests.conftest import Client
from tests.support import ledger
from tests.support.checks import detail
from tests.support.leaks import ADMIN, CLAIMS, HOSTS, NOON, Fake, Watch

DAY, WHY = 86400, {"reason": "looked at it"}
ENDED = OperationEvent.FAIL


@pytest.fixture
def watch(client: Client, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Watch:
    client.outlast_sessions()
    fake = Fake()
    monkeypatch.setattr(runner, "Prometheus", fake)
    return Watch(client, database, settings, fake)


@pytest.fixture
def host(watch: Watch, fleet: Any) -> UUID:
    with watch.at(-10):
        made: UUID = fleet("gpu-01", gpus=2)
        return made


def spoil(database: Database, model: Any, row_id: UUID, **values: Any) -> None:
    """Write what no code of the platform writes."""
    with database.transaction() as tx:
        tx.execute(sa.update(model).where(model.id == row_id).values(**values))


def act(watch: Watch, finding: Any, status: int = 200) -> Any:
    return watch.client.ok("POST", f"{ADMIN}/{finding['id']}/act", status, json=WHY)


# Hosts, GPUs and holds


def test_an_allocated_host_that_nobody_holds_is_reclaimed_by_an_operator(
    watch: Watch, host: UUID, database: Database
) -> None:
    spoil(database, Host, host, state=State.ALLOCATED)
    assert watch.scan(0).opened == 1
    found = watch.one()
    assert (found["kind"], found["owner"]) == ("host-without-hold", "operators")
    assert (found["action"], found["policy"], found["workspace"]) == ("reclaim-host", "notify", None)
    act(watch, found)
    assert detail(watch.client, host)["state"] == "reclaiming"
    (operation,) = watch.client.ok("GET", "/api/v1/operations", params={"state": "queued"})["items"]
    assert operation["kind"] == "host.reclaim"


def test_an_allocated_host_that_nobody_holds_is_reclaimed_by_policy_after_a_warning(
    watch: Watch, host: UUID, database: Database
) -> None:
    policy = {"leak_policy_host": "reclaim-after-warning", "leak_warning": 600}
    spoil(database, Host, host, state=State.ALLOCATED)
    assert watch.scan(0, **policy).warned == 1
    assert watch.scan(599, **policy).acted == 0
    assert watch.scan(600, **policy).acted == 1
    assert detail(watch.client, host)["state"] == "reclaiming"


def test_a_gpu_marked_as_held_without_a_hold_is_freed(watch: Watch, host: UUID, database: Database) -> None:
    gpu = UUID(detail(watch.client, host)["gpu_list"][0]["id"])
    spoil(database, Host, host, state=State.ALLOCATED)
    spoil(database, Gpu, gpu, held_by=uuid4())
    policy = {"leak_policy_host": "reclaim-after-warning", "leak_warning": 600}
    assert watch.scan(0, **policy).warned == 2
    of_host, of_gpu = sorted(watch.findings(), key=lambda one: one["subject_id"] != str(host))
    assert of_gpu["action"] == "free-gpus"
    watch.client.problem("POST", f"{ADMIN}/{of_host['id']}/act", 409, "host-not-idle", json=WHY)
    assert watch.scan(600, **policy).acted == 1, "the host's own finding has to wait for its GPU's"
    assert "1 GPU of gpu-01 is held" in watch.one(unresolved=True)["evidence"]["not_acted"]
    assert detail(watch.client, host)["state"] == "reclaiming"
    assert not any(one["held_by"] for one in detail(watch.client, host)["gpu_list"])
    assert watch.scan(900, **policy).unresolved == 0


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"held_by": None}, "the GPU is marked as held by nobody"),
        ({"removed_at": NOON}, "the GPU has left the fleet"),
        ({"state": State.MAINTENANCE}, "the host is maintenance"),
        ({"state": State.RETIRED}, "the host is retired"),
    ],
)
def test_a_hold_without_its_host_is_told_to_its_workspace(
    watch: Watch, host: UUID, database: Database, spoilt: dict[str, Any], why: str
) -> None:
    made = watch.claim(1)
    gpu = UUID(made["gpus"][0]["gpu_id"])
    spoil(database, Host if "state" in spoilt else Gpu, host if "state" in spoilt else gpu, **spoilt)
    watch.scan(1)
    found = watch.one(kind="hold-without-host")
    assert (found["subject_id"], found["workspace"]) == (made["id"], "default")
    assert (found["owner"], found["action"]) == ("admin@ironyard.local", "release-allocation")
    assert why in found["detail"]
    assert found["evidence"]["number"] == 1
    with watch.at(2):
        act(watch, found)
    assert watch.client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "released"
    with database.snapshot() as tx:
        assert tx.execute(sa.select(Hold.id).where(Hold.ended_at.is_(None))).all() == []


def test_an_active_allocation_that_holds_nothing_is_ended(
    watch: Watch, host: UUID, database: Database
) -> None:
    made, copy = watch.claim(1), new_id()
    times = "created_at, started_at, expires_at, ends_at"
    names = f"workspace_id, requested_by, state, wanted, {times}, priority, preemptible"
    insert = f"INSERT INTO allocations (id, {names}) SELECT :copy, {names} FROM allocations WHERE id = :id"
    with database.transaction() as tx:
        ids = {"copy": copy, "id": UUID(made["id"])}
        if tx.get_bind().dialect.name == "sqlite":
            ids = {name: value.hex for name, value in ids.items()}  # type: ignore[attr-defined]
        tx.execute(sa.text(insert), ids)
    assert watch.scan(1).opened == 1
    found = watch.one()
    assert found["subject_id"] == str(copy)
    assert "it is active and holds nothing" in found["detail"]
    with watch.at(2):
        act(watch, found)
    assert watch.client.ok("GET", f"{CLAIMS}/{copy}")["state"] == "released"
    assert watch.client.ok("GET", f"{CLAIMS}/{made['id']}")["state"] == "active"


def test_a_sound_ledger_has_no_findings(watch: Watch, host: UUID, database: Database) -> None:
    watch.claim(1)
    with watch.at(1):
        watch.client.ok("POST", f"{CLAIMS}/{watch.claim(1)['id']}/release")
    found = watch.scan(2)
    assert (found.opened, found.unresolved) == (0, 0)


# What nobody explains


def failed_verify(watch: Watch, host: UUID, *findings: str, seconds: float = 0) -> None:
    with watch.at(seconds):
        watch.client.ok("POST", f"/api/v1/admin/machines/{host}/verify", 202)
        made = ledger.report("verify", findings=list(findings))
        made.ok, made.health = False, None
        ledger.finish(watch.database, host, made, event=ENDED, reason="findings", step="verify")


KEY = "/root/.ssh/authorized_keys: not in the manifest"
SICK = "CRITICAL ecc of GPU-1: 3 uncorrectable errors (action: reset)"
PROCESS = "CRITICAL gpu-processes of host: pid 4711 (miner) on GPU-1 (action: drain)"
UNCHECKED = "packages could not be checked: dpkg is locked"


def test_what_verify_finds_is_a_finding_until_the_host_is_proven_clean(
    watch: Watch, host: UUID, database: Database
) -> None:
    failed_verify(watch, host, KEY, SICK, PROCESS, UNCHECKED)
    assert watch.scan(1).opened == 1
    found = watch.one()
    assert (found["kind"], found["subject"], found["action"]) == ("unexplained", "gpu-01", "reclaim-host")
    assert found["evidence"]["found"] == [KEY, PROCESS]
    act(watch, found)
    assert detail(watch.client, host)["state"] == "reclaiming"
    ledger.finish(database, host, ledger.report("reclaim"))
    assert watch.scan(2).unresolved == 0


def test_a_host_that_could_not_be_compared_stays_as_it_was(
    watch: Watch, host: UUID, database: Database
) -> None:
    failed_verify(watch, host, KEY)
    watch.scan(1)
    with watch.at(2):
        watch.client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    assert watch.scan(3).unresolved == 1, "it is being cleaned"
    with watch.at(4):
        ledger.finish(database, host, event=ENDED, reason="unreachable", step="fence")
    found = watch.scan(5)
    assert (found.resolved, found.unresolved) == (0, 1), "nobody could look"
    assert watch.one()["evidence"]["found"] == [KEY]


@pytest.mark.parametrize("findings", [(SICK,), (UNCHECKED,)])
def test_a_sick_or_unreadable_host_is_not_unexplained(
    watch: Watch, host: UUID, findings: tuple[str, ...]
) -> None:
    failed_verify(watch, host, *findings)
    assert watch.scan(1).opened == 0


def test_a_process_on_a_gpu_that_nobody_holds_beside_one_that_is_held(
    watch: Watch, host: UUID, database: Database
) -> None:
    watch.claim(1)
    with watch.at(1):
        watch.client.ok("POST", f"{HOSTS}/{host}/health-checks", 202, json={"level": 0})
        stranger = ledger.verdict("host", "CRITICAL", "drain", name="gpu-processes")
        ledger.finish(database, host, ledger.report("health", health=ledger.verdicts(stranger, level=0)))
    assert watch.scan(2).opened == 1
    found = watch.one()
    assert (found["subject"], found["action"]) == ("gpu-01", "look"), "it cannot be reclaimed while held"
    assert found["evidence"]["found"] == ["gpu-processes of host: as read"]
    watch.client.problem("POST", f"{ADMIN}/{found['id']}/act", 409, "finding-needs-a-person", json=WHY)
    with watch.at(3):
        watch.client.ok("POST", f"{HOSTS}/{host}/health-checks", 202, json={"level": 0})
        ledger.finish(database, host, ledger.report("health", health=ledger.verdicts(level=0)))
    assert watch.scan(4).resolved == 1


@pytest.mark.parametrize("shown", [(40.0, 0.0), (0.0, 8000.0)])
def test_a_gpu_that_nobody_holds_and_somebody_uses(
    watch: Watch, host: UUID, shown: tuple[float, float]
) -> None:
    uuids = [gpu["uuid"] for gpu in detail(watch.client, host)["gpu_list"]]
    watch.fake.shows = {uuids[0]: shown, uuids[1]: (1.0, 500.0)}
    policy = {"leak_policy_unexplained": "reclaim-after-warning", "leak_warning": 600}
    assert watch.scan(600, **policy).warned == 0, "the platform itself was at work there in the window"
    assert watch.scan(901, **policy).warned == 1
    found = watch.one()
    assert (found["kind"], found["subject"]) == ("unexplained", f"{uuids[0]} of gpu-01")
    assert found["evidence"]["window_seconds"] == 900
    watch.fake.down = True
    assert watch.scan(1600, **policy).acted == 0
    watch.fake.down = False
    assert watch.scan(1700, **policy).acted == 1
    assert detail(watch.client, host)["state"] == "reclaiming"


def test_what_the_platform_does_on_a_host_is_explained(watch: Watch, host: UUID, database: Database) -> None:
    uuid = detail(watch.client, host)["gpu_list"][0]["uuid"]
    watch.fake.shows = {uuid: (99.0, 0.0)}
    with watch.at(5000):
        watch.client.ok("POST", f"{HOSTS}/{host}/health-checks", 202, json={"level": 1})
    assert watch.scan(5100).opened == 0, "DCGM's tests run"
    with watch.at(5200):
        ledger.finish(database, host, ledger.report("health", health=ledger.verdicts(level=1)))
    found = watch.scan(6000)
    assert (found.opened, len(found.unknown)) == (0, 1), "they ran in the window"
    assert watch.scan(6101).opened == 1


def test_what_a_holder_does_is_explained(watch: Watch, host: UUID) -> None:
    made = watch.claim(1)
    watch.show(made, 90, 70000)
    assert watch.scan(7201).opened == 0


# What is stuck


def test_operations_without_progress_are_stuck(watch: Watch, host: UUID, database: Database) -> None:
    with watch.at(0):
        operation = watch.client.ok("POST", f"/api/v1/admin/machines/{host}/verify", 202)
    assert watch.scan(3600).opened == 0
    assert watch.scan(3601).opened == 1
    waiting = watch.one()
    assert (waiting["subject"], waiting["action"]) == ("host.verify gpu-01", "look")
    assert "waits for a worker" in waiting["detail"]
    with watch.at(3700), database.transaction() as tx:
        operations.claim(tx, UUID(operation["id"]), "tests")
    assert watch.scan(3800).resolved == 1
    with watch.at(7400), database.transaction() as tx:  # it lives, and does nothing
        operations.beat(tx.get_one(Operation, UUID(operation["id"])))
    assert watch.scan(7400).opened == 1
    running = watch.one(unresolved=True)
    assert running["action"] == "cancel-operation"
    assert "makes no progress at its start since 2026-03-02T13:01:40Z" in running["detail"]
    act(watch, running)
    assert watch.client.ok("GET", f"/api/v1/operations/{operation['id']}")["cancel_requested"] is True


def test_a_host_that_waits_for_an_operation_which_nobody_runs(
    watch: Watch, host: UUID, database: Database
) -> None:
    spoil(database, Host, host, state=State.RECLAIMING)
    assert watch.scan(0).opened == 1
    found = watch.one()
    assert (found["kind"], found["action"]) == ("stuck-operation", "take-out-host")
    act(watch, found)
    left = detail(watch.client, host)
    assert (left["state"], left["failed_step"]) == ("maintenance", "leaks")
    watch.client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    assert watch.scan(1).unresolved == 0


# Looking at hosts


def look(watch: Watch, seconds: float, **settings: Any) -> list[str]:
    """What the worker's duty does: the kinds of the operations that it began."""
    given = watch.settings.model_copy(update=settings)
    with watch.at(seconds):
        for host_id in watch.database.run(lambda tx: looks.due(tx, given), reading=True):
            assert watch.database.run(lambda tx, one=host_id: looks.look(tx, ledger.SYSTEM, one))
    shown = watch.client.ok("GET", "/api/v1/operations", params={"state": "queued"})["items"]
    return sorted(row["kind"] for row in shown)


def test_hosts_are_looked_at_a_few_at_a_time(watch: Watch, fleet: Any, database: Database) -> None:
    with watch.at(-10):
        hosts = [fleet(name, gpus=2) for name in "abcd"]
    watch.claim(1)
    watch.claim(2, exclusive_host=True)
    assert look(watch, DAY - 11) == []
    assert look(watch, DAY + 1, leak_look_interval=0) == []
    assert look(watch, DAY + 1, health_at_once=1) == ["host.verify"]
    assert look(watch, DAY + 1) == ["host.verify"] * 2
    assert look(watch, DAY + 2) == ["host.verify"] * 2
    for host_id in hosts:
        if detail(watch.client, host_id)["state"] == "cleaning":
            with watch.at(DAY + 3):
                ledger.finish(database, host_id, ledger.report("verify"))
    assert look(watch, DAY + 4) == ["host.health"]
    with watch.at(DAY + 5):
        ledger.finish(database, hosts[0], ledger.report("health", health=ledger.verdicts(level=0)))
    assert look(watch, DAY + 6) == [], "a host that is held whole is its holder's"


def test_a_host_that_is_reserved_soon_is_left_alone(watch: Watch, host: UUID, database: Database) -> None:
    gpu = UUID(detail(watch.client, host)["gpu_list"][0]["id"])
    spoil(database, Gpu, gpu, booked_from=NOON + timedelta(seconds=DAY + 1000))
    assert look(watch, DAY + 1) == []
    spoil(database, Gpu, gpu, booked_from=NOON + timedelta(seconds=2 * DAY))
    assert look(watch, DAY + 1) == ["host.verify"]


def test_a_host_that_was_claimed_meanwhile_is_not_looked_at(
    watch: Watch, host: UUID, database: Database
) -> None:
    with watch.at(DAY):
        due = database.run(lambda tx: looks.due(tx, watch.settings), reading=True)
        assert due == [host]
        watch.client.ok("POST", f"/api/v1/admin/machines/{host}/maintenance")
        assert not database.run(lambda tx: looks.look(tx, ledger.SYSTEM, host))
    assert detail(watch.client, host)["state"] == "maintenance"


def test_an_operator_has_every_idle_host_looked_at(watch: Watch, fleet: Any, database: Database) -> None:
    assert watch.client.ok("POST", f"{ADMIN}/scan", json={"hosts": True})["group_id"] is None
    for name in "abc":
        fleet(name, gpus=1)
    group = watch.client.ok("POST", f"{ADMIN}/scan", json={"hosts": True})["group_id"]
    found = watch.client.ok("GET", f"/api/v1/operation-groups/{group}")
    assert (found["action"], found["hosts"]) == ("verify", {"running": 2, "waiting": 1})


def test_one_worker_leads_and_when_it_dies_another_does(watch: Watch, database: Database) -> None:
    with watch.at(0), database.transaction() as tx:
        first = workers.register(tx).id
    with watch.at(1), database.transaction() as tx:
        second = workers.register(tx).id
    assert leader(watch, 2) == first
    with watch.at(15), database.transaction() as tx:
        workers.beat(tx, second)
    assert leader(watch, 16) == second
    with watch.at(16), database.transaction() as tx:
        workers.beat(tx, first)
        workers.stopped(tx, first)
    assert leader(watch, 16) == second
    assert leader(watch, 60) is None


def leader(watch: Watch, seconds: float) -> str | None:
    with watch.at(seconds):
        return watch.database.run(lambda tx: workers.eldest(tx, silence=15), reading=True)
