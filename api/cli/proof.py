"""`ironyard proof`: check records and manifests, with no access to the platform."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import credentials, output
from api.cli.client import Client
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Callable

app = group()
File = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A record or a manifest, as JSON.")
]
OfIndex = Annotated[
    Path | None,
    typer.Option("--index", exists=True, dir_okay=False, help="A manifest's index, to check too."),
]
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys", exists=True, dir_okay=False, help="A key set; absent: the server is asked for it."
    ),
]


@app.command("keys")
def list_keys(
    out: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="Write them to this file, as JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the public keys that check signatures, the present one first."""
    found = _from_server()
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n")
        output.say(f"Written to {out}.")
        return
    columns = ("kid", "crv", "x")
    output.show(found, columns, ([key[name] for name in columns] for key in found["keys"]), as_json=as_json)


@app.command()
def verify(file: File, keys: Keys = None, index: OfIndex = None, as_json: Json = False) -> None:
    """Check that a record or a manifest was signed by the platform and is unaltered; exit code 1 if not."""
    from api.core.proof import NotProven, read

    document = _json(file)
    key_set = _json(keys) if keys else _from_server()
    if not isinstance(document, dict) or not isinstance(document.get("signature"), str):
        raise Failure(f"{file} holds no signature; get it with --out.", Exit.INVALID)
    try:
        statement = read(document["signature"], key_set.get("keys") or [])
        CHECKS.get(statement.get("type", ""), _unknown)(document, statement)
        if index is not None:
            _same("the index", hashlib.sha256(index.read_bytes()).hexdigest(), statement.get("index_sha256"))
    except NotProven as error:
        raise Failure(f"{file} is not proven: {error}.") from error
    if as_json:
        output.emit(statement)
    else:
        print(f"Proven: {_sentence(statement)}")


def _record(document: dict[str, Any], statement: dict[str, Any]) -> None:
    _same("the record", document.get("record", statement), statement)


def _manifest(document: dict[str, Any], statement: dict[str, Any]) -> None:
    from api.core.proof import digest

    _same("the manifest", digest(document.get("manifest")), statement["manifest_sha256"])


def _unknown(_document: dict[str, Any], statement: dict[str, Any]) -> None:
    from api.core.proof import NotProven

    raise NotProven(f"it states something else, of type {statement.get('type')}")


CHECKS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "ironyard.reclaim-record": _record,
    "ironyard.host-manifest": _manifest,
}


def _same(what: str, found: Any, stated: Any) -> None:
    from api.core.proof import NotProven

    if found != stated:
        raise NotProven(f"{what} in the file is not the one that was signed")


def _sentence(statement: dict[str, Any]) -> str:
    host = output.clean(str(statement["host"]["name"]))
    if statement["type"] == "ironyard.host-manifest":
        return f"manifest {statement['number']} of {host}, recorded at {statement['created_at']}."
    return (
        f"reclaim {statement['number']} of {host} ended {statement['outcome']} at {statement['ended_at']}, "
        f"with {sum(statement['removed'].values())} things removed and {len(statement['findings'])} findings."
    )


def _from_server() -> Any:
    url, token = credentials.load()
    with Client(url, token) as client:
        return client.get("/proof/keys")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Failure(f"{file} cannot be read: {error}", Exit.INVALID) from error
