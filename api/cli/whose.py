"""Whose limits and use a command is about: an organisation's, a workspace's or a member's."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.client import Client
from api.cli.exits import Exit, Failure
from api.cli.options import is_id

Workspace = Annotated[
    str | None, typer.Option("--workspace", "-w", help="Slug or id; absent: the workspace `default`.")
]
Organisation = Annotated[
    str | None, typer.Option("--organisation", "-o", help="Of one, by slug or id, in place of a workspace.")
]
Member = Annotated[str | None, typer.Option("--member", metavar="EMAIL", help="Of one of its members.")]


def path(
    client: Client, workspace: str | None = None, organisation: str | None = None, member: str | None = None
) -> str:
    """The address of whom the options name."""
    if organisation is not None and (workspace is not None or member is not None):
        raise Failure("Give --organisation, or a workspace and perhaps its --member, not both.", Exit.USAGE)
    if organisation is not None:
        return f"/organisations/{quote(organisation, safe='')}"
    own = f"/workspaces/{quote('default' if workspace is None else workspace, safe='')}"
    return own if member is None else f"{own}/members/{_user_id(client, own, member)}"


def sentence(workspace: str | None, organisation: str | None, member: str | None) -> str:
    """As a sentence names whom the options name."""
    if organisation:
        return f"the organisation {organisation}"
    own = f"the workspace {workspace or 'default'}"
    return f"{member} in {own}" if member else own


def _user_id(client: Client, own: str, member: str) -> Any:
    if is_id(member):
        return member
    for row in client.get(f"{own}/members"):
        if row["email"].casefold() == member.casefold():
            return row["user_id"]
    raise Failure(f"There is no member {member} of that workspace.", Exit.NOT_FOUND)
