"""`ironyard health`, and what several API processes say of themselves."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support.postgres import free_port
from tests.support.server import environment, running, wait_for, worker_process

COMMAND = [sys.executable, "-m", "api.cli"]
COUNT = re.compile(
    r'^ironyard_http_requests_total\{method="GET",route="/api/v1/hosts",status="401"\} (\S+)$', re.MULTILINE
)
ENOUGH = 2000  # requests, after which both processes must have had one


def health(
    data_dir: Path, database_url: str, *options: str, **extra: str
) -> subprocess.CompletedProcess[str]:
    env = environment(data_dir, database_url, **extra)
    return subprocess.run(
        [*COMMAND, "health", *options], env=env, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def address(tmp_path: Path, database_url: str) -> Iterator[tuple[str, str]]:
    """Address and port of `ironyard serve` with two processes."""
    port = str(free_port())
    env = environment(tmp_path, database_url, host="0.0.0.0", port=port, processes="2")
    env["TMPDIR"] = str(tmp_path)
    log = tmp_path / "serve.log"
    with running([*COMMAND, "serve"], log, env) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(f"{url}/health/live").status_code == 200, process, log)
        yield url, port


def test_two_processes_answer_for_each_other(
    address: tuple[str, str], tmp_path: Path, database_url: str
) -> None:
    url, port = address
    asked = 0
    while len(list(tmp_path.glob("ironyard-metrics-*/counter_*.db"))) < 2 or asked < 20:
        assert asked < ENOUGH
        assert httpx.get(f"{url}/api/v1/hosts").status_code == 401  # on a connection of its own
        asked += 1
    counted = {float(found.group(1)) for _ in range(10) if (found := COUNT.search(metrics(url)))}
    assert counted == {asked}, "every scrape tells the whole, whichever process answers"
    assert health(tmp_path, database_url, host="0.0.0.0", port=port).returncode == 0
    told = health(tmp_path, database_url, "--json", host="127.0.0.1", port=port).stdout
    assert '"healthy": true' in told


def metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics").text


def test_an_api_that_is_not_there_is_not_healthy(tmp_path: Path, database_url: str) -> None:
    told = health(tmp_path, database_url, port=str(free_port()))
    assert told.returncode == 1
    assert told.stderr.startswith("ironyard: Nothing answers at http://127.0.0.1:")


def test_something_else_at_the_port_is_not_healthy(tmp_path: Path, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert health(tmp_path, database_url, port=str(silent.getsockname()[1])).returncode == 1


def test_a_worker_of_this_machine(tmp_path: Path, database_url: str) -> None:
    quick = {"worker_timeout": "3", "worker_heartbeat": "0.5"}
    assert health(tmp_path, database_url, "--worker", **quick).returncode == 1
    with worker_process(tmp_path, database_url, **quick):
        told = health(tmp_path, database_url, "--worker", **quick)
        assert (told.returncode, told.stdout) == (0, "1 workers alive.\n"), told.stderr
    told = health(tmp_path, database_url, "--worker", **quick)
    assert told.returncode == 1, "a worker that was stopped is none"
    assert told.stderr == "ironyard: No worker of this machine has given a sign of life.\n"


def test_a_worker_of_another_machine_does_not_count(tmp_path: Path, database_url: str) -> None:
    if os.geteuid():
        pytest.skip("only root can give a process another host name")
    name = f"not-{platform.node()}"[:60]
    with worker_process(tmp_path, database_url):
        command = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
        told = subprocess.run(
            [*command, *COMMAND, "health", "--worker"],
            env=environment(tmp_path, database_url),
            capture_output=True,
            text=True,
            check=False,
        )
    assert (told.returncode, told.stdout) == (1, ""), told.stderr
