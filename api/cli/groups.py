"""`ironyard host bulk` and `ironyard group`: one thing done to many hosts."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from api.cli import follow, output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.display import Display, display
from api.cli.exits import Exit, Failure
from api.cli.hosts import Name, find
from api.cli.options import Json, Labels, Newest, Why, Yes, is_id, pairs, pick_id

app, of_hosts = group(), group()
Id = Annotated[str, typer.Argument(metavar="ID", help="Or its unique beginning or end.")]
Watch = Annotated[bool, typer.Option("--watch/--no-watch", help="Follow it to its end.")]
COLUMNS = ("id", "action", "state", "hosts", "created", "by", "reason")
OF_A_MEMBER = ("host", "state", "step", "%", "operation", "reason")
ENDED = frozenset({"succeeded", "failed", "skipped"})
DESTROYS = frozenset({"reclaim", "retire", "drain"})


class Action(StrEnum):
    ENROLL = "enroll"
    RECLAIM = "reclaim"
    VERIFY = "verify"
    HEALTH = "health"
    DRAIN = "drain"
    CORDON = "cordon"
    UNCORDON = "uncordon"
    MAINTENANCE = "maintenance"
    RETIRE = "retire"


class To(StrEnum):
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


Where = Annotated[To, typer.Option("--to", help="Where a drained host goes.")]


@of_hosts.command()
def bulk(  # noqa: PLR0917
    action: Annotated[Action, typer.Argument(metavar="ACTION", help=", ".join(Action))],
    names: Annotated[list[str] | None, typer.Option("--name", help="A host; may be repeated.")] = None,
    labels: Labels = None,
    region: Annotated[str | None, typer.Option()] = None,
    state: Annotated[str | None, typer.Option(help="Only hosts in this state.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=1000, help="Hosts at a time.")] = 4,
    max_failures: Annotated[
        int, typer.Option(min=0, help="So many hosts may fail before no more are begun.")
    ] = 0,
    to: Where = To.MAINTENANCE,
    level: Annotated[int, typer.Option(min=0, max=3, help="How deep a health check looks.")] = 1,
    trust_new_host_key: Annotated[
        bool, typer.Option("--trust-new-host-key", help="To enroll machines that were reinstalled.")
    ] = False,
    reason: Why = None,
    yes: Yes = False,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Do one thing to all hosts that fit every given option, some at a time."""
    selection = {"names": names, "labels": pairs(labels) or None, "region": region, "state": state}
    if not any(selection.values()):
        raise Failure("Say which hosts: --name, --label, --region or --state.", Exit.USAGE)
    if action in DESTROYS and not yes:
        raise Failure(f"This will {action} many hosts; say --yes to do it.", Exit.USAGE)
    asked = {
        "action": action,
        "hosts": {name: value for name, value in selection.items() if value},
        "at_once": at_once,
        "max_failures": max_failures,
        "reason": reason,
        "to": to,
        "level": level,
        "trust_new_host_key": trust_new_host_key,
    }
    with connect() as client:
        _after(client, client.post("/operation-groups", asked), watch=watch, as_json=as_json)


