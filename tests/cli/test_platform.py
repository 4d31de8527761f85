"""`ironyard platform` against a `pulumi` that plays back: what it prints, asks, refuses and ends with."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.exits import Exit
from api.cli.main import app as ironyard
from api.cli.platform_destroy import divided

FAKE = Path(__file__).with_name("fake_pulumi.py")
PROJECT = "urn:pulumi:local::ironyard-platform::"
STACK = f"{PROJECT}pulumi:pulumi:Stack::ironyard-platform-local"
PARENT = f"{PROJECT}ironyard:platform:Registry"
RELEASE = f"{PARENT}$kubernetes:helm.sh/v3:Release::harbor"
SECRET = f"{PARENT}$kubernetes:core/v1:Secret::harbor-login"
SPACE = f"{PROJECT}ironyard:platform:Storage$kubernetes:core/v1:Namespace::ironyard-storage"
DISK = f"{PROJECT}ironyard:platform:Storage$kubernetes:helm.sh/v3:Release::seaweedfs"
PASSPHRASE = "a long passphrase"


def step(op: str, urn: str, *, kind: str = "resourcePreEvent", planning: bool = True, keys: Any = ()) -> Any:
    token = urn.split("::")[2].rsplit("$", 1)[-1]
    state = {"urn": urn, "type": token, "custom": token.startswith("kubernetes:")}
    metadata = {"op": op, "urn": urn, "type": token, "provider": "", "new": state, "diffs": list(keys)}
    return {kind: {"metadata": metadata, "planning": planning}}


def done(op: str, urn: str) -> list[Any]:
    return [step(op, urn, planning=False), step(op, urn, kind="resOutputsEvent", planning=False)]


def failed(op: str, urn: str, message: str) -> list[Any]:
    said = {"message": f"<{{%fg 1%}}>error: {message}<{{%reset%}}>\n", "severity": "error", "urn": urn}
    over = {"message": "update failed", "severity": "error", "urn": STACK}
    failure = step(op, urn, kind="resOpFailedEvent", planning=False)
    return [step(op, urn, planning=False), {"diagnosticEvent": said}, failure, {"diagnosticEvent": over}]


NEW = [
    step("create", STACK),
    step("create", PARENT + "::registry"),
    step("create", SECRET),
    step("create", RELEASE),
]
CHANGED = [step("same", SECRET), step("update", RELEASE, keys=["values.core.replicas", "version"])]
UNCHANGED = [step("same", SECRET), step("same", RELEASE)]
STATE = [
    {"urn": STACK, "type": "pulumi:pulumi:Stack", "custom": False},
    {"urn": SPACE, "type": "kubernetes:core/v1:Namespace", "custom": True, "parent": STACK},
    {
        "urn": DISK,
        "type": "kubernetes:helm.sh/v3:Release",
        "custom": True,
        "protect": True,
        "dependencies": [SPACE],
        "provider": f"{PROJECT}pulumi:providers:kubernetes::cluster::id",
    },
    {"urn": RELEASE, "type": "kubernetes:helm.sh/v3:Release", "custom": True, "dependencies": [SECRET]},
    {"urn": SECRET, "type": "kubernetes:core/v1:Secret", "custom": True},
]


class Play:
    """The command with a scenario, in this process."""

    def __init__(self, place: Path, project: Path) -> None:
        self.place, self.project = place, project
        self.stderr = ""
        self.stack_exists = True

    def __call__(
        self, command: str, *options: str, code: int = 0, stdin: str | None = None, **scenario: Any
    ) -> str:
        (self.place / "scenario.json").write_text(json.dumps(scenario))
        (self.place / "calls.jsonl").write_text("")
        (self.place / "local.stack").unlink(missing_ok=True)
        if self.stack_exists:
            (self.place / "local.stack").touch()
        arguments = ["platform", command, "--project", str(self.project), *options]
        result = CliRunner().invoke(ironyard, arguments, input=stdin)
        self.stderr = result.stderr
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return result.stdout

    def json(self, command: str, *options: str, code: int = 0, **scenario: Any) -> Any:
        return json.loads(self(command, *options, "--json", code=code, **scenario))

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.place / "calls.jsonl").read_text().splitlines()]

    def called(self, *words: str) -> list[list[str]]:
        return [c["arguments"] for c in self.calls if c["arguments"][: len(words)] == list(words)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pulumi` on PATH that plays back, and what a person has set."""
    folder = tmp_path / "fake"
    folder.mkdir()
    program = folder / "pulumi"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_PULUMI", str(folder))
    monkeypatch.setenv("IRONYARD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", PASSPHRASE)
    for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def play(place: Path, tmp_path: Path) -> Play:
    project = tmp_path / "stacks" / "platform"
    project.mkdir(parents=True)
    (project / "Pulumi.yaml").write_text("name: ironyard-platform\nruntime: python\n")
    return Play(place, project)


