"""`ironyard operations`: background work, its log and its outcome."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli import follow, output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.display import display
from api.cli.exits import Failure
from api.cli.hosts import find
from api.cli.options import Json, Newest, is_id, pick_id

app = group()
Id = Annotated[str, typer.Argument(metavar="ID", help="Or its unique beginning or end.")]
COLUMNS = ("id", "kind", "subject", "state", "step", "%", "created", "by", "reason")


@app.command("list")
def list_operations(
    state: Annotated[str | None, typer.Option()] = None,
    kind: Annotated[str | None, typer.Option(help="Such as host.enroll.")] = None,
    host: Annotated[str | None, typer.Option(help="Only of this host (name or id).")] = None,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """List operations, newest first."""
    with connect() as client:
        subject = find(client, host)["id"] if host else None
        rows = client.pages("/operations", limit=limit, state=state, kind=kind, subject_id=subject)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


@app.command()
def show(operation_id: Id, as_json: Json = False) -> None:
    """Look at one operation and what came of it."""
    with connect() as client:
        found = client.get(f"/operations/{_id(client, operation_id)}")
    if as_json:
        output.emit(found)
        return
    output.details(
        (
            ("operation", found["id"]),
            ("kind", found["kind"]),
            ("subject", found["subject"]),
            ("state", found["state"]),
            ("step", found["step"]),
            ("progress", f"{found['progress']} %"),
            ("reason", found["reason"]),
            ("by", found["requested_by"]),
            ("created", output.moment(found["created_at"])),
            ("started", output.moment(found["started_at"]) if found["started_at"] else None),
            ("ended", output.moment(found["ended_at"]) if found["ended_at"] else None),
            ("worker", found["worker"]),
            ("attempt", found["attempt"]),
        )
    )
    report = (found["outcome"] or {}).get("report") or {}
    if report.get("steps"):
        print()
        names = ("name", "status", "seconds", "changed", "removed")
        output.table(
            ("step", "status", "seconds", "changed", "removed"),
            ([step.get(name) for name in names] for step in report["steps"]),
        )
    for finding in report.get("findings") or []:
        print(f"finding: {output.clean(finding)}")


@app.command()
def watch(operation_id: Id, as_json: Json = False) -> None:
    """Follow an operation to its end, with its log; exit code 0 only when it succeeded."""
    with connect() as client:
        known = _id(client, operation_id)
        found, lines = follow.interruptible(
            lambda: _follow(client, known, as_json=as_json),
            lambda: client.post(f"/operations/{known}/cancel"),
        )
    if as_json:
        output.emit({"operation": found, "events": lines})
    if found["state"] != "succeeded":
        raise Failure(
            f"{found['kind']} of {found['subject']} {found['state']}: {output.one_line(found['reason'])}"
        )


def _follow(client: Client, known: str, *, as_json: bool) -> tuple[Any, list[Any]]:
    with display(stderr=as_json, quiet=as_json) as shown:
        return follow.operation(client, known, shown, log=not as_json)


@app.command()
def cancel(operation_id: Id, as_json: Json = False) -> None:
    """Ask an operation to stop; its host then goes to maintenance."""
    with connect() as client:
        found = client.post(f"/operations/{_id(client, operation_id)}/cancel")
    if as_json:
        output.emit(found)
    else:
        print(f"{found['kind']} of {found['subject']} was asked to stop.")


def _id(client: Client, wanted: str) -> str:
    if is_id(wanted):
        return wanted
    return pick_id(wanted, [row["id"] for row in client.pages("/operations", limit=1000)], "operation")


def _row(row: Any) -> tuple[Any, ...]:
    names = ("id", "kind", "subject", "state", "step", "progress")
    created = output.since(row["created_at"])
    return (*(row[name] for name in names), created, row["requested_by"], output.one_line(row["reason"]))
