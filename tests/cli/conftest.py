from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from api.cli import credentials
from api.cli.main import app as ironyard
from api.core.db import Database
from tests.support import ledger
from tests.support.postgres import free_port

COMMAND = [sys.executable, "-m", "api.cli"]


class Cli:
    """The command as somebody signed in uses it, in this process."""

    def __init__(self, url: str, password: str) -> None:
        self.url = url
        self.password = password
        self.stderr = ""

    def __call__(self, *arguments: str, code: int = 0, stdin: str | None = None) -> str:
        result = CliRunner().invoke(ironyard, list(arguments), input=stdin)
        self.stderr = result.stderr
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return result.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    def refused(self, *arguments: str, code: int, stdin: str | None = None) -> str:
        """What it says on standard error; nothing may be on standard output."""
        assert self(*arguments, code=code, stdin=stdin) == ""
        return self.stderr


@pytest.fixture
def database_url(tmp_path: Path, migrated_sqlite: Path) -> str:
    copy = tmp_path / "ironyard.db"
    shutil.copy(migrated_sqlite, copy)
    return f"sqlite:///{copy}"


@pytest.fixture
def served(app: FastAPI) -> Iterator[str]:
    """The address of the app, served over a socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands keep the session."""
    place = tmp_path / "config" / "credentials.json"
    for name in ("IRONYARD_URL", "IRONYARD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IRONYARD_CREDENTIALS", str(place))
    return place


@pytest.fixture
def cli(app: FastAPI, database: Database, served: str, kept: Path) -> Cli:
    user, password = ledger.first_administrator(database)
    credentials.save(served, app.state.tokens.issue(user))
    return Cli(served, password)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Something that happens while a command waits for it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process with a data directory and a port of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IRONYARD_")}
    own = {"DATA_DIR": str(tmp_path / "data"), "PORT": str(free_port())}
    own["CREDENTIALS"] = str(tmp_path / "credentials.json")
    return kept | {f"IRONYARD_{name}": value for name, value in own.items()}


@pytest.fixture
def process(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command as a process."""

    def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        env = environment | more.pop("env", {})
        return subprocess.run(
            [*COMMAND, *arguments],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            **more,
        )

    return run
