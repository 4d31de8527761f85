"""What the documentation says is so: every command runs, every table and path is the code's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg
import pytest

from api.cli.exits import MEANINGS
from api.core.access import GRANTS, Permission, Role
from api.fleet.lifecycle import SENTENCES, TRANSITIONS
from api.fleet.playbooks import PLAYBOOKS
from api.settings import ROOT, Settings
from tests.docs import pages
from tests.docs.shell import Shell, words
from tests.lab import Lab, LabError
from tests.support.postgres import PostgresServer, free_port

STATE = ROOT / ".ironyard" / "docs-lab"
LAB = f"{sys.executable} -m tests.lab --prefix docs --state-dir {STATE} up --json"
PASSWORD = "correct horse battery"
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
CODE_PATH = re.compile(r"`((?:api|playbooks|inventory|tests|docs|\.ci)/[\w./-]+|Makefile|constraints\.txt)`")
EDGE = re.compile(r"^ +(\w+) --> (\w+): (\w+)$", re.MULTILINE)
LAB_TEST = (pytest.mark.lab, pytest.mark.timeout(1200))


def lab_test(function: Any) -> Any:
    for mark in LAB_TEST:
        function = mark(function)
    return function


@dataclass
class Platform:
    """`ironyard up` as `make up` starts it, with a lab of its own."""

    url: str
    printed: Path
    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def shell(self, **names: str) -> Shell:
        known = {"http://127.0.0.1:8080": self.url, **{f"lab-{n}": f"docs-{n}" for n in (1, 2, 3)}, **names}
        return Shell(self.home, self.environment, known)

    def password(self) -> str:
        found = re.search(r"one-time password (\S+)", self.printed.read_text())
        assert found
        return found.group(1)


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("IRONYARD_", "ANSIBLE_"))
    }
    return kept | {"NO_COLOR": "1", "COLUMNS": "160", **more}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(STATE, prefix="docs")
    try:
        made.ensure_engine()
        made.down()
    except LabError as error:
        pytest.skip(str(error))
    yield made
    made.down()


@pytest.fixture(scope="module")
def platform(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    data, home, port = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("home"), free_port()
    own = environment(IRONYARD_DATA_DIR=str(data), IRONYARD_PORT=str(port), PYTHONUNBUFFERED="1")
    printed = home / "up.log"
    command = [Path(sys.executable).with_name("ironyard"), "up", "--enroll-from", LAB]
    with printed.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=out, stderr=out, start_new_session=True)
    made = Platform(f"http://127.0.0.1:{port}", printed, home, environment(), process)
    try:
        wait_for(made, "Ctrl-C stops everything.", seconds=600)
        yield made
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, printed.read_text()
    assert "Stopped." in printed.read_text()


def wait_for(platform: Platform, words: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while words not in platform.printed.read_text():
        assert platform.process.poll() is None, platform.printed.read_text()
        assert time.monotonic() < deadline, platform.printed.read_text()
        time.sleep(0.3)


@lab_test
def test_make_up_starts_what_is_tested_here_and_prints_what_the_readme_shows(platform: Platform) -> None:
    told = subprocess.run(["make", "-n", "up"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '.venv/bin/ironyard up --enroll-from ".venv/bin/python -m tests.lab up --json"' in told
    shown = next(
        command.shown
        for block in pages.blocks(pages.README)
        if block.kind == "console"
        for command in pages.commands(block)
        if command.text == "make up"
    )
    shell, printed = platform.shell(), platform.printed.read_text()
    assert [word for line in shown[:-1] for word in words(shell.mine(line)) if word not in printed] == []


@lab_test
def test_the_readme_s_tour(platform: Platform) -> None:
    shell = platform.shell()
    shell.answers = [platform.password(), PASSWORD, PASSWORD]
    for command in pages.to_run(pages.README):
        shell.follow(command)


@lab_test
def test_operating(platform: Platform, lab: Lab) -> None:
    """After the tour, of whose session it makes use: two of its hosts leave, and come back as the page's."""
    shell = platform.shell()
    _retire(platform, "docs-2", "docs-3")
    addresses = {row["name"]: row["address"] for row in lab.status()}
    shell.names |= {"10.0.4.11": addresses["docs-2"], "10.0.4.12": addresses["docs-3"]}
    shell.names |= {"/etc/ironyard/keys/fleet": str(lab.key_file)}
    for command in pages.to_run(pages.OPERATE):
        shell.follow(command)


def _retire(platform: Platform, *names: str) -> None:
    body = {"email": "admin@ironyard.local", "password": PASSWORD}
    token = httpx.post(f"{platform.url}/api/v1/auth/token", json=body).json()["access_token"]
    with httpx.Client(
        base_url=f"{platform.url}/api/v1", headers={"Authorization": f"Bearer {token}"}
    ) as client:
        for name in names:
            host = client.get("/hosts", params={"name": name}).json()["items"][0]
            _settle(client, host["id"])
            assert client.post(f"/admin/machines/{host['id']}/retire").status_code == 202
            _settle(client, host["id"])


