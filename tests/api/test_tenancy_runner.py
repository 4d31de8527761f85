"""The process of a sync: followed to its end, stopped when told, never left behind."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.core.db import Database
from api.core.operations.execution import Executor
from api.core.operations.lifecycle import State
from api.core.operations.models import Operation, OperationEvent
from api.settings import Settings
from api.tenancy import operations, runner, service
from tests.conftest import Client
from tests.support.ledger import SYSTEM

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("client")]
Program = Callable[[str], None]


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=tmp_path,
        database_url=database_url,
        tenancy_stack="lab",
        tenancy_passphrase="a passphrase of ours",
        tenancy_registry_password="a password of theirs",
    )


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """Stands in for the sync: it has `asked`, and `tell(event, …)`."""

    def use(body: str) -> None:
        head = """
            import json, os, signal, subprocess, sys, time
            asked = json.loads(sys.stdin.readline())
            def tell(event, **more):
                print(json.dumps({"event": event, **more}), flush=True)
        """
        place = tmp_path / "program.py"
        place.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        monkeypatch.setattr(runner, "COMMAND", (sys.executable, str(place)))

    return use


@pytest.fixture
def work(database: Database, settings: Settings) -> Callable[[], Operation]:
    """Run the sync that waits as a worker does, and look at it afterwards."""

    def run(chosen: Settings = settings) -> Operation:
        with database.transaction() as tx:
            operation_id = service.sync(tx, SYSTEM, settings).id
        handlers = operations.handlers(chosen, database)
        Executor(database, handlers, "w1", attempts=3).run(operation_id)
        with database.snapshot() as tx:
            return tx.get_one(Operation, operation_id)

    return run


def lines(database: Database) -> list[str]:
    with database.snapshot() as tx:
        rows = tx.execute(sa.select(OperationEvent).order_by(OperationEvent.id)).scalars()
        return [" ".join(filter(None, (row.status, row.task, row.message))) for row in rows]


def test_what_it_tells_becomes_the_operation_s_log(
    program: Program, work: Callable[[], Operation], database: Database
) -> None:
    program("""
        tell("step", name="up", progress=40)
        tell("line", step="up", status="changed", task="create Namespace ws-default", message="")
        tell("result", status="succeeded", changes={"create": 3})
    """)
    done = work()
    assert (done.state, done.step, done.reason) == (State.SUCCEEDED, "up", None)
    assert done.outcome == {"status": "succeeded", "changes": {"create": 3}}
    assert lines(database) == ["changed create Namespace ws-default"]


def test_it_gets_the_ledger_and_no_secret_in_its_environment(
    program: Program, work: Callable[[], Operation], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONYARD_TOKEN_SECRET", "t" * 40)
    program("""
        tell("line", message=json.dumps(asked))
        tell("line", message=json.dumps(dict(os.environ)))
        tell("result", status="succeeded")
    """)
    work()
    asked, environment = lines(database)
    assert '"slug": "default"' in asked
    assert '"refresh": true' in asked
    for secret in ("a passphrase of ours", "a password of theirs"):
        assert secret in asked
        assert secret not in environment
    assert "IRONYARD_TOKEN_SECRET" not in environment


def test_a_failure_says_why(program: Program, work: Callable[[], Operation]) -> None:
    program('tell("result", status="failed", reason="Namespace ws-default: forbidden")')
    done = work()
    assert (done.state, done.reason) == (State.FAILED, "Namespace ws-default: forbidden")


def test_a_process_that_dies_says_its_last_words(program: Program, work: Callable[[], Operation]) -> None:
    program('sys.exit("out of memory, say")')
    done = work()
    assert done.state is State.FAILED
    assert done.reason == "The sync ended without a result: out of memory, say"


def test_cancelling_lets_it_stop_cleanly(
    client: Client, program: Program, work: Callable[[], Operation], database: Database, settings: Settings
) -> None:
    waiting = settings.data_dir / "waiting"
    program(f"""
        open({str(waiting)!r}, "w").close()
        sys.stdin.read()
        tell("line", message="stopping cleanly")
        tell("result", status="cancelled", reason="Told to stop.")
    """)
    cancel_when(client, waiting.exists)
    done = work()
    assert done.state is State.CANCELLED
    assert "goes on from there" in (done.reason or "")
    assert lines(database)[-1] == "info stopping cleanly"


def cancel_when(client: Client, ready: Callable[[], bool]) -> None:
    def cancel() -> None:
        deadline = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running = client.ok("GET", "/api/v1/operations", params={"state": "running"})["items"]
        client.ok("POST", f"/api/v1/operations/{running[0]['id']}/cancel", 202)

    threading.Thread(target=cancel, daemon=True).start()


def test_one_that_does_not_stop_is_ended_with_all_that_it_started(
    client: Client,
    program: Program,
    work: Callable[[], Operation],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 0.5)
    kept = settings.data_dir / "children"
    program(f"""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        near = subprocess.Popen(["sleep", "600"])
        far = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open({str(kept)!r} + ".part", "w") as out:
            out.write(f"{{os.getpid()}} {{near.pid}} {{far.pid}}")
        os.rename({str(kept)!r} + ".part", {str(kept)!r})
        time.sleep(600)
    """)
    cancel_when(client, kept.exists)
    assert work().state is State.CANCELLED
    gone_by = time.monotonic() + 30
    while any(alive(int(pid)) for pid in kept.read_text().split()):
        assert time.monotonic() < gone_by, kept.read_text()
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_stopping_worker_gives_the_sync_back(
    program: Program, database: Database, settings: Settings
) -> None:
    waiting = settings.data_dir / "waiting"
    program(f"""
        open({str(waiting)!r}, "w").close()
        sys.stdin.read()
        tell("result", status="cancelled", reason="Told to stop.")
    """)
    with database.transaction() as tx:
        operation_id = service.sync(tx, SYSTEM, settings).id
    executor = Executor(database, operations.handlers(settings, database), "w1", attempts=3)

    def stop() -> None:
        deadline = time.monotonic() + 60
        while not waiting.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        executor.stopping.set()

    thread = threading.Thread(target=stop)
    thread.start()
    executor.run(operation_id)
    thread.join()
    with database.snapshot() as tx:
        found = tx.get_one(Operation, operation_id)
    assert (found.state, found.worker, found.attempt) == (State.QUEUED, None, 0)


def test_one_that_takes_too_long_is_ended(
    program: Program,
    work: Callable[[Settings], Operation],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program("sys.stdin.read()")
    short = settings.model_copy(update={"tenancy_timeout": 1})
    done = work(short)
    assert (done.state, done.reason) == (State.FAILED, "The sync did not end within 1 seconds.")


def test_a_worker_of_another_cluster_leaves_it_alone(
    program: Program, work: Callable[[Settings], Operation], settings: Settings
) -> None:
    program('tell("result", status="succeeded")')
    done = work(settings.model_copy(update={"tenancy_stack": ""}))
    assert done.state is State.FAILED
    assert done.reason == "This worker's IRONYARD_TENANCY_STACK is not lab."


def test_without_the_pulumi_command_it_says_what_is_missing(
    work: Callable[[], Operation], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "pulumi").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(kept))
    done = work()
    assert done.state is State.FAILED
    assert done.reason == "The Pulumi CLI is not on this worker's PATH: install `pulumi` there and try again."


def test_without_the_configuration_that_was_named_it_says_so(
    work: Callable[[Settings], Operation], settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pulumi = tmp_path / "bin" / "pulumi"
    pulumi.parent.mkdir()
    pulumi.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{pulumi.parent}{os.pathsep}{os.environ['PATH']}")
    done = work(settings.model_copy(update={"tenancy_config": "/nowhere/Pulumi.lab.yaml"}))
    assert "/nowhere/Pulumi.lab.yaml is not on this worker" in (done.reason or "")


def test_nothing_of_it_stays_on_the_disk(
    program: Program, work: Callable[[], Operation], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    program('open("passphrase", "w").write("x"); tell("result", status="succeeded")')
    assert work().state is State.SUCCEEDED
    assert list(place.iterdir()) == []


def test_the_state_is_in_the_data_directory_unless_told_otherwise(
    settings: Settings, database: Database
) -> None:
    handler: Any = operations.handlers(settings, database)[service.KIND]
    with database.transaction() as tx:
        job = handler.prepare(tx, service.sync(tx, SYSTEM, settings))
    assert job.backend == (settings.data_dir.resolve() / "pulumi").as_uri()
    assert job.config.endswith("stacks/tenancy/Pulumi.lab.yaml")
    assert not job.config_required
    assert "of ours" not in repr(job)
    assert "of theirs" not in repr(job)