def test_up_shows_what_changes_makes_it_and_prints_the_outputs(play: Play) -> None:
    shown = play(
        "up",
        "--yes",
        preview=NEW,
        up=[*done("create", SECRET), *done("create", RELEASE)],
        outputs={"registry_url": "https://registry.ironyard.local", "password": "hunter22"},
        secret=["password"],
    )
    assert [line.split() for line in shown.splitlines()] == [
        ["CHANGE", "KIND", "NAME", "DIFFERS", "IN"],
        ["create", "Secret", "harbor-login", "-"],
        ["create", "Release", "harbor", "-"],
        ["password", "[secret]"],
        ["registry_url", "https://registry.ironyard.local"],
    ]
    assert "2 to create; 0 stay as they are." in play.stderr
    assert "created Secret harbor-login (0 s)" in play.stderr
    assert "Stack local is up: 2 created in" in play.stderr
    assert [call["arguments"][0] for call in play.calls if call["arguments"][0] in ("preview", "up")] == [
        "preview",
        "up",
    ]


def test_one_document_on_request(play: Play) -> None:
    document = play.json(
        "up",
        "--yes",
        preview=CHANGED,
        up=done("update", RELEASE),
        outputs={"url": "u", "password": "hunter22"},
        secret=["password"],
    )
    assert document["changes"] == {"update": 1}
    assert document["outputs"] == {"password": None, "url": "u"}
    assert document["resources"][0]["name"] == "harbor"
    assert document["stack"] == "local"
    assert play.stderr == ""


def test_nothing_changes_before_somebody_agrees(play: Play) -> None:
    play("up", preview=NEW, code=Exit.USAGE)
    assert "Say --yes" in play.stderr
    assert play.called("preview")
    assert not play.called("up")


def test_preview_says_in_what_a_resource_differs_and_changes_nothing(play: Play) -> None:
    shown = play("preview", preview=CHANGED)
    assert "values.core.replicas, version" in shown
    assert "1 to update; 1 stay as they are." in play.stderr
    assert "Nothing was changed." in play.stderr
    assert not play.called("up")
    assert play.json("preview", preview=CHANGED)["resources"][0]["keys"] == [
        "values.core.replicas",
        "version",
    ]


def test_drift_has_an_exit_code_of_its_own(play: Play) -> None:
    play("drift", preview=UNCHANGED)
    assert "Everything is as stack local asks for." in play.stderr
    assert "--refresh" in play.called("preview")[0]
    shown = play("drift", preview=CHANGED, code=Exit.DRIFT)
    assert "harbor" in shown
    assert "`ironyard platform up --refresh` makes these changes" in play.stderr
    assert play.json("drift", preview=CHANGED, code=Exit.DRIFT)["changes"] == {"update": 1}


def test_a_failed_resource_is_named_with_the_reason(play: Play) -> None:
    events = [
        *done("create", SECRET),
        *failed("create", RELEASE, "chart not found: registry.local unreachable"),
    ]
    play("up", "--yes", preview=NEW, up=events, errors={"up": "error: update failed"}, code=Exit.FAILED)
    assert "failed Release harbor" in play.stderr
    told = play.stderr.partition("ironyard: ")[2]
    assert (
        told == "Release harbor: chart not found: registry.local unreachable\n  1 changes were made before.\n"
    )


def test_a_fault_of_the_program_is_told_as_it_is(play: Play) -> None:
    message = "The configuration of ironyard-platform is refused\n  storage.mode: it should be"
    event = {"diagnosticEvent": {"message": f"error: {message}", "severity": "error", "urn": STACK}}
    play("preview", preview=[event], errors={"preview": "error: preview failed"}, code=Exit.FAILED)
    assert play.stderr.endswith(f"ironyard: {message}\n")


