"""`ironyard host health`: check a host's GPUs now, and what the checks of late said."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli import follow, output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.display import display
from api.cli.exits import Exit, Failure
from api.cli.hosts import Name, find
from api.cli.options import Json, Newest

app = group()
COLUMNS = ("at", "of", "level", "verdict", "passed", "others")
CHECKS = ("verdict", "of", "check", "do", "because")
FAILING = ("CRITICAL", "UNKNOWN")


@app.command()
def health(
    host: Name,
    level: Annotated[
        int, typer.Option(min=0, max=3, help="0 only looks; 1 to 3 run DCGM's diagnostics too.")
    ] = 1,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    as_json: Json = False,
) -> None:
    """Check a host and its GPUs; fails when one of them is not well."""
    with connect() as client:
        found = find(client, host)
        operation = client.post(f"/hosts/{found['id']}/health-checks", {"level": level})
        if not wait:
            _tell(operation, as_json=as_json)
            return
        with display(stderr=True, quiet=as_json) as shown:
            ended, _ = follow.operation(client, operation["id"], shown, log=False)
        check = _check_of(client, found["id"], ended["id"])
        named = _names(client, found["id"])
    if as_json:
        output.emit(check or ended)
    elif check is not None:
        _show(check, named)
    if check is None or check["verdict"] in FAILING or ended["state"] != "succeeded":
        raise Failure(ended["reason"] or f"{found['name']} is not well.", Exit.FAILED)


@app.command("health-checks")
def health_checks(host: Name, limit: Newest = 50, as_json: Json = False) -> None:
    """List a host's health checks, newest first."""
    with connect() as client:
        rows = client.pages(f"/hosts/{find(client, host)['id']}/health-checks", limit=limit)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


def _tell(operation: Any, *, as_json: bool) -> None:
    if as_json:
        output.emit(operation)
        return
    print(f"{operation['kind']} of {operation['subject']} is {operation['state']}.")
    print(f"Follow it: ironyard operations watch {operation['id']}")


def _check_of(client: Client, host_id: str, operation_id: str) -> Any | None:
    """What the operation's check said; None when it was called off or never came to it."""
    newest = client.pages(f"/hosts/{host_id}/health-checks", limit=20)
    return next((check for check in newest if check["operation_id"] == operation_id), None)


def _names(client: Client, host_id: str) -> dict[str, str]:
    gpus = client.get(f"/hosts/{host_id}")["gpu_list"]
    return {gpu["uuid"]: f"GPU {gpu['index']}" for gpu in gpus}


def _show(check: Any, named: dict[str, str]) -> None:
    level = "could not run" if check["level"] is None else f"level {check['level']}"
    print(f"{check['verdict']}: {level}, {check['passed']} checks passed, {len(check['checks'])} did not.")
    rows = [
        (one["verdict"], named.get(one["scope"], one["scope"]), one["name"], one["action"], one["detail"])
        for one in check["checks"]
    ]
    if rows:
        output.table(CHECKS, rows)


def _row(check: Any) -> tuple[Any, ...]:
    others = output.one_line(
        "; ".join(f"{one['verdict']} {one['name']}" for one in check["checks"]) or check["reason"] or ""
    )
    at = output.moment(check["at"])
    return at, check["kind"], check["level"], check["verdict"], check["passed"], others
