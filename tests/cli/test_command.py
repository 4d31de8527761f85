"""The command as such: it starts fast, explains itself, completes, and its exit codes mean something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli.commands import ENTRIES, load
from api.cli.exits import BY_STATUS, MEANINGS, Exit
from tests.support.postgres import free_port

Process = Callable[..., "subprocess.CompletedProcess[str]"]
SILENT = {
    "up",
    "serve",
    "worker",
    "login",
    "logout",
    "password",
    "workspace remove-member",
    "approval remove",
}


def commands() -> Iterator[tuple[str, Any]]:
    for name in ENTRIES:
        found = load(name)
        members = getattr(found, "commands", None)
        yield from ((f"{name} {sub}", one) for sub, one in members.items()) if members else ((name, found),)


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value)[:30])
def test_each_command_explains_itself_and_speaks_json(name: str, command: Any) -> None:
    assert command.help, f"{name} has no help"
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) == (name not in SILENT)


def test_help_lists_every_command_and_every_exit_code(process: Process) -> None:
    text = process("--help").stdout
    for name, entry in ENTRIES.items():
        assert f"  {name} " in text
        assert entry.help in text
    for code, meaning in MEANINGS.items():
        assert f"{int(code)}  {meaning}" in text
    assert set(BY_STATUS.values()) <= set(MEANINGS)
    assert set(MEANINGS) == set(Exit)


def test_version(process: Process) -> None:
    assert process("--version").stdout.startswith("ironyard 0.")


HEAVY = ("fastapi", "sqlalchemy", "sqlmodel", "pydantic", "dbos", "alembic", "uvicorn", "ansible_runner")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from api.cli.main import app; app(['--help'], standalone_mode=False)", (*HEAVY, "rich", "httpx2")),
        ("from api.cli.commands import ENTRIES, load; [load(name) for name in ENTRIES]", (*HEAVY, "httpx2")),
        ("from api.cli.client import Client; Client('http://127.0.0.1:1').__exit__(None, None, None)", HEAVY),
    ],
    ids=["help", "all commands", "a request"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str, absent: tuple[str, ...]) -> None:
    program = f"import sys; {code}; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & set(absent)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_completion(process: Process, shell: str) -> None:
    script = process(env={"_IRONYARD_COMPLETE": f"source_{shell}"}).stdout
    assert "_IRONYARD_COMPLETE" in script
    assert "ironyard" in script


def test_completion_knows_commands_and_options(process: Process) -> None:
    def complete(words: str) -> list[str]:
        position = str(len(words.split(" ")) - 1)
        env = {"_IRONYARD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
        return process(env=env).stdout.split()

    assert complete("ironyard allo") == ["allocate", "allocations", "allocation"]
    assert complete("ironyard host re") == ["reclaim", "retire", "re-enroll", "reclaims", "reclaim-record"]
    assert complete("ironyard allocate --same") == ["--same-host"]


def test_a_wrong_command_line_exits_2_with_a_suggestion(process: Process) -> None:
    done = process("allocat")
    assert done.returncode == Exit.USAGE
    assert "Did you mean 'allocate'" in done.stderr


def test_no_server_exits_3(process: Process) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = process("host", "list", env={"IRONYARD_URL": url, "IRONYARD_TOKEN": "t"})
    assert done.returncode == Exit.UNREACHABLE
    assert done.stderr.startswith(f"ironyard: {url} cannot be reached")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_nobody_signed_in_exits_4(process: Process) -> None:
    done = process("gpus")
    assert done.returncode == Exit.DENIED
    assert done.stderr == "ironyard: Nobody is signed in; run `ironyard login`.\n"


def test_something_else_at_the_address_is_told_apart(process: Process) -> None:
    done = process("gpus", env={"IRONYARD_URL": "ftp://nowhere", "IRONYARD_TOKEN": "t"})
    assert done.returncode in (Exit.UNREACHABLE, Exit.USAGE)
    assert len(done.stderr.splitlines()) == 1


def test_credentials_that_cannot_be_read_say_so(process: Process, environment: dict[str, str]) -> None:
    Path(environment["IRONYARD_CREDENTIALS"]).write_text("not json")
    done = process("whoami")
    assert done.returncode == Exit.DENIED
    assert "sign in again" in done.stderr


def test_the_database_is_migrated_and_a_second_time_nothing_happens(process: Process, tmp_path: Path) -> None:
    assert "went from empty to " in process("db", "upgrade").stdout
    assert (tmp_path / "data" / "ironyard.db").stat().st_mode & 0o077 == 0
    assert "already" in process("db", "upgrade").stdout


def test_the_first_administrator_is_made_once(process: Process) -> None:
    process("db", "upgrade")
    assert "signs in with the one-time password" in process("db", "bootstrap").stdout
    assert process("db", "bootstrap").stdout == (
        "There are users already; admin@ironyard.local is an administrator.\n"
    )


def test_settings_that_cannot_be_right_are_named(process: Process) -> None:
    done = process("db", "upgrade", env={"IRONYARD_PORT": "99999"})
    assert done.returncode == Exit.USAGE
    assert "IRONYARD_PORT" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_database_that_cannot_be_used_is_a_sentence(process: Process, tmp_path: Path) -> None:
    done = process("db", "upgrade", env={"IRONYARD_DATABASE_URL": f"sqlite:///{tmp_path}/no/such/folder.db"})
    assert done.returncode == Exit.FAILED
    assert done.stderr.startswith("ironyard: The database cannot be used:")
    assert len(done.stderr.splitlines()) == 1
