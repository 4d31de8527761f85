"""`ironyard host set`: change what the ledger says of a host."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import connect
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.hosts import Name, find
from api.cli.options import Json, Labels, Why, pairs

app = group()


class Policy(StrEnum):
    CLEAN = "clean"
    REIMAGE = "reimage"


@app.command("set")
def change(  # noqa: PLR0917
    host: Name,
    region: Annotated[str | None, typer.Option()] = None,
    labels: Labels = None,
    no_label: Annotated[
        list[str] | None, typer.Option("--no-label", metavar="KEY", help="Remove it; may be repeated.")
    ] = None,
    reclaim_policy: Annotated[Policy | None, typer.Option(help="How a reclaim makes it clean.")] = None,
    address: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
    user: Annotated[str | None, typer.Option()] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="Private key; sent and kept encrypted."
        ),
    ] = None,
    key_reference: Annotated[
        str | None, typer.Option(metavar="PATH", help="Private key's path on the workers' machines.")
    ] = None,
    host_key: Annotated[
        list[str] | None, typer.Option(metavar="'TYPE KEY'", help="Its public SSH host key.")
    ] = None,
    trust_new_host_key: Annotated[
        bool, typer.Option("--trust-new-host-key", help="Forget its SSH host keys; the next are trusted.")
    ] = False,
    reason: Why = None,
    as_json: Json = False,
) -> None:
    """Change what is given, of a host at rest that nobody holds."""
    with connect() as client:
        asked = {
            "region": region,
            "reclaim_policy": reclaim_policy,
            "address": address,
            "port": port,
            "ssh_user": user,
            "key": key.read_text() if key else None,
            "key_reference": key_reference,
            "host_keys": [] if trust_new_host_key else host_key,
        }
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        relabels = bool(labels or no_label)
        if not given and not relabels:
            raise Failure("Say what to change; see --help.", Exit.USAGE)

        def wanted(present: Any) -> dict[str, Any]:
            if relabels:
                given["labels"] = _labels(present["labels"], pairs(labels), no_label or [])
            return given | {"reason": reason}

        changed = client.revise("PATCH", f"/hosts/{find(client, host)['id']}", wanted)
    if as_json:
        output.emit(changed)
    else:
        print(f"{changed['name']} is changed: {', '.join(name.replace('_', ' ') for name in given)}.")


def _labels(present: dict[str, str], given: dict[str, str], removed: list[str]) -> dict[str, str]:
    return {name: value for name, value in (present | given).items() if name not in removed}
