"""`ironyard platform` with the real engine on a small project: up, failed, killed, freed, kept, gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli.exits import Exit
from tests.lab.cluster import tools

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1800)]
PROGRAM = """
import os, pathlib
import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

class Provider(ResourceProvider):
    def create(self, props):
        import pathlib, time
        order = props["place"] + "/" + props["name"]
        if pathlib.Path(order + ".fails").exists():
            raise Exception("no chart of this name in registry.example")
        while pathlib.Path(order + ".waits").exists():
            pathlib.Path(order + ".begun").touch()
            time.sleep(0.1)
        return CreateResult(props["name"], dict(props))

    def diff(self, id, olds, news):
        changed = olds["size"] != news["size"]
        return DiffResult(changes=changed, replaces=["size"] if changed else [], delete_before_replace=True)

class Thing(Resource):
    def __init__(self, name, size, **options):
        props = {"name": name, "size": size, "place": PLACE}
        super().__init__(Provider(), name, props, pulumi.ResourceOptions(**options))

PLACE = str(pathlib.Path(__file__).parent)
size = pathlib.Path(PLACE, "size").read_text()
space = Thing("space", "1")
disk = Thing("disk", "1", protect=True, depends_on=[space])
web = Thing("web", size, depends_on=[disk])
pulumi.export("url", "https://web.example")
pulumi.export("password", pulumi.Output.secret("hunter22"))
"""


class Command:
    """The command as a process, on a project and a state of its own."""

    def __init__(self, project: Path, environment: dict[str, str]) -> None:
        self.project, self.environment = project, environment

    def start(self, name: str, *options: str) -> subprocess.Popen[str]:
        arguments = ["-m", "api.cli", "platform", name, "--project", str(self.project), "--no-policies"]
        if name not in ("up", "preview"):
            arguments.pop()
        return subprocess.Popen(
            [sys.executable, *arguments, *options],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, name: str, *options: str, code: int = 0) -> tuple[str, str]:
        """Standard output and standard error."""
        process = self.start(name, *options)
        out, err = process.communicate(timeout=600)
        assert process.returncode == code, (process.returncode, out, err)
        return out, err

    def json(self, name: str, *options: str, code: int = 0) -> Any:
        return json.loads(self(name, *options, "--json", code=code)[0])

    def order(self, name: str, word: str) -> Path:
        return self.project / f"{name}.{word}"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    try:
        programs = tools.ensure()
    except tools.ToolsMissing as missing:
        pytest.skip(str(missing))
    project = tmp_path / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: trial\nruntime: python\n")
    (project / "__main__.py").write_text(PROGRAM)
    (project / "size").write_text("1")
    place = programs.link(tmp_path / "bin")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PULUMI_", "IRONYARD_"))
    }
    own = {
        "PATH": f"{place}{os.pathsep}{os.environ['PATH']}",
        "IRONYARD_DATA_DIR": str(tmp_path / "data"),
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_CONFIG_PASSPHRASE": "correct horse",
    }
    yield Command(project, {**kept, **own})
    for path in project.glob("*.waits"):  # what a killed run left waiting
        path.unlink()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


def engine_of(process: subprocess.Popen[str]) -> int:
    """The process id of the `pulumi` that the command runs."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
    return next(pid for pid, name in names.items() if name == "pulumi")


def kill_session(leader: int) -> None:
    """The engine and the plugins that it started: they are in its session, and would outlive it."""
    for pid in (int(place.name) for place in Path("/proc").iterdir() if place.name.isdecimal()):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def test_up_again_changed_and_drifted(command: Command) -> None:
    out, err = command("up", "--yes")
    assert "Stack local is new" in err
    assert "created Thing web" in err or "created Resource web" in err
    assert out.splitlines()[-2:] == ["password  [secret]", "url       https://web.example"]
    again = command.json("up", "--yes")
    assert again["changes"] == {}
    assert command("drift")[1].endswith("Everything is as stack local asks for.\n")
    (command.project / "size").write_text("2")
    assert [one["name"] for one in command.json("preview")["resources"]] == ["web"]
    assert command.json("drift", code=Exit.DRIFT)["changes"] == {"replace": 1}
    assert command.json("up", "--yes")["changes"] == {"replace": 1}
    assert command.json("outputs", "--show-secrets") == {"password": "hunter22", "url": "https://web.example"}


def test_a_failed_resource_is_named_and_the_next_run_goes_on(command: Command) -> None:
    command.order("web", "fails").touch()
    err = command("up", "--yes", code=Exit.FAILED)[1]
    assert "web: " in err.partition("ironyard: ")[2]
    assert "no chart of this name in registry.example" in err
    command.order("web", "fails").unlink()
    assert [one["name"] for one in command.json("up", "--yes")["resources"]] == ["web"]


def test_a_killed_engine_leaves_a_lock_that_can_be_freed(command: Command) -> None:
    command.order("web", "waits").touch()
    process = command.start("up", "--yes")
    wait_for(command.order("web", "begun"))
    kill_session(engine_of(process))
    err = process.communicate(timeout=120)[1]
    assert process.returncode == Exit.FAILED
    assert err.endswith(
        "ironyard: pulumi ended without a word (code -9).\n  3 changes were made before.\n"
    ), err
    command.order("web", "waits").unlink()
    err = command("up", "--yes", code=Exit.CONFLICT)[1]
    assert "`ironyard platform unlock --stack local` frees it" in err
    command("unlock", "--yes")
    command("up", "--yes", "--refresh")
    assert command.json("up", "--yes")["changes"] == {}


def test_a_signal_ends_it_after_what_was_begun(command: Command) -> None:
    command.order("disk", "waits").touch()
    process = command.start("up", "--yes")
    wait_for(command.order("disk", "begun"))
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # `disk` is not left half made
    command.order("disk", "waits").unlink()
    err = process.communicate(timeout=120)[1]
    assert process.returncode == Exit.FAILED
    assert "Stopped. What was finished is in the state of stack local." in err
    assert [one["name"] for one in command.json("up", "--yes")["resources"]] == ["web"]


def test_data_stays_until_it_is_named(command: Command) -> None:
    command("up", "--yes")
    kept = command.json("destroy", "--yes")
    assert kept["changes"] == {"delete": 1}
    assert [one["name"] for one in kept["kept"]] == ["space", "disk"]
    assert command.json("destroy", "--yes")["changes"] == {}
    command("destroy", "--with-data", "--yes", code=Exit.USAGE)
    gone = command.json("destroy", "--with-data", "--yes", "--confirm", "local")
    assert {one["name"] for one in gone["resources"]} >= {"space", "disk"}
    assert command.json("destroy", "--yes")["changes"] == {}


def test_another_passphrase_opens_nothing(command: Command) -> None:
    command("up", "--yes")
    command.environment["PULUMI_CONFIG_PASSPHRASE"] = "wrong horse"
    for name in ("outputs", "preview"):
        assert "The passphrase is not the one of stack local" in command(name, code=Exit.DENIED)[1]
