"""`ironyard health`: for the health checks of containers and pods, where nothing else answers."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli import local, output
from api.cli.exits import Exit, Failure
from api.cli.options import Json

PATIENCE = 3.0  # seconds
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where an API on every address is asked


def health(
    worker: Annotated[bool, typer.Option("--worker", help="Look for a worker of this machine.")] = False,
    as_json: Json = False,
) -> None:
    """Ask whether the API of this machine answers; with --worker, whether a worker of it lives."""
    chosen = local.settings()
    if worker:
        found = local.workers_here(chosen)
        if not found:
            raise Failure("No worker of this machine has given a sign of life.", Exit.FAILED)
        detail = f"{found} workers alive"
    else:
        host = EVERYWHERE.get(chosen.host, chosen.host)
        url = f"http://[{host}]:{chosen.port}" if ":" in host else f"http://{host}:{chosen.port}"
        _ask(f"{url}/health/live")
        detail = f"{url} answers"
    if as_json:
        output.emit({"healthy": True, "detail": detail})
    else:
        print(f"{detail}.")


def _ask(url: str) -> None:
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    try:
        build_opener(ProxyHandler({})).open(url, timeout=PATIENCE).close()
    except (URLError, OSError) as error:
        raise Failure(f"Nothing answers at {url}: {error}.", Exit.FAILED) from error