def _settle(client: httpx.Client, host_id: str) -> None:
    deadline = time.monotonic() + 180
    while any(not row["ended_at"] for row in _operations(client, host_id)):
        assert time.monotonic() < deadline, _operations(client, host_id)
        time.sleep(0.5)


def _operations(client: httpx.Client, host_id: str) -> list[Any]:
    found: list[Any] = client.get("/operations", params={"subject_id": host_id}).json()["items"]
    return found


@pytest.mark.postgres
def test_installing_for_production(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create("docs_install")
    written = next(block for block in pages.blocks(pages.INSTALL) if block.kind == "dotenv")
    names = {"postgresql://ironyard:password@db.example/ironyard": url, "/etc/ironyard": str(tmp_path)}
    shell = Shell(tmp_path, environment(IRONYARD_DATA_DIR=str(tmp_path / "unused")), names)
    (tmp_path / "ironyard.env").write_text(shell.mine("\n".join(written.lines)) + "\n")
    for command in pages.to_run(pages.INSTALL):
        shell.follow(command)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT email, role FROM users").fetchall() == [
            ("admin@ironyard.local", "administrator")
        ]
    assert not (tmp_path / "unused").exists()
    postgres.drop("docs_install")


def test_extending(tmp_path: Path) -> None:
    shell = Shell(tmp_path, environment(), {})
    for command in pages.to_run(pages.EXTEND):
        shell.follow(command)


def test_no_command_is_left_out_without_a_reason() -> None:
    blocks = [block for page in pages.PAGES for block in pages.blocks(page)]
    shells = [f"{b.page.name}:{b.line}" for b in blocks if b.kind in ("", "sh", "bash", "shell", "zsh")]
    assert shells == [], "commands belong into console blocks"
    assert not pages.to_run(pages.SECURITY), "no test runs that page's commands"
    skipped = [f"{b.page.name}: {b.not_run}" for b in blocks if b.kind == "console" and b.not_run]
    assert skipped == [
        "README.md: the test starts the same command with a lab of its own",
        "README.md: these are the tests",
        "README.md: they are long, and the build runs them",
        "install.md: it downloads every package again",
        "install.md: it changes the machine",
        "install.md: it builds an image and starts containers",
        "install.md: it copies the machine's own data",
        "install.md: it changes the machine",
        "operate.md: it changes a cluster",
        "platform.md: the test has a cluster of its own",
        *["platform.md: it changes a cluster"] * 6,
        "health.md: it needs a host of yours",
        "placement.md: needs two hosts with eight GPUs each",
        "placement.md: the id of an offer is of one platform and five minutes",
    ]
    lines = [line for page in pages.PAGES for line in page.read_text().splitlines()]
    commented = sum(1 for line in lines if pages.NOT_RUN.fullmatch(line.strip()))
    assert commented == len(skipped)


def test_the_settings_are_those_of_the_code() -> None:
    rows = {row[0]: row[1] for row in pages.table(pages.INSTALL, "Setting")}
    names = {f"IRONYARD_{name.upper()}": info.default for name, info in Settings.model_fields.items()}
    assert rows.keys() == names.keys()
    for name, default in names.items():
        if isinstance(default, (int, float)):
            assert float(rows[name]) == default, name
        elif isinstance(default, str) and default:
            assert rows[name] == default, name


def test_the_lifecycle_is_the_code_s() -> None:
    drawn = {(before, event, after) for before, after, event in EDGE.findall(pages.OPERATE.read_text())}
    assert drawn == {(str(at), str(event), str(after)) for (at, event), after in TRANSITIONS.items()}
    assert dict(pages.table(pages.OPERATE, "State")) == {str(s): text for s, text in SENTENCES.items()}


def test_the_exit_codes_are_the_code_s() -> None:
    assert dict(pages.table(pages.OPERATE, "Exit code")) == {
        str(int(code)): meaning for code, meaning in MEANINGS.items()
    }


def test_the_steps_are_the_playbooks() -> None:
    rows = [(row[0], row[1]) for row in pages.table(pages.OPERATE, "Playbook")]
    assert rows == [(name, step) for name, book in PLAYBOOKS.items() for step in book.steps]


def test_the_roles_are_the_code_s() -> None:
    rows = pages.table(pages.SECURITY, "Permission")
    assert {row[0] for row in rows} == {str(permission) for permission in Permission}
    for permission, *marks, _meaning in rows:
        granted = [Permission(permission) in GRANTS[role] for role in Role]
        assert [mark == "yes" for mark in marks] == granted, permission


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    text = page.read_text()
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [path for path in CODE_PATH.findall(text) if not (ROOT / path).exists()]
    assert missing == []
