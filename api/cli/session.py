"""Signing in and out, one's own password and API keys."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from api.cli import credentials, output
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.options import Json, is_id, pick_id

keys = group()
SHORTEST = 12  # characters of a password


def login(
    url: Annotated[
        str | None, typer.Option(help="The server; absent: the last one, or this machine.")
    ] = None,
    email: Annotated[str | None, typer.Option()] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input's first line.")
    ] = False,
    new_password_stdin: Annotated[
        bool,
        typer.Option("--new-password-stdin", help="And the one to set from the next line, if one must be."),
    ] = False,
) -> None:
    """Sign in and keep the session for later commands."""
    address = url or credentials.load().url
    who = email or typer.prompt("E-mail", err=True)
    current = _line() if password_stdin else typer.prompt("Password", hide_input=True, err=True)
    new = _line() if new_password_stdin else None
    with Client(address) as client:
        answer = _sign_in(client, who, current)
        if answer["must_change_password"]:
            if new is None and sys.stdin.isatty():
                output.say("This was a one-time password; choose your own.")
                new = _ask_new()
            if new is None:
                output.say("This is a one-time password; set your own with `ironyard password`.")
            else:
                client.token = answer["access_token"]
                answer = _change(client, who, current, new)
    kept = credentials.save(address, answer["access_token"])
    print(f"Signed in to {address} as {who}; the session is in {kept}.")


def logout() -> None:
    """Forget the session."""
    print("Signed out." if credentials.forget() else "Nobody was signed in.")


def whoami(as_json: Json = False) -> None:
    """Who am I, and where."""
    with connect() as client:
        found = client.get("/auth/me")
        url = client.url
    if as_json:
        output.emit(found | {"url": url})
    else:
        print(f"{found['email']} ({found['name']}), {found['role']}, at {url}")


def password(
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read the present and the new password, one a line.")
    ] = False,
) -> None:
    """Change your password; all your other sessions end."""
    with connect() as client:
        email = client.get("/auth/me")["email"]
        current = _line() if stdin else typer.prompt("Present password", hide_input=True, err=True)
        answer = _change(client, email, current, _line() if stdin else _ask_new())
        credentials.save(client.url, answer["access_token"])
    print("Your password is changed; you are signed in with it.")


@keys.command("create")
def create_key(name: Annotated[str, typer.Argument(metavar="NAME")], as_json: Json = False) -> None:
    """Make an API key; it is shown this once."""
    with connect() as client:
        row = client.post("/api-keys", {"name": name})
    if as_json:
        output.emit(row)
    else:
        print(row["key"])
        output.say("It is shown this once. Use it as IRONYARD_TOKEN.")


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List your API keys."""
    with connect() as client:
        rows = client.get("/api-keys")
    output.show(
        rows,
        ("name", "begins with", "created", "last used", "revoked", "id"),
        (
            (
                row["name"],
                row["prefix"],
                output.moment(row["created_at"]),
                output.moment(row["last_used_at"]),
                output.moment(row["revoked_at"]),
                row["id"],
            )
            for row in rows
        ),
        as_json=as_json,
    )


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its name, id, or an end of the id.")],
    as_json: Json = False,
) -> None:
    """Revoke an API key."""
    with connect() as client:
        row = client.send("DELETE", f"/api-keys/{_key_id(client, key)}")
    if as_json:
        output.emit(row)
    else:
        print(f"The key {row['name']} ({row['prefix']}…) is revoked.")


def _key_id(client: Client, wanted: str) -> str:
    if is_id(wanted):
        return wanted
    living = [row for row in client.get("/api-keys") if row["revoked_at"] is None]
    named = [row["id"] for row in living if row["name"] == wanted]
    return named[0] if len(named) == 1 else pick_id(wanted, [row["id"] for row in living], "API key")


def _sign_in(client: Client, email: str, secret: str) -> Any:
    return client.post("/auth/token", {"email": email, "password": secret})


def _change(client: Client, email: str, current: str, new: str) -> Any:
    client.post("/auth/password", {"current_password": current, "new_password": new})
    return _sign_in(client, email, new)


def _ask_new() -> str:
    while True:
        new: str = typer.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
        if len(new) >= SHORTEST:
            return new
        output.say(f"At least {SHORTEST} characters, please.")


def _line() -> str:
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise Failure("Standard input ended before a password was read.", Exit.USAGE)
    return line
