"""The facade's image, built and run for real: without root, on a root file system that cannot be written."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg
import pytest

from tests.image.build import build
from tests.lab import Lab, LabError
from tests.lab.fleet import load
from tests.lab.run import run
from tests.support.postgres import PostgresServer, free_port
from tests.support.server import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.postgres, pytest.mark.timeout(1800)]
PREFIX = f"img{os.environ.get('PYTEST_XDIST_WORKER', '')}"
UID = "10001"
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    f"--tmpfs=/var/lib/ironyard:uid={UID},gid={UID},mode=0700",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=host",  # the tests' PostgreSQL and hosts are on this machine
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(ROOT / ".ironyard" / PREFIX, prefix=PREFIX)
    try:
        made.ensure_engine()
        made.down()
    except LabError as error:
        pytest.skip(str(error))
    yield made
    made.down()


@pytest.fixture(scope="module")
def image(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tag = build(tmp_path_factory.mktemp("context"))
    yield tag
    run("docker", "rmi", tag, check=False)


@dataclass
class Facade:
    """Containers of the image with the settings of one installation."""

    image: str
    settings: dict[str, str]

    def once(self, *command: str) -> str:
        """What a command prints that ends by itself."""
        return run("docker", "run", "--rm", *self._options(), self.image, *command)

    @contextmanager
    def running(self, *command: str, health: str = "ironyard health") -> Iterator[str]:
        """The name of a container that is healthy by its own check; it must end well when it is stopped."""
        name = f"{PREFIX}-{uuid.uuid4().hex[:8]}"
        check = ("--health-interval=1s", "--health-start-period=1s", "--health-retries=120")
        options = (f"--name={name}", f"--health-cmd={health}", *check, *self._options())
        run("docker", "run", "--detach", *options, self.image, *command)
        try:
            until(lambda: inspect(name)["State"]["Health"]["Status"] == "healthy", lambda: logs(name))
            yield name
            run("docker", "stop", "--time", "60", name)
            assert inspect(name)["State"]["ExitCode"] == 0, logs(name)
        finally:
            run("docker", "rm", "--force", "--volumes", name)

    def _options(self) -> list[str]:
        return [*HARDENED, *(f"--env=IRONYARD_{name.upper()}={text}" for name, text in self.settings.items())]


def inspect(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("docker", "inspect", name))[0]
    return found


def logs(name: str) -> str:
    return f"{inspect(name)['State']}\n{run('docker', 'logs', '--tail', '50', name)}"


def until(true: Callable[[], bool], what: Callable[[], object], *, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def facade(image: str, postgres: PostgresServer) -> Iterator[Facade]:
    name = f"image_{uuid.uuid4().hex[:8]}"
    settings = {
        "database_url": postgres.create(name),
        "token_secret": "t" * 40,
        "encryption_secret": "e" * 40,
        "proof_secret": "p" * 40,
        "host": "127.0.0.1",
        "port": str(free_port()),
        "processes": "2",
    }
    yield Facade(image, settings)
    postgres.drop(name)


def inside(image: str, script: str) -> str:
    return run("docker", "run", "--rm", "--entrypoint=sh", image, "-ec", script)


def test_it_runs_as_somebody_without_rights(image: str) -> None:
    configured = inspect(image)["Config"]
    assert configured["User"] == f"{UID}:{UID}"
    assert configured["Entrypoint"][-1] == "ironyard"
    assert configured["Healthcheck"]["Test"] == ["CMD", "ironyard", "health"]
    assert inside(image, "id -u; id -g").split() == [UID, UID]
    writable = (
        "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null || true"
    )
    allowed = ("/tmp", "/var/tmp", "/run/lock", "/var/lib/ironyard")
    found = [path for path in inside(image, writable).split() if not path.startswith(allowed)]
    assert found == []


def test_it_has_what_the_platform_needs_and_nothing_of_its_tests(image: str) -> None:
    listed = inside(image, "ls /opt/ironyard").split()
    assert {"api", "playbooks", "inventory", "templates", "stacks", "ansible.cfg"} <= set(listed)
    assert not {"tests", "build", "Dockerfile", ".git"} & set(listed)
    inside(image, "ansible-playbook --version && ssh -V && ssh-agent true && command -v ssh-keyscan")
    show = (
        "from importlib.metadata import distributions as d; print(*(x.metadata['Name'].lower() for x in d()))"
    )
    installed = set(inside(image, f'python -c "{show}"').split())
    assert {"ironyard", "fastapi", "pulumi", "ansible-core"} <= installed
    assert not {"pytest", "mypy", "ruff", "ansible-lint"} & installed
    assert inside(image, "ironyard --version").startswith("ironyard ")


def test_the_build_leaves_no_trace_of_its_package_index(image: str) -> None:
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "PIP_" not in history
    assert "PIP_" not in " ".join(inspect(image)["Config"]["Env"])


def test_without_secrets_it_does_not_start(image: str) -> None:
    with pytest.raises(LabError, match="IRONYARD_TOKEN_SECRET must be set"):
        run("docker", "run", "--rm", image)


def test_migrations_api_and_worker(facade: Facade) -> None:
    assert facade.once("db", "upgrade").startswith("The database went from empty to")
    assert "one-time password" in facade.once("db", "bootstrap")
    assert facade.once("db", "upgrade").startswith("The database is at")
    with psycopg.connect(facade.settings["database_url"]) as connection:
        assert connection.execute("SELECT role FROM users").fetchall() == [("administrator",)]
    url = f"http://127.0.0.1:{facade.settings['port']}"
    with facade.running("serve"):
        assert httpx.get(f"{url}/health/live").json() == {"status": "live"}
        ready = httpx.get(f"{url}/health/ready")
        assert ready.status_code == 503
        assert {name: check["ok"] for name, check in ready.json()["checks"].items()} == {
            "database": True,
            "migrations": True,
            "worker": False,
        }
        with facade.running("worker", health="ironyard health --worker"):
            assert httpx.get(f"{url}/health/ready").status_code == 200
            assert "ironyard_workers_alive 1.0" in httpx.get(f"{url}/metrics").text


def test_its_worker_enrolls_a_host(facade: Facade, lab: Lab) -> None:
    facade.once("db", "upgrade")
    facade.once("db", "bootstrap")
    password = json.loads(facade.once("user", "reset-password", "admin@ironyard.local", "--json"))
    (host,) = lab.up(load()[2:])
    with (
        facade.running("serve"),
        facade.running("worker", health="ironyard health --worker"),
        signed_in(facade, password["one_time_password"]) as client,
    ):
        body = {"name": host.name, "address": host.address, "region": host.region, "ssh_user": host.user}
        made = client.post("/hosts", json=body | {"key": Path(host.key_file).read_text()})
        assert made.status_code == 202, made.text
        host_id = made.json()["host"]["id"]

        def state() -> Any:
            return client.get(f"/hosts/{host_id}").json()

        until(lambda: state()["state"] in ("idle", "maintenance"), state, seconds=900)
        assert state()["state"] == "idle", (state()["failed_step"], state()["failed_reason"])
        assert len(state()["gpu_list"]) == 2


@contextmanager
def signed_in(facade: Facade, password: str) -> Iterator[httpx.Client]:
    base = f"http://127.0.0.1:{facade.settings['port']}/api/v1"
    body = {"email": "admin@ironyard.local", "password": password}
    token = httpx.post(f"{base}/auth/token", json=body).json()["access_token"]
    with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        yield client
