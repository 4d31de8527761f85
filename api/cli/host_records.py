"""`ironyard host reclaims` and its like: what is proven of a host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import connect
from api.cli.commands import group
from api.cli.hosts import Name, find
from api.cli.options import Json, Newest

app = group()
COLUMNS = ("number", "outcome", "at", "removed", "findings", "seconds", "manifest", "reason")
WORST_FIRST = ("CRITICAL", "UNKNOWN", "WARNING", "INFO", "PASS")
Out = Annotated[Path | None, typer.Option("--out", dir_okay=False, help="Write it to this file, as JSON.")]


@app.command()
def reclaims(host: Name, limit: Newest = 50, as_json: Json = False) -> None:
    """List a host's reclaims, newest first."""
    with connect() as client:
        rows = client.pages(f"/hosts/{find(client, host)['id']}/reclaims", limit=limit)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


@app.command("reclaim-record")
def reclaim_record(
    host: Name,
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1)],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Read the signed record of a reclaim: what was found, removed and verified."""
    with connect() as client:
        found = client.get(f"/hosts/{find(client, host)['id']}/reclaims/{number}")
    if out is not None:
        _write(out, found)
    elif as_json:
        output.emit(found)
    else:
        show_record(found["record"])


@app.command()
def manifest(
    host: Name,
    number: Annotated[int | None, typer.Option(min=1, help="Absent: the present one.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Read what a host was when it was enrolled, with the signature."""
    with connect() as client:
        found = client.get(f"/hosts/{find(client, host)['id']}/manifest", number=number)
    if out is not None:
        _write(out, found)
    elif as_json:
        output.emit(found)
    else:
        names = ("number", "digest", "index_digest", "created_at")
        output.details((name.replace("_", " "), found[name]) for name in names)
        parts = {
            name: len(part) for name, part in found["manifest"].items() if isinstance(part, (dict, list))
        }
        output.details((("records", ", ".join(f"{size} {name}" for name, size in parts.items()) or "-"),))


def show_record(record: dict[str, Any]) -> None:
    """A record in words."""
    manifest, playbook = record["manifest"] or {}, record["playbook"]
    output.details(
        (
            ("host", f"{record['host']['name']} ({record['host']['id']})"),
            ("number", record["number"]),
            ("method", record["method"]),
            ("outcome", record["outcome"]),
            ("failed step", record["failed_step"]),
            ("reason", record["reason"]),
            ("started", output.moment(record["started_at"])),
            ("seconds", record["seconds"]),
            ("compared with", f"manifest {manifest['number']}, {manifest['sha256']}" if manifest else None),
            ("playbook", f"{playbook['name']} {playbook['version']}, {playbook['sha256']}"),
            ("by", f"{record['operation']['worker']}, for {record['operation']['requested_by']}"),
            ("health", _worst(record["health"])),
        )
    )
    if record["steps"]:
        print()
        names = ("name", "status", "seconds", "removed")
        output.table(("step", *names[1:]), ([step.get(name) for name in names] for step in record["steps"]))
    for step in record["steps"]:
        for kind, paths in step["paths"].items():
            for path in paths:
                print(f"{step['name']}: {output.clean(kind)}: {output.clean(path)}")
    for finding in record["findings"]:
        print(f"finding: {output.clean(finding)}")


def _worst(health: dict[str, Any] | None) -> str | None:
    found = {str(check["verdict"]) for check in (health or {}).get("checks") or []}
    return next((verdict for verdict in WORST_FIRST if verdict in found), None)


def _write(to: Path, document: Any) -> None:
    to.write_text(json.dumps(document, indent=2) + "\n")
    output.say(f"Written to {to}.")


def _row(row: Any) -> tuple[Any, ...]:
    names = ("removed", "findings", "seconds", "manifest")
    at = output.since(row["created_at"])
    return (row["number"], row["outcome"], at, *(row[n] for n in names), output.one_line(row["reason"]))
