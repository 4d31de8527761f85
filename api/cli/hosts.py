"""`ironyard host`: enroll machines, look at them, and what operators do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import follow, output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.display import display
from api.cli.exits import Exit, Failure
from api.cli.options import Json, Labels, Limit, Wait, Why, Yes, confirm, is_id, pairs

app = group()
Name = Annotated[str, typer.Argument(metavar="HOST", help="Name or id.")]
COLUMNS = ("name", "state", "since", "address", "region", "GPUs", "held", "models", "labels", "note")


@app.command()
def enroll(  # noqa: PLR0917
    name: Annotated[str, typer.Argument(metavar="NAME")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Host name or IP address for SSH.")],
    region: Annotated[str, typer.Option(help="Where it stands.")],
    user: Annotated[str, typer.Option(help="SSH user; root, or one with sudo.")] = "root",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 22,
    key: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="Private key; sent and kept encrypted."
        ),
    ] = None,
    key_reference: Annotated[
        str | None, typer.Option(metavar="PATH", help="Private key's path on the workers' machines.")
    ] = None,
    labels: Labels = None,
    host_key: Annotated[
        list[str] | None,
        typer.Option(metavar="'TYPE KEY'", help="Its public SSH host key; absent: trusted on first use."),
    ] = None,
    enroll_now: Annotated[
        bool, typer.Option("--enroll/--no-enroll", help="Only record it with --no-enroll.")
    ] = True,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Record a host and enroll it: discover its GPUs, harden it, record it, clean it."""
    if (key is None) == (key_reference is None):
        raise typer.BadParameter("give exactly one of --key and --key-reference", param_hint="--key")
    asked = {
        "name": name,
        "address": address,
        "port": port,
        "ssh_user": user,
        "key": key.read_text() if key else None,
        "key_reference": key_reference,
        "host_keys": host_key or [],
        "region": region,
        "labels": pairs(labels),
        "enroll": enroll_now,
    }
    with connect() as client:
        accepted = client.post("/hosts", asked)
        _after(client, accepted["host"], accepted["operation"], wait=wait, as_json=as_json, document=accepted)


