"""A sync's parts that need no engine: locks, the ledger over REST, what the engine's events say."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from stacks.tenancy import locks
from stacks.tenancy.locks import Holder, are_left_over, holders_of, locked_by
from stacks.tenancy.program import read_facade
from stacks.tenancy.settings import read
from stacks.tenancy.snapshot import FacadeError, Snapshot, fetch
from stacks.tenancy.sync import Progress, Teller, without_side_files

HERE = platform.node()
REFUSED = (
    "error: the stack is currently locked by 2 lock(s). Either wait for the other process(es) to end or "
    "delete the lock file with `pulumi cancel`.\n"
    "  s3://b/.pulumi/locks/a.json: created by root@pod-1 (pid 12) at 2026-11-22T20:00:00Z\n"
    "  s3://b/.pulumi/locks/b.json: created by ada@pod-2 (pid 7) at 2026-11-22T20:00:00Z"
)


def test_all_holders_of_the_locks_are_read() -> None:
    assert holders_of(REFUSED) == [Holder("root", "pod-1", 12), Holder("ada", "pod-2", 7)]
    assert holders_of("[409] Conflict: Another update is currently in progress.") == []
    assert "process 12 of root on pod-1 and process 7 of ada on pod-2" in locked_by(holders_of(REFUSED))
    assert "pulumi cancel" in locked_by([])


@pytest.mark.parametrize(
    ("holders", "dead", "again", "left"),
    [
        ([Holder("root", HERE, 2**22 + 1)], [], False, True),
        ([Holder("root", HERE, os.getpid())], [], False, True),  # the number is another program's by now
        ([Holder("root", "pod-1", 12)], ["pod-1"], False, True),
        ([Holder("root", "pod-1", 12)], [], True, False),
        ([Holder("root", "pod-1", 12), Holder("ada", "laptop", 7)], ["pod-1"], True, False),
        ([], [], False, False),
        ([], [], True, True),
    ],
)
def test_only_locks_of_the_dead_are_left_over(
    holders: list[Holder], dead: list[str], again: bool, left: bool
) -> None:
    assert are_left_over(holders, dead_machines=dead, again=again) == left


@pytest.fixture
def pulumi_run() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a run of Pulumi on this machine."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "pulumi", "up"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        if process.poll() is None:
            process.kill()


def test_a_run_that_lives_is_waited_for(
    pulumi_run: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL", 0.05)
    holder = Holder("ada", HERE, pulumi_run.pid)
    assert not are_left_over([holder], dead_machines=[HERE], again=True)
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(locks.wait_for([holder], threading.Event())))
    thread.start()
    pulumi_run.kill()
    pulumi_run.wait()
    thread.join()
    assert ended == [True]


def test_waiting_ends(pulumi_run: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL", 0.01)
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    here = [Holder("ada", HERE, pulumi_run.pid)]
    assert not locks.wait_for(here, threading.Event())
    stopped = threading.Event()
    stopped.set()
    assert not locks.wait_for(here, stopped)
    assert not locks.wait_for([Holder("ada", "laptop", 7)], threading.Event())


ANSWER = {"workspaces": [], "hosts": []}


@pytest.fixture
def facade() -> Iterator[Any]:
    """A facade that answers what the test says; `asked` is the path and token of the last request."""
    said = SimpleNamespace(status=200, body=json.dumps(ANSWER).encode(), asked=None, url="")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            said.asked = (self.path, self.headers["Authorization"])
            self.send_response(said.status)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    setattr(Handler, "do_GET", Handler.answer)  # noqa: B010
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        said.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield said
        server.shutdown()
        thread.join()


def test_the_ledger_is_read_with_the_token(facade: Any) -> None:
    assert fetch(facade.url + "/", "iry_x") == Snapshot(workspaces=[], hosts=[])
    assert facade.asked == ("/api/v1/tenancy", "Bearer iry_x")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, json.dumps({"detail": "This needs fleet:operate"}), "answered 403: This needs fleet:operate"),
        (502, "<html>", "answered 502: Bad Gateway"),
        (200, "<html>", "answered something else"),
        (200, json.dumps({"workspaces": []}), "answered something else"),
    ],
)
def test_a_facade_that_does_not_tell_is_named(facade: Any, status: int, body: str, said: str) -> None:
    facade.status, facade.body = status, body.encode()
    with pytest.raises(FacadeError, match=said):
        fetch(facade.url, "iry_x")


def test_by_hand_the_facade_has_to_be_named() -> None:
    with pytest.raises(pulumi.RunError) as refused:
        read_facade(read({}))
    assert "ironyard-tenancy:facade.url: a value is needed" in str(refused.value)
    assert "ironyard-tenancy:facade.token: a value is needed" in str(refused.value)
    with pytest.raises(pulumi.RunError, match="cannot be reached"):
        read_facade(read({"facade": {"url": "http://127.0.0.1:9", "token": "x"}}))


def urn(kind: str, name: str) -> str:
    return f"urn:pulumi:lab::ironyard-tenancy::ironyard:tenancy:Workspace$kubernetes:core/v1:{kind}::{name}"


def happened(**event: Any) -> Any:
    names = ("res_outputs_event", "res_op_failed_event", "diagnostic_event", "summary_event")
    return SimpleNamespace(**dict.fromkeys(names) | event)


def outputs(op: str, kind: str, name: str) -> Any:
    metadata = SimpleNamespace(op=SimpleNamespace(value=op), urn=urn(kind, name))
    return happened(res_outputs_event=SimpleNamespace(metadata=metadata))


def diagnostic(severity: str, message: str, at: str = "") -> Any:
    return happened(diagnostic_event=SimpleNamespace(severity=severity, message=message, urn=at))


def test_the_engine_s_events_are_steps_lines_and_reasons() -> None:
    out = io.StringIO()
    progress = Progress(Teller(out))
    for _ in range(4):
        progress.registering(None)
    where = urn("Namespace", "ws-vision")
    for event in (
        outputs("same", "Namespace", "ws-audio"),
        outputs("create", "Namespace", "ws-vision"),
        diagnostic("info", "nothing to see"),
        diagnostic("error", "<{%fg 1%}>forbidden<{%reset%}>\n", where),
        diagnostic("error", "forbidden", where),
        diagnostic("error", "update failed"),
        happened(summary_event=SimpleNamespace(resource_changes={"create": 1, "same": 1})),
    ):
        progress(event)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["progress"] for event in told if event["event"] == "step"] == [31, 52]
    assert [(event["status"], event["task"]) for event in told if event["event"] == "line"] == [
        ("changed", "create Namespace ws-vision"),
        ("failed", "Namespace ws-vision"),
    ]
    assert progress.errors == ["Namespace ws-vision: forbidden"]
    assert progress.changes == {"create": 1, "same": 1}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("file:///var/lib/x", "file:///var/lib/x?metadata=skip"),
        ("file://~/x", "file://~/x?metadata=skip"),
        ("file:///x?no_tmp_dir=true", "file:///x?no_tmp_dir=true&metadata=skip"),
        ("file:///x?metadata=skip", "file:///x?metadata=skip"),
        ("s3://bucket/x?region=eu", "s3://bucket/x?region=eu"),
    ],
)
def test_a_state_in_files_has_none_beside_it_that_a_kill_could_spoil(given: str, used: str) -> None:
    assert without_side_files(given) == used
