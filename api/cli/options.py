"""Options that many commands share, and how their values are read."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import typer

from api.cli.exits import Exit, Failure

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this many; absent: all.")]
Newest = Annotated[int, typer.Option("--limit", min=1, help="At most this many, newest first.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Why = Annotated[str | None, typer.Option("--reason", help="Goes into the audit trail.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")]

DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def pairs(given: list[str] | None, option: str = "--label") -> dict[str, str]:
    found = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        found[name] = value
    return found


def duration(text: str) -> timedelta:
    """`90m`, `2h`, `1d12h`"""
    found = DURATION.fullmatch(text.strip().lower())
    if not text or found is None or not any(found.groups()):
        raise typer.BadParameter(f"{text!r} is not a duration such as 30m, 2h or 1d12h")
    days, hours, minutes, seconds = (int(group or 0) for group in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def moment(text: str) -> datetime:
    """A date or a date and time, RFC 3339; UTC where no zone is given."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a date or an RFC 3339 time") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def pick_id(wanted: str, ids: list[str], what: str) -> str:
    """The one id that begins, or ends, with `wanted`."""
    found = [known for known in ids if known.startswith(wanted.lower()) or known.endswith(wanted.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise Failure(f"{len(found)} {what}s match {wanted}; give more of the id.", Exit.USAGE)
    raise Failure(f"There is no {what} {wanted} that you may see.", Exit.NOT_FOUND)


def confirm(what: str, name: str, *, yes: bool) -> None:
    """A person types the name; a script says --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"This will {what} {name}; say --yes to do it without being asked.", Exit.USAGE)
    typed = typer.prompt(f"This will {what} {name}. Type its name to go on", err=True)
    if typed.strip() != name:
        raise Failure("That is not its name; nothing was done.", Exit.FAILED)
