"""The `pulumi` program on one stack of a project, through the Automation API. Import late: it is heavy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pulumi import automation
from pulumi.automation.errors import create_command_error

from api.cli.exits import Exit, Failure
from api.cli.platform_display import Display
from api.cli.platform_events import Tally, plain

OnLine = Callable[[str], Any] | None
OnEvent = Callable[[automation.EngineEvent], None]
INSTALL = "install the Pulumi CLI (https://www.pulumi.com/docs/install/) and put it on PATH"
SAID = 10  # lines of what a program wrote on standard error that a failure repeats
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Target:
    """Which stack of which project, where its state is kept, and the policy packs it must pass."""

    project: Path
    stack: str
    backend: str
    environment: Mapping[str, str]
    policies: tuple[Path, ...] = ()
    policy_configs: tuple[Path, ...] = ()


class Program(automation.PulumiCommand):
    """Runs `pulumi` in a session of its own: a signal lets it end what it has begun, a second one ends it."""

    def __init__(self) -> None:
        if shutil.which("pulumi") is None:
            raise Failure(f"pulumi is not on PATH: {INSTALL}.")
        try:
            super().__init__()
        except (automation.InvalidVersionError, subprocess.CalledProcessError, OSError) as error:
            raise Failure(f"This pulumi cannot be used ({error}): {INSTALL}.") from error
        self.signalled = False

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: OnLine = None,
        on_error: OnLine = None,
    ) -> automation.CommandResult:
        """Raises automation.CommandError when it fails."""
        environment = {**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"}
        with subprocess.Popen(  # noqa: S603 - an argument list
            [self.command, "--non-interactive", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            out, err = _Reader(process.stdout, on_output), _Reader(process.stderr, on_error)
            with self._passing_signals_to(process):
                code = process.wait()
            result = automation.CommandResult(stdout=out.text(), stderr=err.text(), code=code)
        if code != 0:
            raise create_command_error(result)
        return result

    @contextlib.contextmanager
    def _passing_signals_to(self, process: subprocess.Popen[str]) -> Iterator[None]:
        def passed(_number: int, _frame: object) -> None:
            self.signalled = True
            process.send_signal(signal.SIGINT)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, passed) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Reader(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, stream: IO[str] | None, told: OnLine) -> None:
        super().__init__(daemon=True)
        assert stream is not None
        self.stream, self.told, self.lines = stream, told, list[str]()
        self.start()

    def run(self) -> None:
        for line in self.stream:
            self.lines.append(line.rstrip())
            if self.told:
                self.told(line.rstrip())

    def text(self) -> str:
        self.join()
        return "\n".join(self.lines)


class Engine:
    """Operations on a target's stack. Each raises Failure with the reason and the resource."""

    def __init__(self, target: Target, display: Display) -> None:
        # a stream of events that breaks off is warned of, by a thread, where `pulumi` itself tells it better
        warnings.filterwarnings("ignore", module=r"pulumi\.automation\._stack")
        self.target, self.display = target, display
        self.program = Program()
        self.workspace = automation.LocalWorkspace(
            work_dir=str(target.project),
            pulumi_command=self.program,
            env_vars={
                **target.environment,
                "PULUMI_BACKEND_URL": target.backend,
                "PULUMI_SKIP_UPDATE_CHECK": "true",
                # a language host without support for Pulumi.yaml's `virtualenv` takes the first on PATH
                "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
            },
        )

    def open(self, *, create: bool) -> automation.Stack:
        """The stack. Made when missing and `create`; otherwise a missing one raises Failure."""
        name = self.target.stack
        with self.explained():
            try:
                return automation.Stack.select(name, self.workspace)
            except automation.StackNotFoundError as error:
                if not create:
                    hint = (
                        f"There is no stack {name} in {self.target.backend}; `ironyard platform up` makes it."
                    )
                    raise Failure(hint, Exit.NOT_FOUND) from error
            made = automation.Stack.create(name, self.workspace)
        self.display.say(f"Stack {name} is new; its state is kept in {self.target.backend}.")
        return made

    def follow(self, title: str, act: Callable[[OnEvent], Any], *, expected: int | None = None) -> Tally:
        """Run one operation and show its progress; what it did."""
        with self.display.following(title, expected) as tally, self.explained(tally):
            act(tally.take)
        if self.program.signalled:
            raise self._stopped()
        return tally

    def preview(self, stack: automation.Stack, *, title: str = "Comparing", refresh: bool = False) -> Tally:
        """What an update would change; with `refresh`, after looking at what is really there."""
        return self.follow(
            title, lambda told: stack.preview(on_event=told, refresh=refresh or None, **self._policies())
        )

    def up(self, stack: automation.Stack, *, expected: int, refresh: bool = False) -> Tally:
        return self.follow(
            "Updating",
            lambda told: stack.up(
                on_event=told, refresh=refresh or None, show_secrets=False, **self._policies()
            ),
            expected=expected,
        )

    def command(self, *arguments: str) -> str:
        """One `pulumi` command on the stack; its standard output."""
        with self.explained():
            found = self.program.run(
                [*arguments, "--stack", self.target.stack],
                self.workspace.work_dir,
                self.workspace.env_vars,
            )
        return str(found.stdout)

    def outputs(self, stack: automation.Stack) -> automation.OutputMap:
        with self.explained():
            return stack.outputs()

    def state(self) -> list[dict[str, Any]]:
        """The resources of the stack's state; secrets stay encrypted."""
        found: list[dict[str, Any]] = json.loads(self.command("stack", "export"))["deployment"].get(
            "resources", []
        )
        return found

    @contextlib.contextmanager
    def explained(self, tally: Tally | None = None) -> Iterator[None]:
        """Turns what the Automation API raises into Failure."""
        try:
            yield
        except automation.CommandError as error:
            raise self._failure(error, tally) from error

    def _failure(self, error: automation.CommandError, tally: Tally | None) -> Failure:
        """The reason in the engine's own words, and what to do where that is known."""
        name, text = self.target.stack, str(error)
        if self.program.signalled:
            return self._stopped()
        if isinstance(error, automation.ConcurrentUpdateError):
            return Failure(
                f"Stack {name} is locked: another run is at work on it, or one was killed. When none is, "
                f"`ironyard platform unlock --stack {name}` frees it.",
                Exit.CONFLICT,
            )
        if "incorrect passphrase" in text:
            return Failure(
                f"The passphrase is not the one of stack {name}; give the right one in "
                "PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE.",
                Exit.DENIED,
            )
        return Failure("\n  ".join(self._reasons(text, tally)))

    def _stopped(self) -> Failure:
        return Failure(f"Stopped. What was finished is in the state of stack {self.target.stack}.")

    def _reasons(self, text: str, tally: Tally | None) -> list[str]:
        if tally and tally.refused:
            refused = [f"{fault}" for fault in tally.refused]
            return ["The policies refuse this stack, and nothing more was changed:", *refused]
        reasons = list(dict.fromkeys(str(fault) for fault in tally.faults)) if tally else []
        if not reasons:
            reasons = _complaints(text)
        if (
            any("policy pack" in reason or "analyzer" in reason for reason in reasons)
            and self.target.policies
        ):
            reasons.append("Where policies cannot run, --no-policies leaves them out.")
        if tally and tally.said:
            reasons += ["Besides, it was said:", *tally.said[-SAID:]]
        if tally and tally.done:
            reasons.append(f"{len(tally.done)} changes were made before.")
        return reasons

    def _policies(self) -> dict[str, Any]:
        packs = [str(path) for path in self.target.policies]
        configs = [str(path) for path in self.target.policy_configs]
        return {"policy_packs": packs or None, "policy_pack_configs": configs or None}


def _complaints(text: str) -> list[str]:
    """What `pulumi` said on standard error; the Automation API puts all streams into one text."""
    _, _, said = text.rpartition("\n stderr:")
    lines = [line for line in map(plain, said.splitlines()) if line and not line.startswith("warning:")]
    wrong = [plain(line) for line in said.splitlines() if "error:" in line]
    code = re.search(r"code: (-?\d+)", text)
    return wrong or lines or [f"pulumi ended without a word (code {code[1] if code else 'unknown'})."]
