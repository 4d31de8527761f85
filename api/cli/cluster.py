"""`ironyard tenancy`: the cluster that follows the ledger."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli import follow, output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.display import Display, display
from api.cli.exits import Failure
from api.cli.options import Json

app = group()
COLUMNS = ("workspace", "GPUs", "of a model", "members")
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")]


@app.command()
def show(as_json: Json = False) -> None:
    """What the ledger says that the cluster follows: workspaces, their quotas and members."""
    with connect() as client:
        found = client.get("/tenancy")
    if as_json:
        output.emit(found)
        return
    output.table(
        COLUMNS,
        (
            (row["slug"], row["quota"]["gpus"], row["quota"]["models"], [m["email"] for m in row["members"]])
            for row in found["workspaces"]
        ),
    )


@app.command()
def sync(wait: Wait = True, as_json: Json = False) -> None:
    """Bring the cluster in line with the ledger, also where it was changed by hand."""
    with connect() as client:
        asked = client.post("/tenancy/sync")
        if not wait:
            _tell(asked, as_json=as_json)
            return
        with display(stderr=as_json, quiet=as_json) as shown:
            found = _follow(client, asked, shown, log=not as_json)
    if as_json:
        output.emit(found)
    if found["state"] != "succeeded":
        raise Failure(
            f"{found['kind']} of {found['subject']} {found['state']}: {output.one_line(found['reason'])}"
        )


def _follow(client: Client, asked: Any, shown: Display, *, log: bool) -> Any:
    """To its end; one that ran already is followed by the one that was asked for."""
    found, _ = follow.operation(client, asked["id"], shown, log=log)
    if asked["state"] != "running":
        return found
    (newest,) = client.pages("/operations", limit=1, subject_id=asked["subject_id"])
    if newest["id"] == found["id"]:
        return found
    return follow.operation(client, newest["id"], shown, log=log)[0]


def _tell(asked: Any, *, as_json: bool) -> None:
    if as_json:
        output.emit(asked)
    else:
        print(f"{asked['subject']} is brought in line: ironyard operations watch {asked['id']}")
