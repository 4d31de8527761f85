"""`ironyard up`: one command starts everything, says what to do next, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest

from tests.cli.conftest import COMMAND

pytestmark = pytest.mark.timeout(400)
Process = Callable[..., "subprocess.CompletedProcess[str]"]
ADMIN = "admin@ironyard.local"
PASSWORD = re.compile(r"one-time password (\S+)")


class Up:
    """A running `ironyard up` and what it has printed."""

    def __init__(self, directory: Path, env: dict[str, str], *arguments: str) -> None:
        self.out = directory / f"up-{time.monotonic_ns()}.txt"
        self.url = f"http://127.0.0.1:{env['IRONYARD_PORT']}"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [*COMMAND, "up", *arguments], env=env, cwd=directory, stdout=out, stderr=out
            )

    def text(self) -> str:
        return self.out.read_text()

    def wait_for(self, text: str, seconds: float = 90) -> str:
        deadline = time.monotonic() + seconds
        while text not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)
        return self.text()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Its exit code; nothing that it started may be left."""
        children = self.children()
        self.process.send_signal(number)
        try:
            code = self.process.wait(150)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not stop:\n{self.described()}\n{self.text()}")
        assert [child for child in children if child.is_running()] == []
        return code

    def described(self) -> str:
        """Who runs still, in which state, and where in the kernel each thread waits."""
        lines = []
        for process in [psutil.Process(self.process.pid), *self.children()]:
            lines.append(f"{process.pid} {process.status()} {' '.join(process.cmdline())}")
            threads = sorted(Path(f"/proc/{process.pid}/task").iterdir())
            lines += [f"  {thread.name} {(thread / 'wchan').read_text()}" for thread in threads]
        return "\n".join(lines)


