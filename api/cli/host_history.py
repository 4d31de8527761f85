"""`ironyard host usage` and `ironyard host log`: a host's time, and what happened to it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import connect
from api.cli.commands import group
from api.cli.hosts import Name, find
from api.cli.options import Json, Newest, moment

app = group()
COLUMNS = ("at", "source", "what", "by", "note")
HOUR = 3600


class Source(StrEnum):
    AUDIT = "audit"
    OPERATION = "operation"
    HEALTH = "health"


@app.command()
def usage(
    host: Name,
    start: Annotated[str | None, typer.Option("--from", help="Absent: 30 days before the end.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Absent: now.")] = None,
    as_json: Json = False,
) -> None:
    """Show how a host's time was spent, and its GPUs'."""
    window = {name: moment(text).isoformat() for name, text in (("from", start), ("to", end)) if text}
    with connect() as client:
        found = client.get(f"/hosts/{find(client, host)['id']}/usage", **window)
    if as_json:
        output.emit(found)
        return
    share = found["utilization"]
    output.details(
        (
            ("host", found["host"]),
            ("from", output.moment(found["start"])),
            ("to", output.moment(found["end"])),
            ("GPU time lent", None if share is None else f"{100 * share:.1f} %"),
        )
    )
    print()
    rows = [("host", state, seconds) for state, seconds in found["states"].items()]
    rows += [("GPUs", part, seconds) for part, seconds in found["gpu_seconds"].items()]
    columns = ("of", "spent", "hours", "seconds")
    output.table(columns, ((of, what, f"{seconds / HOUR:.1f}", seconds) for of, what, seconds in rows))
    for kind, states in found["operations"].items():
        print(f"{kind}: {', '.join(f'{number} {state}' for state, number in states.items())}")


@app.command()
def log(
    host: Name,
    source: Annotated[Source | None, typer.Option(help="Only audit, operation or health.")] = None,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """Show what happened to a host, newest first: changes, operations, failed health checks."""
    with connect() as client:
        rows = client.pages(f"/hosts/{find(client, host)['id']}/log", limit=limit, source=source)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


def _row(row: Any) -> tuple[Any, ...]:
    return (output.since(row["at"]), row["source"], row["what"], row["by"], _note(row))


def _note(row: Any) -> str:
    if row["reason"]:
        return output.one_line(row["reason"])
    detail = row["detail"]
    if row["source"] == "operation":
        return str(detail["state"])
    if row["source"] == "health":
        return "; ".join(
            f"{check['name']} of {check['scope']}: {check['detail']}" for check in detail["checks"]
        )
    after = detail["after"] or {}
    return ", ".join(f"{name}={value}" for name, value in after.items())
