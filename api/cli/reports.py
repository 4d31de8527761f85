"""`ironyard report` and `ironyard audit`: what was used, and who changed what."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import connect
from api.cli.commands import group
from api.cli.options import Json, Newest, moment

app = group()
audit = group()
ROUTE = "/admin/reports/usage"
HOUR = 3600


class Format(StrEnum):
    CSV = "csv"
    JSON = "json"


@app.command()
def usage(
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Date or RFC 3339; absent: this month.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Exclusive; absent: now.")] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Absent: a summary to read.")] = None,
    to_file: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="CSV unless --format json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Each hold with its GPU-seconds, and how each GPU's enrolled time was spent."""
    now = datetime.now(UTC)
    since = moment(start) if start else now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    window = {"from": since.isoformat(), "to": (moment(end) if end else now).isoformat()}
    if as_json:
        form = Format.JSON
    with connect() as client:
        if form is Format.CSV or (to_file and form is None):
            text = client.text(ROUTE, format="csv", **window)
        else:
            report = client.get(ROUTE, **window)
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if to_file:
        to_file.write_text(text, newline="")
        output.say(f"Wrote {to_file}.")
    elif form:
        print(text, end="")
    else:
        _summary(report)


def _summary(report: Any) -> None:
    print(f"From {report['start']} to {report['end']}\n")
    seconds: dict[tuple[str, str], int] = defaultdict(int)
    for line in report["usage"]:
        seconds[line["workspace"], line["model"]] += line["gpu_seconds"]
    output.table(
        ("workspace", "model", "GPU-seconds", "GPU-hours"),
        ((*who, spent, f"{spent / HOUR:.2f}") for who, spent in sorted(seconds.items())),
    )
    print()
    parts = ("enrolled", "allocated", "idle", "reclaiming", "maintenance")
    output.table(
        ("host", "GPU", "model", *(f"{part} s" for part in parts)),
        (
            (line["host"], line["gpu_uuid"], line["model"], *(line[f"{part}_seconds"] for part in parts))
            for line in report["capacity"]
        ),
    )


@audit.command("list")
def list_audit(
    subject: Annotated[str | None, typer.Option(metavar="ID", help="Only what happened to this.")] = None,
    action: Annotated[str | None, typer.Option(help="Such as allocation.claimed.")] = None,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """List the audit trail, newest first."""
    with connect() as client:
        rows = client.pages("/admin/audit", limit=limit, subject_id=subject, action=action)
    columns = ("at", "who", "action", "subject", "before", "after", "reason")
    names = ("actor", "action", "subject_id", "before", "after", "reason")
    output.show(
        rows,
        columns,
        ((output.moment(row["at"]), *(row[name] for name in names)) for row in rows),
        as_json=as_json,
    )