@of_hosts.command()
def drain(
    host: Name, to: Where = To.MAINTENANCE, reason: Why = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Take no new claims; once it is free and clean, the host goes to maintenance or is retired."""
    if to is To.RETIRED and not yes:
        raise Failure("This will retire the host; say --yes to do it.", Exit.USAGE)
    with connect() as client:
        asked = {"to": to, "reason": reason}
        found = client.post(f"/admin/machines/{find(client, host)['id']}/drain", asked)
    if as_json:
        output.emit(found)
    elif found["drains_to"]:
        print(f"{found['name']} is {found['state']}, cordoned; then {found['drains_to']}.")
    else:
        print(f"{found['name']} is {found['state']}.")


@app.command("list")
def list_groups(limit: Newest = 50, as_json: Json = False) -> None:
    """List groups, newest first."""
    with connect() as client:
        rows = client.pages("/operation-groups", limit=limit)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


@app.command()
def show(group_id: Id, as_json: Json = False) -> None:
    """Look at one group and its hosts."""
    with connect() as client:
        found = client.get(f"/operation-groups/{_id(client, group_id)}")
    if as_json:
        output.emit(found)
    else:
        _tell(found)


@app.command("watch")
def watch_group(group_id: Id, as_json: Json = False) -> None:
    """Follow a group to its end; exit code 0 only when every host succeeded."""
    with connect() as client:
        _watch(client, _id(client, group_id), as_json=as_json)


@app.command()
def cancel(
    group_id: Id,
    running: Annotated[
        bool, typer.Option("--running", help="Cut short what runs; those hosts go to maintenance.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Begin no more hosts."""
    with connect() as client:
        found = client.post(f"/operation-groups/{_id(client, group_id)}/cancel", {"running": running})
    if as_json:
        output.emit(found)
    else:
        print(f"No more hosts are begun: {_counts(found)}.")


@app.command()
def retry(
    group_id: Id,
    skipped: Annotated[bool, typer.Option("--skipped", help="Also the hosts that were never begun.")] = False,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Do the same again to the hosts that failed, as a new group."""
    with connect() as client:
        found = client.post(f"/operation-groups/{_id(client, group_id)}/retry", {"skipped": skipped})
        _after(client, found, watch=watch, as_json=as_json)


def _after(client: Client, found: Any, *, watch: bool, as_json: bool) -> None:
    if watch:
        _watch(client, found["id"], as_json=as_json)
    elif as_json:
        output.emit(found)
    else:
        print(f"{found['action']} of {len(found['members'])} hosts is {found['state']}: {_counts(found)}.")
        if found["state"] == "running":
            print(f"Follow it: ironyard group watch {found['id']}")


def _watch(client: Client, group_id: str, *, as_json: bool) -> None:
    found = follow.interruptible(
        lambda: _follow(client, group_id, as_json=as_json),
        lambda: client.post(f"/operation-groups/{group_id}/cancel", {"running": False}),
    )
    if as_json:
        output.emit(found)
    if found["state"] != "succeeded":
        raise Failure(f"{found['action']} of the group {found['state']}: {found['reason'] or _counts(found)}")


def _follow(client: Client, group_id: str, *, as_json: bool) -> Any:
    with display(stderr=as_json, quiet=as_json) as shown:
        for event, told in client.events(f"/operation-groups/{group_id}/events"):
            if event == "member":
                _show(shown, told)
            else:
                left = follow.left(told["eta_seconds"])
                shown.line(", ".join(filter(None, (f"{told['action']}: {_counts(told)}", left))))
            if event == "end":
                break
    return client.get(f"/operation-groups/{group_id}")


def _show(shown: Display, member: Any) -> None:
    ended = member["state"] in ENDED
    if member["state"] == "waiting":
        return
    parts = [member["state"], member["step"], output.one_line(member["reason"])]
    well = member["state"] == "succeeded" if ended else None
    shown.show(
        member["host"], 100 if ended else member["progress"] or 0, ", ".join(filter(None, parts)), well=well
    )


def _tell(found: Any) -> None:
    output.details(
        (
            ("group", found["id"]),
            ("action", found["action"]),
            ("state", found["state"]),
            ("hosts", _counts(found)),
            ("at once", found["at_once"]),
            ("failures allowed", found["max_failures"]),
            ("reason", found["reason"]),
            ("left", follow.left(found["eta_seconds"]) or None),
            ("by", found["requested_by"]),
            ("created", output.moment(found["created_at"])),
            ("ended", output.moment(found["ended_at"]) if found["ended_at"] else None),
            ("tries again", found["retries"]),
        )
    )
    print()
    names = ("host", "state", "step", "progress", "operation_id", "reason")
    output.table(OF_A_MEMBER, ([member[name] for name in names] for member in found["members"]))


def _counts(found: Any) -> str:
    return ", ".join(f"{number} {state}" for state, number in found["hosts"].items())


def _id(client: Client, wanted: str) -> str:
    if is_id(wanted):
        return wanted
    return pick_id(wanted, [row["id"] for row in client.pages("/operation-groups", limit=1000)], "group")


def _row(row: Any) -> tuple[Any, ...]:
    created = output.since(row["created_at"])
    told = (row["id"], row["action"], row["state"], _counts(row))
    return (*told, created, row["requested_by"], output.one_line(row["reason"]))
