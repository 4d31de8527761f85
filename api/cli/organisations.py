"""`organisation`: what workspaces belong to, and its quota; `workspace change` moves one to another."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from api.cli import output, quotas, whose
from api.cli.client import connect
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.options import Json, Limit

app, of_workspaces = group(), group()
Slug = Annotated[str, typer.Argument(metavar="ORGANISATION", help="Slug or id.")]


@app.command("list")
def list_organisations(limit: Limit = None, as_json: Json = False) -> None:
    """List the organisations that you see."""
    with connect() as client:
        rows = client.pages("/organisations", limit=limit)
    shown = ((row["slug"], row["name"], output.moment(row["created_at"]), row["id"]) for row in rows)
    output.show(rows, ("slug", "name", "created", "id"), shown, as_json=as_json)


@app.command("create")
def create(
    slug: Annotated[str, typer.Argument(metavar="SLUG")],
    name: Annotated[str | None, typer.Option(help="Absent: the slug.")] = None,
    as_json: Json = False,
) -> None:
    """Create an organisation; `ironyard workspace change` moves workspaces into it."""
    with connect() as client:
        row = client.post("/organisations", {"slug": slug, "name": name or slug})
    if as_json:
        output.emit(row)
    else:
        print(f"Organisation {row['slug']} is there.")


@app.command("show")
def show(slug: Slug, as_json: Json = False) -> None:
    """Look at one organisation and at those of its workspaces that you see."""
    with connect() as client:
        found = client.get(_path(slug))
        rows = client.pages("/workspaces")
    own = [row for row in rows if row["organisation_id"] == found["id"]]
    if as_json:
        output.emit(found | {"workspaces": own})
        return
    output.details(
        (
            ("organisation", found["slug"]),
            ("name", found["name"]),
            ("id", found["id"]),
            ("created", output.moment(found["created_at"])),
        )
    )
    print()
    names = ("slug", "name", "time_zone", "id")
    output.table(("workspace", "name", "time zone", "id"), ([row[one] for one in names] for row in own))


@app.command("rename")
def rename(
    slug: Slug, name: Annotated[str, typer.Option(help="The slug stays.")], as_json: Json = False
) -> None:
    """Give an organisation another name."""
    with connect() as client:
        row = client.send("PATCH", _path(slug), {"name": name})
    if as_json:
        output.emit(row)
    else:
        print(f"{row['slug']} is called {row['name']} now.")


@app.command("quota")
def quota(
    slug: Slug,
    gpus: quotas.Gpus = None,
    models: quotas.Models = None,
    storage: quotas.Storage = None,
    environments: quotas.Environments = None,
    soft_gpus: quotas.SoftGpus = None,
    soft_models: quotas.SoftModels = None,
    soft_storage: quotas.SoftStorage = None,
    soft_environments: quotas.SoftEnvironments = None,
    as_json: Json = False,
) -> None:
    """See an organisation's quota, or set it; limits that are not named stay."""
    hard = quotas.named("", gpus, models, storage, environments)
    soft = quotas.named("soft-", soft_gpus, soft_models, soft_storage, soft_environments)
    with connect() as client:
        rows = quotas.see_or_set(client, _path(slug), hard, soft)
    quotas.show(rows, as_json=as_json)


@of_workspaces.command("change")
def change_workspace(
    slug: Annotated[str, typer.Argument(metavar="WORKSPACE", help="Slug or id.")],
    name: Annotated[str | None, typer.Option(help="The slug stays.")] = None,
    organisation: Annotated[
        str | None, typer.Option(help="Where it belongs, and counts, from now on; slug or id.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Of its months from the next one on; an IANA name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change a workspace's name, move it to an organisation, or set the time zone of its months."""
    asked = {"name": name, "organisation": organisation, "time_zone": time_zone}
    wanted = {one: value for one, value in asked.items() if value is not None}
    if not wanted:
        raise Failure("Give --name, --organisation or --time-zone.", Exit.USAGE)
    with connect() as client:
        row = client.send("PATCH", whose.path(client, slug), wanted)
        of = client.get(f"/organisations/{row['organisation_id']}")
    if as_json:
        output.emit(row)
    else:
        print(
            f"{row['slug']} ({row['name']}) belongs to {of['slug']}; "
            f"its months are those of {row['time_zone']}."
        )


def _path(slug: str) -> str:
    return f"/organisations/{quote(slug, safe='')}"
