"""`ironyard workspace` and `ironyard user`: who may hold what."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.options import Json, Limit

workspace = group()
user = group()
Slug = Annotated[str, typer.Argument(metavar="WORKSPACE", help="Slug or id.")]
Email = Annotated[str, typer.Argument(metavar="EMAIL")]


class MemberRole(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class Role(StrEnum):
    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    MEMBER = "member"
    VIEWER = "viewer"


@workspace.command("list")
def list_workspaces(limit: Limit = None, as_json: Json = False) -> None:
    """List the workspaces that you see."""
    with connect() as client:
        rows = client.pages("/workspaces", limit=limit)
    columns = ("slug", "name", "approval", "time zone", "created", "id")
    names = ("slug", "name", "approval", "time_zone")
    shown = ((*(row[name] for name in names), output.moment(row["created_at"]), row["id"]) for row in rows)
    output.show(rows, columns, shown, as_json=as_json)


@workspace.command("create")
def create_workspace(
    slug: Annotated[str, typer.Argument(metavar="SLUG")],
    name: Annotated[str | None, typer.Option(help="Absent: the slug.")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="Quota; absent: the installation's default.")
    ] = None,
    organisation: Annotated[
        str | None, typer.Option(help="Slug or id; absent: the installation's first.")
    ] = None,
    time_zone: Annotated[
        str, typer.Option(metavar="ZONE", help="Whose months those of its budgets are; an IANA name.")
    ] = "UTC",
    as_json: Json = False,
) -> None:
    """Create a workspace; you become its owner."""
    asked = {"slug": slug, "name": name or slug, "gpus": gpus}
    asked |= {"organisation": organisation, "time_zone": time_zone}
    with connect() as client:
        row = client.post("/workspaces", asked)
    if as_json:
        output.emit(row)
    else:
        print(f"Workspace {row['slug']} is there.")


@workspace.command()
def members(slug: Slug, as_json: Json = False) -> None:
    """List the members."""
    with connect() as client:
        rows = client.get(f"/workspaces/{slug}/members")
    _show_members(rows, as_json=as_json)


@workspace.command("add-member")
def add_member(
    slug: Slug,
    email: Email,
    role: Annotated[MemberRole, typer.Option()] = MemberRole.MEMBER,
    as_json: Json = False,
) -> None:
    """Add a member, or change the role of one."""
    with connect() as client:
        user_id = _find_user(client, email)["id"]
        row = client.send("PUT", f"/workspaces/{slug}/members/{user_id}", {"role": role.value})
    if as_json:
        output.emit(row)
    else:
        print(f"{row['email']} is {row['role']} of {slug}.")


@workspace.command("remove-member")
def remove_member(slug: Slug, email: Email) -> None:
    """Remove a member."""
    with connect() as client:
        client.send("DELETE", f"/workspaces/{slug}/members/{_find_user(client, email)['id']}")
    print(f"{email} is no member of {slug} any more.")


def _show_members(rows: list[Any], *, as_json: bool) -> None:
    names = ("email", "role", "user_id")
    output.show(
        rows, ("e-mail", "role", "id"), ([row[name] for name in names] for row in rows), as_json=as_json
    )


@user.command("list")
def list_users(limit: Limit = None, as_json: Json = False) -> None:
    """List users."""
    with connect() as client:
        rows = client.pages("/admin/users", limit=limit)
    names = ("email", "name", "role", "active", "id")
    output.show(rows, names, ([row[name] for name in names] for row in rows), as_json=as_json)


@user.command("create")
def create_user(
    email: Email,
    name: Annotated[str | None, typer.Option(help="Absent: the e-mail address.")] = None,
    role: Annotated[Role, typer.Option()] = Role.MEMBER,
    as_json: Json = False,
) -> None:
    """Create a user with a one-time password."""
    with connect() as client:
        row = client.post("/admin/users", {"email": email, "name": name or email, "role": role.value})
    if as_json:
        output.emit(row)
    else:
        print(f"{row['email']} signs in with the one-time password {row['one_time_password']}")


@user.command("change")
def change_user(
    email: Email,
    role: Annotated[Role | None, typer.Option()] = None,
    active: Annotated[bool | None, typer.Option("--active/--suspended")] = None,
    as_json: Json = False,
) -> None:
    """Change a user's role, suspend one, or take one back."""
    if role is None and active is None:
        raise Failure("Give --role, --active or --suspended.", Exit.USAGE)
    wanted = {"role": role.value if role else None, "active": active}
    with connect() as client:
        row = client.send("PATCH", f"/admin/users/{_find_user(client, email)['id']}", wanted)
    if as_json:
        output.emit(row)
    else:
        print(f"{row['email']} is {row['role']}, {'active' if row['active'] else 'suspended'}.")


@user.command("reset-password")
def reset_password(email: Email, as_json: Json = False) -> None:
    """Set a one-time password, directly in this machine's database; no server and no sign-in is needed."""
    from api.cli.local import reset_password as reset

    password = reset(email)
    if as_json:
        output.emit({"email": email, "one_time_password": password})
    else:
        print(f"{email} signs in with the one-time password {password}")


def _find_user(client: Client, email: str) -> Any:
    for found in client.pages("/admin/users", email=email):
        return found
    raise Failure(f"There is no user {email}.", Exit.NOT_FOUND)