@app.command("list")
def list_hosts(
    state: Annotated[str | None, typer.Option(help="Absent: all but retired ones.")] = None,
    region: Annotated[str | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option(help="Hosts with such a GPU.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY=VALUE")] = None,
    cordoned: Annotated[bool | None, typer.Option("--cordoned/--not-cordoned")] = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List hosts."""
    with connect() as client:
        rows = client.pages(
            "/hosts", limit=limit, state=state, region=region, model=model, label=label, cordoned=cordoned
        )
    output.show(rows, COLUMNS, (_row(host) for host in rows), as_json=as_json)


@app.command()
def show(host: Name, as_json: Json = False) -> None:
    """Look at one host and its GPUs."""
    with connect() as client:
        found = client.get(f"/hosts/{find(client, host)['id']}")
    if as_json:
        output.emit(found)
        return
    output.details(
        (
            ("name", found["name"]),
            ("id", found["id"]),
            ("state", f"{found['state']} since {output.moment(found['state_since'])}"),
            ("meaning", found["state_meaning"]),
            ("failed step", found["failed_step"]),
            ("reason", found["failed_reason"]),
            ("cordoned", found["cordoned"]),
            ("drains to", found["drains_to"]),
            ("reclaim policy", found["reclaim_policy"]),
            ("health", _health(found)),
            ("ssh", f"{found['ssh_user']}@{found['address']} port {found['port']}"),
            ("region", found["region"]),
            ("labels", found["labels"]),
        )
    )
    if found["gpu_list"]:
        print()
        columns = ("index", "GPU", "model", "memory MiB", "health", "do", "because", "held by")
        output.table(columns, (_gpu_row(gpu) for gpu in found["gpu_list"]))


def _health(host: Any) -> str:
    if host["health_verdict"] is None:
        return "not checked yet"
    checked = output.moment(host["health_checked_at"]) if host["health_checked_at"] else "never"
    lent = "" if host["health_current"] else "; not lent until a check passes"
    return f"{host['health_verdict']}, last checked {checked}{lent}"


def _gpu_row(gpu: Any) -> tuple[Any, ...]:
    told = "" if gpu["health_action"] == "none" else gpu["health_action"]
    because = output.one_line("; ".join(gpu["health_reasons"]))
    names = ("index", "uuid", "model", "memory_mib", "health")
    return (*(gpu[name] for name in names), told, because, gpu["held_by"])


@app.command()
def reclaim(
    host: Name, reason: Why = None, yes: Yes = False, wait: Wait = False, as_json: Json = False
) -> None:
    """Clean a host from step one and prove it; everything on it is lost."""
    _request(host, "reclaim", reason, wait=wait, as_json=as_json, yes=yes)


@app.command()
def verify(host: Name, reason: Why = None, wait: Wait = False, as_json: Json = False) -> None:
    """Compare an idle host with its manifest."""
    _request(host, "verify", reason, wait=wait, as_json=as_json)


@app.command()
def retire(
    host: Name, reason: Why = None, yes: Yes = False, wait: Wait = False, as_json: Json = False
) -> None:
    """Take a host out of the fleet; its history stays."""
    _request(host, "retire", reason, wait=wait, as_json=as_json, yes=yes)


@app.command("re-enroll")
def re_enroll(
    host: Name,
    trust_new_host_key: Annotated[
        bool, typer.Option("--trust-new-host-key", help="The machine was reinstalled.")
    ] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Enroll a known host again."""
    with connect() as client:
        found = find(client, host)
        asked = {"trust_new_host_key": trust_new_host_key}
        operation = client.post(f"/admin/machines/{found['id']}/enroll", asked)
        _after(client, found, operation, wait=wait, as_json=as_json, document=operation)


@app.command()
def maintenance(host: Name, reason: Why = None, as_json: Json = False) -> None:
    """Take a host out; only a reclaim leads back."""
    _change(host, "maintenance", reason, as_json=as_json)


@app.command()
def cordon(host: Name, reason: Why = None, as_json: Json = False) -> None:
    """Take no new claims on a host."""
    _change(host, "cordon", reason, as_json=as_json)


@app.command()
def uncordon(host: Name, reason: Why = None, as_json: Json = False) -> None:
    """Take claims on a host again."""
    _change(host, "uncordon", reason, as_json=as_json)


def find(client: Client, wanted: str) -> Any:
    """By name or id; of several hosts of one name, the one that is not retired."""
    if is_id(wanted):
        return client.get(f"/hosts/{wanted}")
    found = client.pages("/hosts", name=wanted)
    living = [host for host in found if host["state"] != "retired"]
    for host in living or reversed(found):
        return host
    raise Failure(f"There is no host {wanted}.", Exit.NOT_FOUND)


def _request(
    wanted: str, action: str, reason: str | None, *, wait: bool, as_json: bool, yes: bool = True
) -> None:
    with connect() as client:
        host = find(client, wanted)
        confirm(action, host["name"], yes=yes)
        operation = client.post(f"/admin/machines/{host['id']}/{action}", {"reason": reason})
        _after(client, host, operation, wait=wait, as_json=as_json, document=operation)


def _change(wanted: str, action: str, reason: str | None, *, as_json: bool) -> None:
    with connect() as client:
        found = find(client, wanted)
        host = client.post(f"/admin/machines/{found['id']}/{action}", {"reason": reason})
    if as_json:
        output.emit(host)
    else:
        print(f"{host['name']} is {host['state']}{', cordoned' if host['cordoned'] else ''}.")


def _after(client: Client, host: Any, operation: Any, *, wait: bool, as_json: bool, document: Any) -> None:
    """Tell what was started, or wait for what comes of it."""
    if wait and operation is not None:
        document = _wait(client, host, operation, as_json=as_json)
    elif not as_json and operation is not None:
        print(f"{operation['kind']} of {host['name']} is {operation['state']}.")
        print(f"Follow it: ironyard operations watch {operation['id']}")
    elif not as_json:
        print(f"{host['name']} is recorded; enroll it with ironyard host re-enroll {host['name']}.")
    if as_json:
        output.emit(document)


def _wait(client: Client, host: Any, operation: Any, *, as_json: bool) -> Any:
    with display(stderr=True, quiet=as_json) as shown:
        if operation["kind"] == "host.retire":
            ended, _ = follow.operation(client, operation["id"], shown, log=False)
            well, document = ended["state"] == "succeeded", ended
        else:
            document = follow.Hosts(client, shown, {host["id"]: host["name"]}).run()[host["id"]]
            well = document["state"] in follow.WELL
    if well:
        return document
    if as_json:
        output.emit(document)
    raise Failure(f"{operation['kind']} of {host['name']} failed; see `ironyard operations list`.")


def _row(host: Any) -> tuple[Any, ...]:
    note = output.one_line(host["failed_reason"] or ("cordoned" if host["cordoned"] else ""))
    where = f"{host['address']}:{host['port']}"
    return (
        host["name"],
        host["state"],
        output.since(host["state_since"]),
        where,
        host["region"],
        host["gpus"],
        host["gpus_held"],
        host["gpu_models"],
        host["labels"],
        note,
    )
