"""Asking and deciding: `requests`, `approve`, `deny`, `renew`, `grow`, `transfer`, and who has to approve."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli import output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.ledger import For, Id, Until, one_end, whole_id
from api.cli.options import Json, Limit, Why, duration, is_id, moment, pick_id
from api.core.texts import gpus

of_workspaces, rules = group(), group()
COLUMNS = ("id", "what", "workspace", "who", "asked", "for", "since", "purpose")
Purpose = Annotated[str | None, typer.Option(help="What for; whoever approves reads it.")]
Because = Annotated[str, typer.Option("--reason", help="Whoever asked reads it.")]
Waiting = Annotated[str, typer.Argument(metavar="ID", help="Of `ironyard requests`; its beginning or end.")]


class Approver(StrEnum):
    WORKSPACE = "workspace"
    OPERATOR = "operator"


class Approval(StrEnum):
    NONE = "none"
    WORKSPACE = "workspace"
    OPERATOR = "operator"


By = Annotated[
    Approver, typer.Option("--by", help="The owners and admins of the workspace that asks, or operators.")
]


def requests(limit: Limit = None, as_json: Json = False) -> None:
    """List the claims and changes that wait for your decision, oldest first."""
    with connect() as client:
        rows = client.pages("/approvals", limit=limit)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


def approve(wanted: Waiting, reason: Why = None, as_json: Json = False) -> None:
    """Approve a claim or a change; it is made at once, in the name of whoever asked."""
    with connect() as client:
        path = _path(client, wanted)
        found = client.post(f"{path}/approve", {"reason": reason})
    _tell(found, as_json=as_json)


def deny(wanted: Waiting, reason: Because, as_json: Json = False) -> None:
    """Deny a claim or a change, with a reason."""
    with connect() as client:
        found = client.post(f"{_path(client, wanted)}/deny", {"reason": reason})
    _tell(found, as_json=as_json)


def renew(
    allocation_id: Id,
    lasts: For = None,
    until: Until = None,
    purpose: Purpose = None,
    as_json: Json = False,
) -> None:
    """Ask for a later end: done at once, or kept for those who approve."""
    one_end(lasts, until, needed=True)
    with connect() as client:
        known = whole_id(client, allocation_id, "active", "reserved")
        end = moment(until or "") if until else _planned(client, known) + duration(lasts or "")
        asked = {"kind": "extend", "expires_at": end.astimezone(UTC).isoformat(), "purpose": purpose}
        found = client.post(f"/allocations/{known}/changes", asked)
    _tell(found, as_json=as_json)


def grow(
    allocation_id: Id,
    gpus: Annotated[int, typer.Option("--gpus", "-g", min=1, help="How many more, all or none.")],
    of_group: Annotated[
        int, typer.Option("--group", min=0, help="Of a claim of several groups: which one, from 0.")
    ] = 0,
    purpose: Purpose = None,
    as_json: Json = False,
) -> None:
    """Ask for more GPUs like those that are held: done at once, or kept for those who approve."""
    with connect() as client:
        known = whole_id(client, allocation_id, "active")
        asked = {"kind": "grow", "gpus": gpus, "group": of_group, "purpose": purpose}
        found = client.post(f"/allocations/{known}/changes", asked)
    _tell(found, as_json=as_json)


def transfer(
    allocation_id: Id,
    to: Annotated[str, typer.Option("--to", metavar="WORKSPACE", help="Slug or id.")],
    reason: Annotated[str, typer.Option("--reason", help="Both workspaces read it.")],
    as_json: Json = False,
) -> None:
    """Hand an allocation, with what is on its hosts, to another workspace in which you may claim too."""
    with connect() as client:
        known = whole_id(client, allocation_id, "active")
        found = client.post(f"/allocations/{known}/transfer", {"workspace": to, "reason": reason})
    if as_json:
        output.emit(found)
    else:
        print(f"{found['id']} is held by {found['workspace']} now.")


@of_workspaces.command("approval")
def approval(
    slug: Annotated[str, typer.Argument(metavar="WORKSPACE", help="Slug or id.")],
    by: Annotated[
        Approval, typer.Option("--by", help="Nobody, the workspace's owners and admins, or operators.")
    ],
    as_json: Json = False,
) -> None:
    """Say who has to approve the workspace's claims."""
    with connect() as client:
        row = client.send("PATCH", f"/workspaces/{slug}", {"approval": by.value})
    if as_json:
        output.emit(row)
    else:
        print(f"Claims of {row['slug']} are approved by: {row['approval']}.")


@rules.command("list")
def list_rules(as_json: Json = False) -> None:
    """List which GPU models need approval, and whose."""
    with connect() as client:
        rows = client.get("/admin/approval-rules")
    shown = ((row["model"] or "any", row["approver"]) for row in rows)
    output.show(rows, ("model", "approver"), shown, as_json=as_json)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="As `ironyard gpus` shows it; `*`: any.")]


@rules.command("set")
def set_rule(model: Model, by: By, as_json: Json = False) -> None:
    """Let claims of a GPU model need approval."""
    with connect() as client:
        row = client.send("PUT", f"/admin/approval-rules/{quote(model, safe='')}", {"approver": by.value})
        known = row["model"] is None or client.get("/gpus", model=row["model"], limit=1)["items"]
    if as_json:
        output.emit(row)
    else:
        print(f"Claims of {row['model'] or 'any model'} are approved by: {row['approver']}.")
    if not known:
        output.say(f"No GPU of the fleet is of the model {row['model']} today; see `ironyard gpus`.")


@rules.command("remove")
def remove_rule(model: Model) -> None:
    """Let claims of a GPU model need no approval any more."""
    with connect() as client:
        client.send("DELETE", f"/admin/approval-rules/{quote(model, safe='')}")
    print(f"There is no rule for {model} any more.")


def _path(client: Client, wanted: str) -> str:
    """Of what waits; a whole id that is not in the list is taken as that of a claim."""
    rows = {row["id"]: row for row in client.pages("/approvals", limit=None)}
    known = wanted if is_id(wanted) else pick_id(wanted, list(rows), "request")
    row = rows.get(known)
    if row is None or row["kind"] == "claim":
        return f"/allocations/{known}"
    return f"/allocations/{row['allocation_id']}/changes/{known}"


def _planned(client: Client, known: str) -> datetime:
    return datetime.fromisoformat(client.get(f"/allocations/{known}")["expires_at"])


def _tell(found: Any, *, as_json: bool) -> None:
    if as_json:
        output.emit(found)
        return
    if "kind" not in found:
        print(f"{found['id']} is {found['state']}.")
    elif found["state"] == "requested":
        print(f"To {found['kind']} {found['allocation_id']} waits for approval as {found['id']}.")
    else:
        print(f"To {found['kind']} {found['allocation_id']} is {found['state']}.")


def _row(row: Any) -> tuple[Any, ...]:
    many = row["asked"].get("gpus")
    lasts = output.length(row["duration_seconds"]) if row["duration_seconds"] else None
    return (
        row["id"],
        row["kind"],
        row["workspace"],
        row["requested_by"],
        gpus(many) if many else None,
        f"until {output.since(row['expires_at'])}" if row["expires_at"] else lasts,
        output.since(row["requested_at"]),
        row["purpose"],
    )