def test_what_the_program_wrote_before_it_failed_is_told(play: Play) -> None:
    wrong = {"diagnosticEvent": {"message": "exit status 1", "severity": "error", "urn": RELEASE}}
    said = {"diagnosticEvent": {"message": "there is no .venv\n", "severity": "info#err", "urn": STACK}}
    play("preview", preview=[wrong, said], errors={"preview": "error: preview failed"}, code=Exit.FAILED)
    told = "Release harbor: exit status 1\n  Besides, it was said:\n  there is no .venv\n"
    assert play.stderr.endswith(f"ironyard: {told}")


def test_what_the_policies_refuse_is_not_made(play: Play) -> None:
    event = {
        "message": "<{%reset%}>Every image has a tag.\nspec.image: web has no tag.",
        "policyName": "images-pinned",
        "enforcementLevel": "mandatory",
        "resourceUrn": RELEASE,
    }
    advice = {**event, "enforcementLevel": "warning", "message": "Rather not."}
    scenario = {"preview": [*NEW, {"policyEvent": event}], "errors": {"preview": "error: preview failed"}}
    play("up", "--yes", **scenario, code=Exit.FAILED)
    assert "The policies refuse this stack" in play.stderr
    assert "Release harbor: Every image has a tag. spec.image: web has no tag. [images-pinned]" in play.stderr
    assert not play.called("up")
    play("preview", preview=[*NEW, {"policyEvent": advice}])
    assert "Note: Release harbor: Rather not. [images-pinned]" in play.stderr


def test_policies_are_asked_unless_told_otherwise(play: Play, tmp_path: Path) -> None:
    play("preview", preview=UNCHANGED)
    assert "--policy-pack" not in play.called("preview")[0]
    pack = tmp_path / "stacks" / "policy"
    pack.mkdir()
    (pack / "PulumiPolicy.yaml").write_text("runtime: python\n")
    config = tmp_path / "levels.json"
    play("up", "--yes", "--policy-config", str(config), preview=UNCHANGED)
    for operation in ("preview", "up"):
        arguments = play.called(operation)[0]
        assert arguments[arguments.index("--policy-pack") + 1] == str(pack)
        assert arguments[arguments.index("--policy-pack-config") + 1] == str(config)
    play("preview", "--no-policies", preview=UNCHANGED)
    assert "--policy-pack" not in play.called("preview")[0]
    play("preview", errors={"preview": 'error: policy pack "ironyard" failed to start'}, code=Exit.FAILED)
    assert "--no-policies leaves them out" in play.stderr


def test_a_lock_says_how_to_free_it(play: Play) -> None:
    locked = "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end"
    play("up", "--yes", preview=NEW, errors={"preview": locked}, code=Exit.CONFLICT)
    assert "`ironyard platform unlock --stack local` frees it" in play.stderr
    play("unlock", code=Exit.USAGE)
    assert not play.called("cancel")
    play("unlock", "--yes")
    assert play.called("cancel") == [["cancel", "--yes", "--stack", "local"]]
    assert play.json("unlock", "--yes") == {"stack": "local", "locked": False}


