"""What every step's module shares: one result shape, one way to fail, one way to run a command."""

from __future__ import annotations

import os
import subprocess
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from ansible.module_utils import libc

MAX_EVIDENCE = 100
MAX_PATHS = 200
SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"  # a tenant's own come last

# An account's own settings must not lead a client to another engine.
ENVIRONMENT = {
    "LC_ALL": "C",
    "PATH": SEARCH_PATH,
    "DOCKER_CONFIG": "/var/empty/ironyard",
    "DOCKER_HOST": "unix:///run/docker.sock",
}


class StepFailed(Exception):
    """The step cannot go on; the message is for people, the evidence is what was seen."""

    def __init__(self, message: str, evidence: list[str] | None = None, **result: Any) -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence or []
        self.result = result


@dataclass(frozen=True)
class Ran:
    """A finished command. ``code`` is 127 when the program does not exist and 124 after a time-out."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    def tail(self, limit: int = 300) -> str:
        said = (self.err.strip() or self.out.strip())[-limit:]
        return f"{' '.join(self.argv)}: exit {self.code}: {said}"


def run(*argv: str, timeout: float = 60.0, feed: str | None = None) -> Ran:
    """Run a command without a shell, in the C locale, with the system's own search path.

    ``timeout`` in seconds.
    """
    env = {**os.environ, **ENVIRONMENT}
    try:
        done = subprocess.run(
            argv, check=False, capture_output=True, timeout=timeout, env=env, input=(feed or "").encode()
        )
    except FileNotFoundError:
        return Ran(argv, 127, "", f"{argv[0]}: not found")
    except subprocess.TimeoutExpired:
        return Ran(argv, 124, "", f"no answer within {timeout:g} s")
    return Ran(argv, done.returncode, _text(done.stdout), _text(done.stderr))


def must(*argv: str, timeout: float = 60.0) -> Ran:
    """Run a command that has to succeed; raises StepFailed with what it said."""
    ran = run(*argv, timeout=timeout)
    if not ran.ok:
        raise StepFailed(f"'{' '.join(argv)}' failed", [ran.tail()])
    return ran


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


@dataclass
class Step:
    """What one step did so far. ``removed`` counts by kind; ``check`` means: say it, do not do it."""

    name: str
    check: bool = False
    changed: bool = False
    removed: dict[str, int] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)
    paths_dropped: int = 0
    evidence: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def gone(self, kind: str, what: str, count: int = 1) -> None:
        self.changed = True
        self.removed[kind] = self.removed.get(kind, 0) + count
        listed = self.paths.setdefault(kind, [])
        if len(listed) < MAX_PATHS:
            listed.append(_plain(what)[:400])
        else:
            self.paths_dropped += 1
        self.note(f"{kind}: {what}")

    def did(self, what: str) -> None:
        self.changed = True
        self.note(what)

    def note(self, what: str) -> None:
        if len(self.evidence) < MAX_EVIDENCE:
            self.evidence.append(_plain(" ".join(what.split()))[:400])

    def result(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "changed": self.changed,
            "seconds": round(time.monotonic() - self.began, 3),
            "removed": self.removed,
            "paths": self.paths,
            "paths_dropped": self.paths_dropped,
            "evidence": self.evidence[:MAX_EVIDENCE],
        }


def _plain(text: str) -> str:
    """Names of a tenant may be no text at all; the report is."""
    return text.encode("utf-8", "backslashreplace").decode()


Body = Callable[[Step, dict[str, Any]], Optional[dict[str, Any]]]


def perform(step: Step, params: dict[str, Any], body: Body) -> tuple[bool, dict[str, Any]]:
    """Run a step's body; returns (succeeded, the module's result). Evidence of a failure comes first."""
    try:
        extra = body(step, params) or {}
    except StepFailed as failed:
        step.evidence = [*failed.evidence, *step.evidence]
        return False, {**step.result(), **failed.result, "msg": failed.message}
    except (OSError, ValueError, LookupError, TypeError, subprocess.SubprocessError) as error:
        step.evidence.insert(0, f"at {_where(error)}")
        return False, {**step.result(), "msg": f"{step.name}: {type(error).__name__}: {error}"}
    return True, {**step.result(), **extra}


def _where(error: BaseException) -> str:
    """The functions and lines that led to an unforeseen error, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " > ".join(f"{os.path.basename(one.filename)}:{one.lineno} {one.name}" for one in frames)


_CALL: list[tuple[Any, dict[str, Any]]] = []  # by ironyard_step: its AnsibleModule and the arguments for ours


def call(main: Callable[[], None], module: Any, arguments: dict[str, Any]) -> None:
    """Run another module's main() inside this module, with these arguments."""
    _CALL[:] = [(module, arguments)]
    main()


def run_module(name: str, argument_spec: dict[str, Any], body: Body) -> None:
    """The whole of a module's main()."""
    module, params = _opened(argument_spec)
    see_the_host()
    succeeded, result = perform(Step(name, check=module.check_mode), params, body)
    small = {key: given for key, given in params.items() if key != "manifest"}
    result["invocation"] = {"module_args": small}  # nor for every result
    if succeeded:
        module.exit_json(**result)
    module.fail_json(**result)


def _opened(argument_spec: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The running AnsibleModule and the checked arguments."""
    if _CALL:
        from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
        from ansible.module_utils.errors import UnsupportedError

        module, arguments = _CALL[0]
        checked = ArgumentSpecValidator(argument_spec).validate(arguments)
        if checked.errors.errors:
            said = [
                f"Unsupported parameters: {error.msg}" if isinstance(error, UnsupportedError) else error.msg
                for error in checked.errors.errors
            ]
            module.fail_json(msg="; ".join(said))
        return module, checked.validated_parameters
    from ansible.module_utils.basic import AnsibleModule

    # no_log: the arguments hold the manifest, which is nothing for the host's journal
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True, no_log=True)
    return module, module.params


def see_the_host() -> None:
    """A connection may have been given file systems of its own (PrivateTmp=, pam_namespace): leave them."""
    if os.geteuid() == 0:
        libc.join_mounts(1)


def require_manifest(manifest: dict[str, Any] | None) -> dict[str, Any]:
    """The enrolment record, or StepFailed: without it nothing tells the platform's things from a tenant's."""
    if not manifest:
        raise StepFailed("the host has no manifest: it was never enrolled, so nothing proves what is clean")
    if manifest.get("format") != 2:
        raise StepFailed(
            f"the host's manifest has format {manifest.get('format')!r}, this playbook reads format 2: "
            "enroll the host again (with manifest_rebaseline=true, when it is known to be clean)"
        )
    return manifest
