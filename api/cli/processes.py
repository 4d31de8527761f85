"""`ironyard serve`, `ironyard worker` and `ironyard db`: the parts of the platform, one at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from api.cli import local, output
from api.cli.commands import group
from api.cli.options import Json

database = group()
DRAIN = 10  # seconds for requests to end
UNRESPONSIVE = 30  # seconds after which one of several API processes is replaced
FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    host: Annotated[str | None, typer.Option(help="Absent: IRONYARD_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Absent: IRONYARD_PORT.")] = None,
    log_level: Annotated[Level, typer.Option()] = Level.INFO,
) -> None:
    """Run the API (IRONYARD_PROCESSES of them) until SIGTERM or Ctrl-C."""
    import uvicorn

    os.umask(local.OWNER_ONLY)
    local.end_with_supervisor()
    chosen = local.settings()
    with _shared_metrics(chosen.processes):
        uvicorn.run(
            "api.main:create_app",
            factory=True,
            host=host or chosen.host,
            port=port or chosen.port,
            workers=chosen.processes,
            loop="uvloop",
            http="httptools",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN,
            timeout_worker_healthcheck=UNRESPONSIVE,
            log_config=logging_to_stderr(log_level.value.upper()),
        )


@contextmanager
def _shared_metrics(processes: int) -> Iterator[None]:
    """Several processes count into one folder, so that each of them answers /metrics for all."""
    if processes == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ironyard-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # what the client library reads at its import
        yield


def worker() -> None:
    """Run background operations until SIGTERM or Ctrl-C."""
    os.umask(local.OWNER_ONLY)
    local.end_with_supervisor()
    chosen = local.settings()
    from api.worker import run

    run(chosen)


@database.command("upgrade")
def upgrade(as_json: Json = False) -> None:
    """Bring the database to this release's schema."""
    os.umask(local.OWNER_ONLY)
    before, after = local.upgrade(local.settings())
    if as_json:
        output.emit({"from": before, "to": after})
    elif before == after:
        print(f"The database is at {after} already.")
    else:
        print(f"The database went from {before or 'empty'} to {after}.")


@database.command("bootstrap")
def bootstrap(as_json: Json = False) -> None:
    """Create the first administrator and the workspace `default`; where users exist, nothing."""
    os.umask(local.OWNER_ONLY)
    made = local.prepare(local.settings())
    if as_json:
        output.emit({"email": made.email, "one_time_password": made.password})
    elif made.password is None:
        print(f"There are users already; {made.email} is an administrator.")
    else:
        print(f"{made.email} signs in with the one-time password {made.password}")


def logging_to_stderr(level: str) -> dict[str, Any]:
    """For uvicorn, which applies it in each of its processes."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": FORMAT}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "loggers": {name: {"level": "WARNING"} for name in ("alembic", "dbos")},
        "root": {"level": level, "handlers": ["stderr"]},
    }