@pytest.fixture
def up(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str, **extra: str) -> Up:
        started.append(Up(tmp_path, environment | extra, *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def program(directory: Path, text: str) -> str:
    """The command line of a program that names hosts."""
    path = directory / "hosts.py"
    path.write_text(text)
    return f"{sys.executable} {path}"


def test_up_twice(up: Callable[..., Up], process: Process, tmp_path: Path) -> None:
    first = up()
    text = first.wait_for("Ctrl-C stops everything")
    assert f"Ironyard is running at {first.url}" in text
    found = PASSWORD.search(text)
    assert found is not None
    url = ("--url", first.url)
    login = process("login", *url, "--email", ADMIN, "--password-stdin", input=f"{found[1]}\n")
    assert login.returncode == 0, login.stderr
    assert '"slug": "default"' in process("workspace", "list", "--json").stdout
    assert "already" in process("db", "upgrade").stdout
    for name in ("ironyard.db", "up.lock", "logs/serve.log", "logs/worker.log"):
        assert (tmp_path / "data" / name).exists()
    assert (tmp_path / "data" / "ironyard.db").stat().st_mode & 0o077 == 0
    assert first.stop() == 0
    assert first.text().endswith("Stopping…\nStopped.\n")

    second = up()
    text = second.wait_for("Ctrl-C stops everything")
    assert PASSWORD.search(text) is None or "a new one-time password" in text
    assert f"user reset-password {ADMIN}" in text
    assert process("whoami").returncode == 0
    assert second.stop(signal.SIGTERM) == 0


def test_a_second_one_beside_it_is_refused(up: Callable[..., Up], process: Process, tmp_path: Path) -> None:
    first = up()
    first.wait_for("Ctrl-C stops everything")
    refused = process("up")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"ironyard: Ironyard runs here already (process {first.process.pid}, {first.url}); stop it first.\n"
    )
    refused = process("up", env={"IRONYARD_DATA_DIR": str(tmp_path / "other")})
    assert refused.returncode == 1
    assert refused.stderr == f"ironyard: An Ironyard server runs at {first.url} already; stop it first.\n"
    assert first.stop() == 0


def test_a_port_of_another_program_is_named(process: Process, environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = process("up", env={"IRONYARD_PORT": port})
    assert refused.returncode == 1
    assert refused.stderr == (
        f"ironyard: Port {port} is used by another program; set IRONYARD_PORT to a free one.\n"
    )


def test_a_child_that_dies_is_started_again(up: Callable[..., Up]) -> None:
    running = up()
    running.wait_for("Ctrl-C stops everything")
    worker = next(child for child in running.children() if "worker" in child.cmdline())
    worker.kill()
    text = running.wait_for("starting it again")
    assert "worker was ended by SIGKILL" in text
    deadline = time.monotonic() + 60
    while not any("worker" in child.cmdline() for child in running.children()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert running.stop() == 0


def test_children_end_when_up_is_killed(up: Callable[..., Up]) -> None:
    running = up()
    running.wait_for("Ctrl-C stops everything")
    children = running.children()
    running.process.kill()
    running.process.wait()
    _, alive = psutil.wait_procs(children, 30)
    assert alive == []


def test_settings_that_fail_the_children_end_it_with_the_reason(
    process: Process, environment: dict[str, str]
) -> None:
    refused = process("up", env={"IRONYARD_MODE": "production"})
    assert refused.returncode == 2
    assert "IRONYARD_TOKEN_SECRET must be set" in refused.stderr
    refused = process("up", env={"IRONYARD_ADMINISTRATOR_EMAIL": "nobody"})
    assert refused.stderr == "ironyard: IRONYARD_ADMINISTRATOR_EMAIL is no e-mail address.\n"
    refused = process("up", env={"IRONYARD_DATABASE_URL": "postgresql://127.0.0.1:1/none"})
    assert refused.returncode == 1
    assert "The database cannot be used" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_program_that_fails_leaves_a_platform_without_a_fleet(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    fails = program(
        tmp_path,
        "import sys\n"
        "print('looking for an engine', file=sys.stderr)\n"
        "sys.exit('No Docker engine can be used here.')",
    )
    running = up("--enroll-from", fails)
    text = running.wait_for("Ctrl-C stops everything")
    assert "looking for an engine\n" in text
    assert "No fleet: No Docker engine can be used here.\n" in text
    assert text.count("No Docker engine") == 1
    assert running.stop() == 0


def test_a_program_that_cannot_be_run_does_no_harm(up: Callable[..., Up]) -> None:
    running = up("--enroll-from", "/no/such/program")
    assert "No fleet: '/no/such/program' cannot be run" in running.wait_for("Ctrl-C stops everything")
    assert running.stop() == 0


HOST = """
import json
print(json.dumps({{
    "name": "far-1", "address": "127.0.0.1", "port": {port}, "user": "root", "key_file": {key!r},
    "region": "lab", "labels": {{"rack": "b1"}}, "fresh": {fresh}, "host_key": None,
}}))
"""


def test_an_unreachable_host_ends_in_maintenance_and_is_shown(
    up: Callable[..., Up], process: Process, tmp_path: Path, environment: dict[str, str]
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    names = program(tmp_path, HOST.format(port=9, key=str(key), fresh=True))
    running = up("--enroll-from", names)
    text = running.wait_for("Ctrl-C stops everything", 180)
    assert "far-1: enrolling, queued\n" in text
    assert re.search(r"far-1: maintenance, failed at \w+: .*127.0.0.1", text)
    assert "Fleet: 0 of 1 hosts ready, 0 GPUs; see `ironyard host show far-1`." in text
    assert running.stop() == 0

    names = program(tmp_path, HOST.format(port=9, key=str(key), fresh=False))
    running = up("--enroll-from", names)
    text = running.wait_for("Ctrl-C stops everything", 180)
    assert "enrolling" not in text
    assert "far-1: maintenance" in text
    assert running.stop() == 0

    names = program(tmp_path, HOST.format(port=10, key=str(key), fresh=True))
    running = up("--enroll-from", names)
    text = running.wait_for("Ctrl-C stops everything", 180)
    assert "far-1 moved to 127.0.0.1:10" in text
    assert "far-1: enrolling" in text
    assert running.stop() == 0


def test_stopping_while_hosts_are_prepared(up: Callable[..., Up], tmp_path: Path) -> None:
    slow = program(
        tmp_path, "import sys, time; print('building', file=sys.stderr, flush=True); time.sleep(600)"
    )
    running = up("--enroll-from", slow)
    running.wait_for("Sign in as")
    assert httpx.get(f"{running.url}/health/ready").status_code == 200
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 25


def test_stopping_before_it_is_ready_still_shows_the_password(up: Callable[..., Up]) -> None:
    running = up()
    running.wait_for("Preparing")
    time.sleep(0.3)
    os.kill(running.process.pid, signal.SIGINT)
    assert running.process.wait(60) == 0
    assert PASSWORD.search(running.text())