def test_the_passphrase_reaches_pulumi_and_nothing_else(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = play("preview", preview=UNCHANGED)
    assert {call["environment"]["PULUMI_CONFIG_PASSPHRASE"] for call in play.calls} == {PASSPHRASE}
    assert PASSPHRASE not in shown + play.stderr
    assert not any(PASSPHRASE in word for call in play.calls for word in call["arguments"])
    play(
        "preview",
        errors={"preview": "error: getting secrets manager: incorrect passphrase"},
        code=Exit.DENIED,
    )
    assert "The passphrase is not the one of stack local" in play.stderr
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    play("preview", code=Exit.USAGE)
    assert "set PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE" in play.stderr
    assert play.calls == []
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", "/nowhere")
    play("preview", preview=UNCHANGED)


def test_other_keepers_of_secrets_need_no_passphrase(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    play("preview", "--backend", "https://pulumi.example.org", preview=UNCHANGED)
    (play.project / "Pulumi.local.yaml").write_text("secretsprovider: awskms://alias/ironyard\n")
    play("preview", preview=UNCHANGED)


def test_the_state_is_kept_where_told_or_in_the_data_directory(play: Play, tmp_path: Path) -> None:
    play("preview", preview=UNCHANGED)
    folder = tmp_path / "data" / "pulumi"
    told = {call["environment"]["PULUMI_BACKEND_URL"] for call in play.calls}
    assert told == {f"file://{folder}?metadata=skip"}
    assert f"The state is kept in {folder}: back it up" in play.stderr
    assert folder.stat().st_mode & 0o077 == 0
    play("preview", "--backend", "s3://state", preview=UNCHANGED)
    assert {call["environment"]["PULUMI_BACKEND_URL"] for call in play.calls} == {"s3://state"}
    assert "The state is kept" not in play.stderr


def test_a_new_stack_is_made_by_up_and_by_nothing_that_only_looks(play: Play) -> None:
    play.stack_exists = False
    for command in ("drift", "outputs", "destroy", "unlock"):
        play(command, code=Exit.NOT_FOUND)
        assert "There is no stack local" in play.stderr
        assert not play.called("stack", "init")
    play("up", "--yes", preview=NEW, up=done("create", RELEASE))
    assert play.called("stack", "init") == [["stack", "init", "local"]]
    assert "Stack local is new" in play.stderr


def test_pulumi_must_be_there_and_of_this_kind(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play("preview", version="v4.0.0", code=Exit.FAILED)
    assert "This pulumi cannot be used" in play.stderr
    monkeypatch.setenv("PATH", str(play.project))
    play("preview", code=Exit.FAILED)
    assert "pulumi is not on PATH: install the Pulumi CLI" in play.stderr


def test_a_project_must_be_there(play: Play, tmp_path: Path) -> None:
    play.project = tmp_path
    play("preview", code=Exit.USAGE)
    assert f"There is no Pulumi.yaml in {tmp_path}" in play.stderr


def test_destroy_keeps_what_is_protected_and_what_that_needs(play: Play) -> None:
    play("destroy", state=STATE, code=Exit.USAGE)
    assert not play.called("destroy")
    shown = play("destroy", "--yes", state=STATE, destroy=[*done("delete", RELEASE), *done("delete", SECRET)])
    assert [line.split() for line in shown.splitlines()[1:]] == [
        ["delete", "Release", "harbor"],
        ["delete", "Secret", "harbor-login"],
        ["keep", "Namespace", "ironyard-storage"],
        ["keep", "Release", "seaweedfs"],
    ]
    assert "--exclude-protected" in play.called("destroy")[0]
    assert not play.called("state")
    assert "Stack local is destroyed, but what is kept: 2 deleted" in play.stderr
    document = play.json("destroy", "--yes", state=STATE, destroy=done("delete", RELEASE))
    assert [one["name"] for one in document["kept"]] == ["ironyard-storage", "seaweedfs"]


def test_data_goes_only_when_the_stack_s_name_is_given(play: Play) -> None:
    for options in (["--yes"], ["--yes", "--confirm", "production"], ["--confirm", "production"], []):
        play("destroy", "--with-data", *options, state=STATE, code=Exit.USAGE)
        assert not play.called("destroy")
        assert not play.called("state")
    play("destroy", "--with-data", "--yes", "--confirm", "local", state=STATE, destroy=done("delete", DISK))
    operations = [call["arguments"][0] for call in play.calls]
    assert operations.index("state") < operations.index("destroy")
    assert play.called("state") == [["state", "unprotect", "--all", "--yes", "--stack", "local"]]
    assert "--exclude-protected" not in play.called("destroy")[0]


def test_destroying_what_is_gone_is_success(play: Play) -> None:
    play("destroy", state=[STATE[0], *STATE[1:3]])
    assert not play.called("destroy")
    assert "0 to delete, 2 kept" in play.stderr


def test_what_protected_things_need_stays_whatever_the_order() -> None:
    password = {"urn": f"{PROJECT}x:y:Password::p", "type": "x:y:Password", "custom": True}
    login = {"urn": SECRET, "type": "k:c:Secret", "custom": True, "dependencies": [password["urn"]]}
    database = {"urn": DISK, "type": "k:c:Cluster", "custom": True, "protect": True, "dependencies": [SECRET]}
    kept, going = divided([password, login, database, STATE[3]], with_data=False)
    assert [one.name for one in kept] == ["p", "harbor-login", "seaweedfs"]
    assert [one.name for one in going] == ["harbor"]
    kept, going = divided([password, login, database], with_data=True)
    assert kept == ()
    assert len(going) == 3


def test_outputs_hide_secrets_unless_asked(play: Play) -> None:
    scenario = {"outputs": {"url": "u", "password": "hunter22"}, "secret": ["password"]}
    assert play("outputs", **scenario).splitlines() == ["password  [secret]", "url       u"]
    assert play.json("outputs", **scenario) == {"password": None, "url": "u"}
    assert play.json("outputs", "--show-secrets", **scenario) == {"password": "hunter22", "url": "u"}
    play("outputs")
    assert "has no outputs" in play.stderr


def test_a_stack_s_file_is_checked_without_a_cluster(play: Play) -> None:
    path = play.project / "Pulumi.local.yaml"
    path.write_text("config: {ironyard-platform:storage: {mode: tape}, other:key: 1}\n")
    play("config", "--stack", "local", code=Exit.INVALID)
    assert "ironyard-platform:storage.mode: it should be" in play.stderr
    sealed = "{endpoint: {secure: v1:abc}, access_key: {secure: v1:abc}, secret_key: {secure: v1:abc}}"
    path.write_text(f"config:\n  ironyard-platform:storage: {{mode: external, external: {sealed}}}\n")
    assert play.json("config", "--stack", "local")["sections"]["storage"] == "external"
    play("config", "--stack", "staging", code=Exit.NOT_FOUND)
    path.write_text("config: [")
    play("config", "--stack", "local", code=Exit.USAGE)


def test_the_reference_names_every_setting(play: Play) -> None:
    from stacks.components.base import section_types

    page = play("config")
    schemas = play.json("config")
    assert schemas.keys() == section_types().keys()
    assert all(f"\n## {name}\n" in page for name in schemas)


Started = Callable[..., tuple[subprocess.Popen[bytes], int]]


@pytest.fixture
def at_a_terminal(play: Play) -> Any:
    """Starts the command at a terminal of 120 columns; gives the process and the terminal's other end."""
    started: list[tuple[subprocess.Popen[bytes], int]] = []

    def start(*arguments: str, **scenario: Any) -> tuple[subprocess.Popen[bytes], int]:
        (play.place / "scenario.json").write_text(json.dumps(scenario))
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "platform", *arguments, "--project", str(play.project)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        started.append((process, ours))
        return process, ours

    yield start
    for process, terminal in started:
        process.kill()
        process.wait()
        os.close(terminal)


def read_until(terminal: int, words: str, seen: str = "") -> str:
    deadline = time.monotonic() + 60
    while words not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                seen += os.read(terminal, 65536).decode()
            except OSError:
                break
    assert words in seen, seen
    return seen


def test_at_a_terminal_it_asks_for_the_passphrase_and_before_changes(
    at_a_terminal: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    process, terminal = at_a_terminal("up", preview=NEW, up=[*done("create", RELEASE)], outputs={"url": "u"})
    for words in ("New passphrase of stack local: ", "confirmation: "):  # the space comes once it hears
        seen = read_until(terminal, words)
        os.write(terminal, f"{PASSPHRASE}\n".encode())
    seen = read_until(terminal, "Make these changes to stack local?")
    os.write(terminal, b"y\n")
    seen = read_until(terminal, "Stack local is up: 1 created", seen)
    assert process.wait(30) == 0
    assert PASSPHRASE not in seen


def test_a_no_changes_nothing(at_a_terminal: Started, play: Play) -> None:
    process, terminal = at_a_terminal("up", preview=NEW)
    read_until(terminal, "Make these changes to stack local?")
    os.write(terminal, b"n\n")
    read_until(terminal, "Nothing was changed.")
    assert process.wait(30) == Exit.FAILED
    assert not play.called("up")


def test_ctrl_c_lets_pulumi_end_what_it_has_begun(at_a_terminal: Started, play: Play) -> None:
    process, terminal = at_a_terminal("up", "--yes", preview=NEW, waits="up", up=done("create", SECRET))
    deadline = time.monotonic() + 60
    while not (play.place / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    read_until(terminal, "Stopped. What was finished is in the state of stack local.")
    assert process.wait(30) == Exit.FAILED
    assert (play.place / "stopped").exists()
