"""OpenStack Placement as its package has it, on a database of the benchmark's PostgreSQL server."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import psutil

from tests.bench.load import Answer, Script, Wire, family, request, together
from tests.support.postgres import free_port
from tests.support.server import running

PACKAGES = ("openstack-placement==16.*", "psycopg2-binary", "uwsgi")
PROCESSES, THREADS = 2, 8  # the quickest of those tried for 16 clients on two cores
RESOURCE = "CUSTOM_GPU"
CANDIDATES = 10  # of which a client takes one; Nova asks for up to a thousand
ATTEMPTS = 4  # as often as Nova tries again when a provider was changed under its hands
CHANGED = b"placement.concurrent_update"
HEADERS = {"x-auth-token": "admin", "openstack-api-version": "placement 1.39"}
CONFIGURATION = """\
[api]
auth_strategy = noauth2
[placement]
randomize_allocation_candidates = True
[placement_database]
connection = {url}
"""


def installed() -> Path:
    """The `bin` folder of a virtual environment with the real package, made once and kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ironyard" / "peers"
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / f"placement-16-python{sys.version_info.major}.{sys.version_info.minor}"
    with (cache / ".placement.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            print("installing OpenStack Placement (once; uWSGI needs a C compiler)", file=sys.stderr)
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PACKAGES], check=True)
            (place / "ready").touch()
    return place / "bin"


class Peer:
    """Its server, filled with providers of GPUs."""

    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid
        self.providers: list[str] = []
        self.owner = str(uuid.uuid4())

    def processes(self) -> list[psutil.Process]:
        return family(self.pid)

    def fill(self, hosts: int, gpus: int) -> None:
        wire = Wire(self.url)
        _expect(wire.ask(request("PUT", f"/resource_classes/{RESOURCE}", HEADERS)), 201, 204)
        self.providers = [self.provider(wire, gpus) for _ in range(hosts)]
        wire.close()

    def provider(self, wire: Wire, gpus: int) -> str:
        """One resource provider with an inventory of so many GPUs."""
        own = str(uuid.uuid4())
        named = json.dumps({"name": own, "uuid": own}).encode()
        _expect(wire.ask(request("POST", "/resource_providers", HEADERS, named)), 200)
        has = {"resource_provider_generation": 0, "inventories": {RESOURCE: {"total": gpus}}}
        path = f"/resource_providers/{own}/inventories"
        _expect(wire.ask(request("PUT", path, HEADERS, json.dumps(has).encode())), 200)
        return own

    def used(self, wire: Wire, provider: str) -> int:
        answer = wire.ask(request("GET", f"/resource_providers/{provider}/usages", HEADERS))
        return int(json.loads(_expect(answer, 200))["usages"][RESOURCE])

    def claim(self, provider: str, gpus: int) -> bytes:
        """The request of one new consumer for GPUs of one provider."""
        body = {
            "allocations": {provider: {"resources": {RESOURCE: gpus}}},
            "project_id": self.owner,
            "user_id": self.owner,
            "consumer_generation": None,
            "consumer_type": "INSTANCE",
        }
        return request("PUT", f"/allocations/{uuid.uuid4()}", HEADERS, json.dumps(body).encode())

    def on_known_providers(self) -> Callable[[], Script]:
        """One claim a script, of the next provider: a client that has nothing to choose."""
        following = cycle(self.providers)

        def script() -> Script:
            status, _ = yield self.claim(next(following), 1)
            return status == 204

        return script

    def by_candidates(self) -> Callable[[], Script]:
        """One claim a script, as a scheduler makes it: ask who could, choose one, claim it, else anew."""
        look = request("GET", f"/allocation_candidates?resources={RESOURCE}:1&limit={CANDIDATES}", HEADERS)

        def script() -> Script:
            for _ in range(ATTEMPTS):
                found = json.loads(_expect((yield look), 200))["allocation_requests"]
                if not found:
                    return False
                (provider,) = random.choice(found)["allocations"]
                status, _ = yield self.claim(provider, 1)
                if status == 204:
                    return True
            return False

        return script

    def race(self, wires: list[Wire], rounds: int, gpus: int) -> tuple[int, int]:
        """Rounds in which one provider was over-allocated, and the most GPUs that were in use of one.

        All clients claim at once, in turn one GPU each and all of the provider's.
        """
        over = worst = 0
        for number in range(rounds):
            provider = self.provider(wires[0], gpus)
            wanted = 1 if number % 2 == 0 else gpus
            trying = wires
            for _ in range(ATTEMPTS):
                asked = [(wire, self.claim(provider, wanted)) for wire in trying]
                answers = zip(trying, together(asked), strict=True)
                trying = [wire for wire, (status, body) in answers if status == 409 and CHANGED in body]
            used = self.used(wires[0], provider)
            over, worst = over + (used > gpus), max(worst, used)
        return over, worst


def _expect(answer: Answer, *statuses: int) -> bytes:
    if answer[0] not in statuses:
        raise RuntimeError(f"Placement answered {answer[0]}: {answer[1].decode()}")
    return answer[1]


@contextmanager
def placement(database_url: str, directory: Path) -> Iterator[Peer]:
    """The service, with its tables, under uWSGI and its HTTP router; stopped at the end."""
    programs = installed()
    url = database_url.replace("postgresql://", "postgresql+psycopg2://")
    configuration = directory / "placement.conf"
    configuration.write_text(CONFIGURATION.format(url=url))
    env = os.environ | {"OS_PLACEMENT_CONFIG_DIR": str(directory)}
    sync = [str(programs / "placement-manage"), "--config-file", str(configuration), "db", "sync"]
    subprocess.run(sync, check=True, env=env, stdout=subprocess.DEVNULL)
    port = free_port()
    serve = f"--http 127.0.0.1:{port} --http-keepalive --module placement.wsgi.api:application --master"
    sized = f"--processes {PROCESSES} --threads {THREADS} --enable-threads --lazy-apps"
    quiet = "--disable-logging --die-on-term"
    command = [str(programs / "uwsgi"), *f"{serve} {sized} {quiet}".split()]
    with running(command, directory / "placement.log", env) as process:
        peer = Peer(f"http://127.0.0.1:{port}", process.pid)
        _wait(peer.url)
        yield peer


def _wait(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            wire = Wire(url)
            _expect(wire.ask(request("GET", "/", HEADERS)), 200)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            wire.close()
            return
