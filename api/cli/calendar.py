"""`reservations` and `notices`: what is set aside for when, and what one should know of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import connect
from api.cli.hosts import find
from api.cli.options import Json, Newest, moment

COLUMNS = ("workspace", "host", "index", "model", "begins", "ends", "free at", "allocation")
NOTICE_COLUMNS = ("at", "kind", "about", "text")
Workspace = Annotated[str | None, typer.Option("--workspace", "-w", help="Slug or id.")]


def reservations(
    host: Annotated[str | None, typer.Option(help="Name or id of a host.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="ID", help="Of one GPU.")] = None,
    allocation: Annotated[str | None, typer.Option(metavar="ID", help="Of one allocation.")] = None,
    workspace: Workspace = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Windows that end after it.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Windows that begin before it.")
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed", help="Those that were begun or given up as well.")
    ] = False,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """Show which GPUs are set aside for when, in the order in which their windows begin."""
    with connect() as client:
        filters = {
            "host_id": find(client, host)["id"] if host else None,
            "gpu_id": gpu,
            "allocation_id": allocation,
            "workspace": workspace,
            "from": moment(begin).isoformat() if begin else None,
            "to": moment(end).isoformat() if end else None,
            "closed": closed or None,
        }
        rows = client.pages("/reservations", limit=limit, **filters)
    rows.sort(key=lambda row: (row["starts_at"], row["host"], row["index"]))
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


def notices(
    kind: Annotated[str | None, typer.Option(help="Such as allocation.expiring.")] = None,
    about: Annotated[
        str | None, typer.Option(metavar="ID", help="Of an allocation or another thing.")
    ] = None,
    workspace: Workspace = None,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """Show what you should know of: ends that come near, what is late, soft limits that were crossed."""
    with connect() as client:
        rows = client.pages("/notices", limit=limit, kind=kind, subject_id=about, workspace=workspace)
    output.show(rows, NOTICE_COLUMNS, (_notice(row) for row in rows), as_json=as_json)


def _row(row: Any) -> tuple[Any, ...]:
    times = (output.moment(row[name]) for name in ("starts_at", "ends_at", "free_at"))
    return (row["workspace"], row["host"], row["index"], row["model"], *times, row["allocation_id"])


def _notice(row: Any) -> tuple[Any, ...]:
    return output.since(row["at"]), row["kind"], row["subject_id"], row["text"]
