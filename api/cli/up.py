"""`ironyard up`: the whole platform on this machine with one command."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from api.cli import enrollment, local, output
from api.cli.client import Client
from api.cli.credentials import DEFAULT_URL
from api.cli.exits import Failure
from api.cli.local import OWNER_ONLY, Prepared
from api.cli.supervisor import Child, Supervisor

if TYPE_CHECKING:
    from api.settings import Settings

READY_SECONDS = 120.0
GIVE_UP = 3  # deaths of a child before the platform was ever ready
PROBE_SECONDS = 2.0
PYTHON = (sys.executable, "-P", "-m")
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - where to reach such a server


def up(
    enroll_from: Annotated[
        str | None,
        typer.Option(
            metavar="'PROGRAM ARGS'", help="A program that prints hosts to enroll, one JSON a line."
        ),
    ] = None,
) -> None:
    """Start the platform: database, API and worker, until Ctrl-C; safe to run again."""
    chosen = local.settings()
    chosen.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = address(chosen)
    with _only_one(chosen, url):
        _refuse_taken_port(chosen, url)
        Platform(chosen, url).run(enroll_from)


class Platform:
    """One run of `ironyard up`."""

    def __init__(self, chosen: Settings, url: str) -> None:
        self.chosen = chosen
        self.url = url
        self.console = output.console()
        self.stopping = threading.Event()
        self.hurry = threading.Event()
        logs = chosen.data_dir / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        self.children = [
            Child(name, [*PYTHON, "api.cli", name], logs / f"{name}.log", self.say)
            for name in ("serve", "worker")
        ]

    def run(self, enroll_from: str | None) -> None:
        """Until a signal; then everything that was started has ended."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self.say("Preparing the database…")
        prepared = self._prepare()
        banner = Banner(self, prepared)
        supervisor = Supervisor(self.children)
        if self.stopping.is_set():
            banner.password_at_least()
            return
        with contextlib.ExitStack() as stack:
            stack.callback(banner.password_at_least)
            program = self._program(enroll_from)
            if program is not None:
                stack.callback(program.stop)
            stack.callback(self._stop, supervisor)
            supervisor.start()
            if self._wait_until_ready():
                banner.running()
                if program is not None:
                    self._fleet(program, prepared.token)
            if not self.stopping.is_set():
                banner.next_steps()
                self.stopping.wait()

    def say(self, sentence: str) -> None:
        self.console.print(output.clean(sentence), markup=False)

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self.stopping.is_set():
            self.hurry.set()
        self.stopping.set()

    def _stop(self, supervisor: Supervisor) -> None:
        self.say("Stopping…")
        supervisor.stop(self.hurry)
        self.say("Stopped.")

    def _prepare(self, *options: str) -> Prepared:
        done = subprocess.run(  # noqa: S603 - our own command
            [*PYTHON, "api.cli.prepare", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            umask=OWNER_ONLY,
        )
        if done.returncode != 0:
            words = done.stderr.strip().splitlines()
            raise Failure(words[-1] if words else "The database could not be prepared.")
        return Prepared(**json.loads(done.stdout))

    def _program(self, command: str | None) -> enrollment.Program | None:
        if command is None:
            return None
        try:
            return enrollment.Program(command, self.say)
        except Failure as failure:
            self.say(f"No fleet: {failure.sentence}")
            return None

    def _wait_until_ready(self) -> bool:
        """False when stopped before. Raises Failure when it does not come up."""
        deadline = time.monotonic() + READY_SECONDS
        missing = "no answer"
        while not self.stopping.is_set():
            ready, missing = probe(f"{self.url}/health/ready")
            if ready:
                return True
            for child in self.children:
                if child.deaths >= GIVE_UP:
                    raise Failure(
                        f"The {child.name} process does not start{child.why()}; its log: {child.log}"
                    )
            if time.monotonic() > deadline:
                raise Failure(f"The platform was not ready within {READY_SECONDS:.0f} s: {missing}.")
            self.stopping.wait(0.2)
        return False

    def _fleet(self, program: enrollment.Program, token: str) -> None:
        while not program.ended():
            if self.stopping.wait(0.1):
                return
        try:
            hosts = program.hosts()
            renew = lambda: self._prepare("--only-token").token  # noqa: E731
            with Client(self.url, token, renew=renew, timeout=20.0) as client:
                found = enrollment.Fleet(client, self.say, self.stopping).enroll(hosts)
        except Failure as failure:
            self.say(f"No fleet: {failure.sentence}")
            return
        if found and not self.stopping.is_set():
            self.say(f"Fleet: {enrollment.summary(found)}.")


class Banner:
    """What a person needs to go on; the one-time password is shown whatever happens."""

    def __init__(self, platform: Platform, prepared: Prepared) -> None:
        self.platform = platform
        self.prepared = prepared
        self._told = prepared.password is None
        self._command = command()

    def running(self) -> None:
        self.platform.say(f"\nIronyard is running at {self.platform.url} (API reference: /docs)")
        if self.prepared.password is None:
            hint = f"{self._command} user reset-password {self.prepared.email}"
            self.platform.say(f"Sign in as {self.prepared.email}; a new one-time password: {hint}\n")
        else:
            self.password_at_least()

    def password_at_least(self) -> None:
        if not self._told:
            self.platform.say(
                f"Sign in as {self.prepared.email} with the one-time password {self.prepared.password}\n"
            )
            self._told = True

    def next_steps(self) -> None:
        elsewhere = "" if self.platform.url == DEFAULT_URL else f" --url {self.platform.url}"
        self.platform.say("\nTry next, in another terminal:")
        for arguments in (
            f"login --email {self.prepared.email}{elsewhere}",
            "allocate --gpus 1 --for 2h",
            "report usage",
        ):
            self.platform.say(f"  {self._command} {arguments}")
        self.platform.say(f"Logs are in {self.platform.chosen.data_dir / 'logs'}. Ctrl-C stops everything.")


def command() -> str:
    """How to call this program from here."""
    here = Path(sys.executable).parent / "ironyard"
    found = shutil.which("ironyard")
    if not here.exists() or (found and Path(found).resolve() == here.resolve()):
        return "ironyard"
    with contextlib.suppress(ValueError):
        return str(here.relative_to(Path.cwd()))
    return str(here)


def address(chosen: Settings) -> str:
    host = ANYWHERE.get(chosen.host, chosen.host)
    return f"http://[{host}]:{chosen.port}" if ":" in host else f"http://{host}:{chosen.port}"


def probe(url: str) -> tuple[bool, str]:
    """Whether the address answers 200, and what it says is missing when not."""
    import httpx2 as httpx

    try:
        answer = httpx.get(url, timeout=PROBE_SECONDS, trust_env=False)
        checks: dict[str, Any] = answer.json().get("checks", {})
    except (httpx.HTTPError, ValueError, AttributeError):
        return False, "no answer"
    missing = [f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"]]
    return answer.is_success, "; ".join(missing)


@contextlib.contextmanager
def _only_one(chosen: Settings, url: str) -> Any:
    """A lock that ends with this process, however it ends."""
    with (chosen.data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure(f"Ironyard runs here already{_holder(lock)}; stop it first.") from error
        lock.truncate(0)
        json.dump({"pid": os.getpid(), "url": url}, lock)
        lock.flush()
        yield


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    try:
        found = json.load(lock)
        return f" (process {found['pid']}, {found['url']})"
    except (ValueError, KeyError, TypeError):
        return ""


def _refuse_taken_port(chosen: Settings, url: str) -> None:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            chosen.host or None, chosen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise Failure(f"{chosen.host}:{chosen.port} cannot be listened on: {error.strerror}.") from error
        if probe(f"{url}/health/live")[0]:
            raise Failure(f"An Ironyard server runs at {url} already; stop it first.") from error
        raise Failure(
            f"Port {chosen.port} is used by another program; set IRONYARD_PORT to a free one."
        ) from error
