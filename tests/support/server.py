"""Real processes of the platform: the API under uvicorn, and workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx

from tests.support.postgres import free_port

ROOT = Path(__file__).resolve().parents[2]


def environment(data_dir: Path, database_url: str, **extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("IRONYARD_")}
    own = {"IRONYARD_DATA_DIR": str(data_dir), "IRONYARD_DATABASE_URL": database_url}
    return kept | own | {f"IRONYARD_{name.upper()}": value for name, value in extra.items()}


@contextmanager
def api_server(data_dir: Path, database_url: str, *, processes: int = 1, **extra: str) -> Iterator[str]:
    """The URL of a server of its own process(es), stopped at the end."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.main:create_app", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning", "--workers", str(processes)]
    with running(command, data_dir / "api.log", environment(data_dir, database_url, **extra)) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(f"{url}/health/live").status_code == 200, process, data_dir / "api.log")
        yield url


@contextmanager
def worker_process(data_dir: Path, database_url: str, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-c",
        "from api.settings import Settings; from api.worker import run; run(Settings())",
    ]
    log = data_dir / f"worker-{time.monotonic_ns()}.log"
    with running(command, log, environment(data_dir, database_url, **extra)) as process:
        wait_for(lambda: "takes operations" in log.read_text(), process, log)
        yield process


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(ready: object, process: subprocess.Popen[bytes], log: Path, *, seconds: float = 60) -> None:
    assert callable(ready)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        try:
            if ready():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"not ready after {seconds} s:\n{log.read_text()[-4000:]}")
