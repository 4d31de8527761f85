"""The ledger's commands: `gpus`, `allocations`, `allocation show`, `release`, `extend`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.hosts import find
from api.cli.options import Json, Limit, Newest, duration, is_id, moment, pick_id

allocation = group()
Workspace = Annotated[str, typer.Option("--workspace", "-w", help="Slug or id.")]
For = Annotated[str | None, typer.Option("--for", metavar="DURATION", help="Such as 30m, 2h, 1d12h.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339; UTC where no zone is given.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Or its unique beginning or end.")]
ENDING = ("active", "reserved")
OPEN = ("active", "queued", "reserved", "requested")
COLUMNS = ("id", "state", "workspace", "GPUs", "model", "hosts", "who", "started", "expires")
GPU_COLUMNS = ("host", "index", "GPU", "model", "memory MiB", "region", "health", "use", "held by")


def gpus(
    host: Annotated[str | None, typer.Option(help="Name or id of a host.")] = None,
    model: Annotated[str | None, typer.Option()] = None,
    region: Annotated[str | None, typer.Option()] = None,
    health: Annotated[str | None, typer.Option(help="ok, failed or unknown")] = None,
    held: Annotated[bool | None, typer.Option("--held/--free", help="Held by an allocation or not.")] = None,
    memory: Annotated[int | None, typer.Option(min=0, metavar="MIB", help="At least this much.")] = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List GPUs."""
    with connect() as client:
        rows = client.pages(
            "/gpus",
            limit=limit,
            host_id=find(client, host)["id"] if host else None,
            model=model,
            region=region,
            health=health,
            held=held,
            memory_mib=memory,
        )
    output.show(rows, GPU_COLUMNS, (_gpu_row(gpu) for gpu in rows), as_json=as_json)


def allocations(
    state: Annotated[str | None, typer.Option(help="Such as active, queued or released.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Slug or id.")] = None,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """List allocations, newest first."""
    with connect() as client:
        rows = client.pages("/allocations", limit=limit, state=state, workspace=workspace)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


@allocation.command("show")
def show(allocation_id: Id, as_json: Json = False) -> None:
    """Look at one allocation."""
    with connect() as client:
        found = client.get(f"/allocations/{whole_id(client, allocation_id)}")
    if as_json:
        output.emit(found)
    else:
        details(found)


def release(
    allocation_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Or its unique beginning or end.")
    ],
    as_json: Json = False,
) -> None:
    """Give GPUs back; a host that nobody holds any more is cleaned."""
    released, failures = [], []
    with connect() as client:
        for wanted in allocation_ids:
            try:
                found = client.post(f"/allocations/{whole_id(client, wanted, *OPEN)}/release")
            except Failure as failure:
                output.say(f"{wanted}: {failure.sentence}")
                failures.append(failure)
                continue
            released.append(found)
            if not as_json:
                given = (
                    f"its {len(found['gpus'])} GPUs are given back" if found["gpus"] else "it held nothing"
                )
                print(f"{found['id']} is {found['state']}; {given}.")
    if as_json:
        output.emit(released)
    if failures:
        raise typer.Exit(failures[0].code)


def extend(allocation_id: Id, lasts: For = None, until: Until = None, as_json: Json = False) -> None:
    """Move an allocation's end: `--for` that much later than it is now planned, or to a time."""
    one_end(lasts, until, needed=True)
    with connect() as client:
        known = whole_id(client, allocation_id, "active", "reserved")
        if lasts:
            planned = datetime.fromisoformat(client.get(f"/allocations/{known}")["expires_at"])
            end = planned + duration(lasts)
        else:
            end = moment(until or "")
        found = client.post(f"/allocations/{known}/extend", {"expires_at": end.astimezone(UTC).isoformat()})
    if as_json:
        output.emit(found)
    elif "kind" in found:
        print(f"A later end of {known} waits for approval as {found['id']}.")
    else:
        print(f"{found['id']} ends at {output.moment(found['expires_at'])}.")


def one_end(lasts: str | None, until: str | None, *, needed: bool) -> None:
    if (lasts and until) or (needed and not lasts and not until):
        which = "exactly one" if needed else "at most one"
        raise Failure(f"Give {which} of --for and --until.", Exit.USAGE)


def whole_id(client: Client, wanted: str, *states: str) -> str:
    """The whole id of one in any of the states, or of any one."""
    if is_id(wanted):
        return wanted
    rows = [row for state in states or (None,) for row in client.pages("/allocations", state=state)]
    kind = "allocation" if not states else "active allocation" if len(states) == 1 else "open allocation"
    return pick_id(wanted, [row["id"] for row in rows], kind)


def details(found: Any) -> None:
    output.details(
        (
            ("allocation", found["id"]),
            ("state", found["state"]),
            ("workspace", found["workspace"]),
            ("who", found["requested_by"]),
            ("waits for", _waits_for(found)),
            ("decided by", found["decided_by"]),
            ("reason", found["reason"]),
            ("yields at", output.moment(found["preempt_at"]) if found["preempt_at"] else None),
            ("begins", output.moment(found["not_before"]) if found["state"] == "reserved" else None),
            ("started", output.moment(found["started_at"]) if found["started_at"] else None),
            ("expires", output.moment(found["expires_at"]) if found["state"] in ENDING else None),
            ("ended", output.moment(found["ended_at"]) if found["ended_at"] else None),
        )
    )
    print()
    names = ("host", "index", "uuid", "model", "memory_mib")
    output.table(
        ("host", "index", "GPU", "model", "memory MiB"),
        ([gpu[name] for name in names] for gpu in found["gpus"]),
    )


def approver(found: Any) -> str:
    """Who decides about what is requested."""
    whoever = (found["why"] or {}).get("approver")
    return "an operator" if whoever == "operator" else "an owner or admin of the workspace"


def _waits_for(found: Any) -> str | None:
    why = found["why"] or {}
    if found["state"] == "requested":
        return f"the approval of {approver(found)}"
    if found["state"] == "reserved":
        return why["late"]["detail"] if "late" in why else None
    return why.get("detail") if found["state"] == "queued" else None


def _row(row: Any) -> tuple[Any, ...]:
    held = row["gpus"]
    return (
        row["id"],
        row["state"],
        row["workspace"],
        len(held),
        sorted({gpu["model"] for gpu in held}),
        sorted({gpu["host"] for gpu in held}),
        row["requested_by"],
        output.since(row["started_at"]) if row["started_at"] else None,
        output.since(row["expires_at"]) if row["expires_at"] else None,
    )


def _gpu_row(gpu: Any) -> tuple[Any, ...]:
    use = "held" if gpu["held_by"] else "free" if gpu["schedulable"] else "unavailable"
    names = ("host", "index", "uuid", "model", "memory_mib", "region", "health")
    return (*(gpu[name] for name in names), use, gpu["held_by"])
