"""`ironyard leaks`: what is held, lent or at work without a reason."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.options import Json, Newest, Yes, confirm, is_id, pick_id

app = group()
Id = Annotated[str, typer.Argument(metavar="ID", help="Or its unique beginning or end.")]
Reason = Annotated[str, typer.Option("--reason", help="Shown with the finding, and in the audit trail.")]
Hosts = Annotated[bool, typer.Option("--hosts", help="Also compare every idle host with its record.")]
COLUMNS = ("id", "kind", "state", "subject", "workspace", "owner", "action", "first seen", "acts", "detail")


@app.command("list")
def list_findings(
    kind: Annotated[str | None, typer.Option(help="Such as idle-gpu.")] = None,
    state: Annotated[str | None, typer.Option(help="open, warned, dismissed, acted or resolved")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Slug or id.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    scan: Annotated[bool, typer.Option("--scan", help="Look for leaks first.")] = False,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """List what is there now, newest first."""
    unresolved = None if all_of_them or state else True
    with connect() as client:
        if scan:
            _say(_scan(client, hosts=False))
        rows = client.pages(
            "/leaks", limit=limit, kind=kind, state=state, workspace=workspace, unresolved=unresolved
        )
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


@app.command("scan")
def scan_now(hosts: Hosts = False, as_json: Json = False) -> None:
    """Look for leaks now; warn, and do what was announced."""
    with connect() as client:
        found = _scan(client, hosts=hosts)
    if as_json:
        output.emit(found)
        return
    print(_counts(found))
    for unknown in found["unknown"]:
        print(f"unknown: {unknown['kind']} of {unknown['subjects']}: {unknown['reason']}")
    if found["group_id"]:
        print(f"\nFollow the look at the hosts: ironyard group watch {found['group_id']}")


@app.command()
def show(finding_id: Id, as_json: Json = False) -> None:
    """Look at one finding and its evidence."""
    with connect() as client:
        found = client.get(f"/leaks/{_id(client, finding_id)}")
    if as_json:
        output.emit(found)
    else:
        _details(found)


@app.command()
def dismiss(finding_id: Id, reason: Reason, as_json: Json = False) -> None:
    """Accept a finding for as long as it lasts."""
    _decide("dismiss", finding_id, reason, as_json=as_json)


@app.command()
def act(finding_id: Id, reason: Reason, yes: Yes = False, as_json: Json = False) -> None:
    """Do what a finding asks for, at once."""
    with connect() as client:
        found = client.get(f"/leaks/{_id(client, finding_id)}")
    confirm(f"{found['action']} of", found["subject"], yes=yes)
    _decide("act", found["id"], reason, as_json=as_json)


def _decide(what: str, finding_id: str, reason: str, *, as_json: bool) -> None:
    with connect() as client:
        path = f"/admin/leaks/{_id(client, finding_id)}/{what}"
        found = client.post(path, {"reason": reason})
    if as_json:
        output.emit(found)
    else:
        print(f"{found['kind']} of {found['subject']} is {found['state']}.")


def _scan(client: Client, *, hosts: bool) -> Any:
    return client.post("/admin/leaks/scan", {"hosts": hosts})


def _say(found: Any) -> None:
    """On standard error: what follows on standard output is the list."""
    output.say(_counts(found))
    unknown = sum(row["subjects"] for row in found["unknown"])
    if unknown:
        output.say(f"{unknown} could not be looked at; `ironyard leaks scan` tells why.")


def _counts(found: Any) -> str:
    changes = ", ".join(f"{found[name]} {name}" for name in ("opened", "warned", "acted", "resolved"))
    return f"{found['unresolved']} findings are there: {changes}."


def _id(client: Client, wanted: str) -> str:
    if is_id(wanted):
        return wanted
    return pick_id(wanted, [row["id"] for row in client.pages("/leaks")], "finding")


def _row(row: Any) -> tuple[Any, ...]:
    names = ("id", "kind", "state", "subject", "workspace", "owner", "action")
    acts = output.since(row["act_at"]) if row["act_at"] and row["state"] == "warned" else None
    return (*(row[name] for name in names), output.since(row["first_seen_at"]), acts, row["detail"])


def _details(found: Any) -> None:
    moments = {name: output.moment(found[f"{name}_at"]) or None for name in ("warned", "act", "resolved")}
    readings = found["evidence"].get("readings")
    evidence = {name: value for name, value in found["evidence"].items() if name != "readings"}
    output.details(
        (
            ("finding", found["id"]),
            ("kind", found["kind"]),
            ("state", f"{found['state']}: {found['state_meaning']}"),
            ("subject", found["subject"]),
            ("workspace", found["workspace"]),
            ("owner", found["owner"]),
            ("detail", found["detail"]),
            ("action", f"{found['action']}, {found['policy']}"),
            ("first seen", output.moment(found["first_seen_at"])),
            ("last seen", output.moment(found["last_seen_at"])),
            ("warned", moments["warned"]),
            ("acts", moments["act"] if found["state"] == "warned" else None),
            ("ended", moments["resolved"]),
            ("by", found["resolved_by"]),
            ("reason", found["resolution"]),
            ("evidence", evidence),
        )
    )
    if readings:
        print()
        names = ("uuid", "state", "most_percent", "memory_most_mib", "samples", "why")
        columns = ("GPU", "state", "% at most", "memory MiB", "samples", "why")
        output.table(columns, ([gpu.get(name) for name in names] for gpu in readings))
