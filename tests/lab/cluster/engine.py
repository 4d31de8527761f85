"""Pulumi runs with nothing of the user's: a state, a home and a passphrase in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

LOOKING = {"read", "refresh", "same"}
PASSPHRASE = "correct horse battery staple"
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Result:
    """One run: exit code, what happened to how many resources, and what was said.

    `operations` is URN → operation of everything that was not left as it was; `problems` are the errors.
    """

    code: int
    changes: Mapping[str, int]
    operations: Mapping[str, str]
    problems: Sequence[str]
    text: str
    seconds: float

    @property
    def changed(self) -> int:
        """Resources created, updated, replaced or deleted."""
        return sum(count for operation, count in self.changes.items() if operation not in LOOKING)

    @property
    def problem(self) -> str:
        return "\n".join(self.problems) or self.text


class EngineError(Exception):
    """A run that had to succeed did not; the message is the engine's."""


@dataclass
class Stack:
    """One stack of the project in `project`; everything that a run writes lies in `folder`."""

    project: Path
    folder: Path
    environment: Mapping[str, str]
    name: str = "test"
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        # the stack's own settings are written beside the Pulumi.yaml where it is made: not into the project
        named = yaml.safe_load((self.project / "Pulumi.yaml").read_text())["name"]
        (self.folder / "Pulumi.yaml").write_text(yaml.safe_dump({"name": named, "runtime": "python"}))
        self.configure(self.config)
        self._pulumi("stack", "init", self.name, check=True)

    @property
    def config_file(self) -> Path:
        return self.folder / f"Pulumi.{self.name}.yaml"

    def configure(self, config: Mapping[str, Any]) -> None:
        """Replace the stack's whole configuration; keys are `project:name`."""
        kept = yaml.safe_load(self.config_file.read_text()) if self.config_file.exists() else {}
        self.config_file.write_text(yaml.safe_dump({**kept, "config": dict(config)}, sort_keys=True))
        self.config = dict(config)

    def up(self, *options: str, check: bool = True) -> Result:
        """Raises EngineError when it fails and `check` is on; so do the others."""
        return self._run("up", "--yes", "--skip-preview", *options, check=check)

    def preview(self, *options: str, check: bool = True) -> Result:
        return self._run("preview", *options, check=check)

    def drift(self) -> Result:
        """A preview against the cluster as it is; exit code 0 only where nothing differs."""
        return self._run("preview", "--refresh", "--expect-no-changes", check=False)

    def refresh(self, *options: str, check: bool = True) -> Result:
        return self._run("refresh", "--yes", "--skip-preview", *options, check=check)

    def destroy(self, *options: str, check: bool = True) -> Result:
        return self._run("destroy", "--yes", "--skip-preview", *options, check=check)

    def preview_under(self, *packs: Path, environment: Mapping[str, str]) -> Result:
        """A preview that policy packs may refuse; `environment` as a lab has it for policies."""
        began = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.lab.cluster.inline"),
                *(str(self.project), str(self.folder), self.name, *map(str, packs)),
            ],
            cwd=ROOT,
            env={**self._env(), **environment},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Result(done.returncode, {}, {}, [], done.stdout + done.stderr, time.monotonic() - began)

    def cancel(self) -> None:
        self._pulumi("cancel", "--yes", self.name, check=True)

    def unprotect(self) -> None:
        if self.resources():
            self._pulumi("state", "unprotect", "--all", "--yes", *self._stack(), check=True)

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs; secret ones as the engine hides them."""
        outputs: dict[str, Any] = json.loads(self._pulumi("stack", "output", "--json", *self._stack()).stdout)
        return outputs

    def state(self) -> dict[str, Any]:
        """The deployment as it would be exported: secrets encrypted."""
        exported = self._pulumi("stack", "export", *self._stack(), check=True).stdout
        deployment: dict[str, Any] = json.loads(exported)["deployment"]
        return deployment

    def resources(self) -> list[dict[str, Any]]:
        return list(self.state().get("resources", []))

    def killed_up(self, when: Callable[[], bool], *options: str) -> None:
        """An `up` that is ended without warning, with all of its processes, as soon as `when()` holds."""
        argv = ["pulumi", "up", "--yes", "--skip-preview", *self._common(), *options]
        with (self.folder / "killed.log").open("wb") as log:
            program = subprocess.Popen(
                argv, cwd=self.project, env=self._env(), stdout=log, stderr=log, start_new_session=True
            )
        while program.poll() is None and not when():
            time.sleep(0.05)
        if program.poll() is not None:
            raise EngineError(f"the run ended by itself: {(self.folder / 'killed.log').read_text()}")
        plugins = psutil.Process(program.pid).children(recursive=True)
        program.kill()
        program.wait()
        for plugin in plugins:
            with contextlib.suppress(psutil.NoSuchProcess):
                plugin.kill()

    def _stack(self) -> list[str]:
        return ["--stack", self.name]

    def _common(self) -> list[str]:
        return [*self._stack(), f"--config-file={self.config_file}", "--non-interactive", "--color=never"]

    def _env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'state'}",
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_DEBUG_COMMANDS": "true",  # they include the log of events
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
            **self.environment,
        }

    def _pulumi(self, *argv: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["pulumi", *argv, "--non-interactive"],
            cwd=self.folder,
            env=self._env(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise EngineError(f"pulumi {argv[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def _run(self, command: str, *options: str, check: bool) -> Result:
        events = self.folder / "events.json"
        events.unlink(missing_ok=True)
        began = time.monotonic()
        done = subprocess.run(
            ["pulumi", command, *self._common(), f"--event-log={events}", *options],
            cwd=self.project,
            env=self._env(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        result = _read(events, done, time.monotonic() - began)
        if check and result.code:
            raise EngineError(f"pulumi {command} failed ({result.code}): {result.problem}")
        return result


def _read(events: Path, done: subprocess.CompletedProcess[str], seconds: float) -> Result:
    changes: dict[str, int] = {}
    operations: dict[str, str] = {}
    problems: list[str] = []
    lines = events.read_text().splitlines() if events.exists() else []
    for event in map(json.loads, lines):
        if summary := event.get("summaryEvent"):
            changes = summary.get("resourceChanges") or {}
        if (before := event.get("resourcePreEvent")) and before["metadata"]["op"] not in LOOKING:
            operations[before["metadata"]["urn"]] = before["metadata"]["op"]
        if (said := event.get("diagnosticEvent")) and said["severity"] == "error":
            problems.append(said["message"].strip())
    return Result(done.returncode, changes, operations, problems, done.stdout + done.stderr, seconds)


def environment(bin_folder: Path, kubeconfig: Path, folder: Path) -> dict[str, str]:
    """What a run needs to find the lab's programs and cluster; `folder` keeps Helm's files."""
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), str(bin_folder)]
    return {
        "PATH": os.pathsep.join(path),
        "KUBECONFIG": str(kubeconfig),
        "HELM_CACHE_HOME": str(folder / "helm-cache"),
        "HELM_CONFIG_HOME": str(folder / "helm-config"),
        "HELM_DATA_HOME": str(folder / "helm-data"),
    }
