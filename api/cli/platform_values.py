"""`--set SECTION.KEY=VALUE`: values of a stack's configuration given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.exits import Exit, Failure

if TYPE_CHECKING:
    from pulumi import automation

Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Write a value, such as storage.size=1Ti, into the stack's file first.",
    ),
]


def parsed(given: Sequence[str]) -> dict[str, str]:
    """Path → value. Raises Failure for what is not of the form SECTION.KEY=VALUE."""
    found: dict[str, str] = {}
    for one in given:
        path, equals, value = one.partition("=")
        if not equals or not path.partition(".")[2]:
            raise Failure(
                f"{one!r} is not of the form SECTION.KEY=VALUE, such as storage.size=1Ti.", Exit.USAGE
            )
        found[path] = value
    return found


def write(stack: automation.Stack, project: Path, values: dict[str, str]) -> None:
    """Into Pulumi.<stack>.yaml, unless the configuration would be wrong then: Failure names the faults.

    true, false and whole numbers are written as what they are.
    """
    if not values:
        return
    from pulumi.automation import ConfigValue

    from api.cli.platform_config import checked
    from api.cli.platform_target import stack_settings
    from stacks.components.base import PROJECT

    config = dict(stack_settings(project, stack.name).get("config") or {})
    for path, value in values.items():
        _place(config, [f"{PROJECT}:{path.partition('.')[0]}", *path.split(".")[1:]], value)
    faults, _ = checked(config)
    if faults:
        raise Failure(
            "\n  ".join(["The configuration is refused, nothing was changed.", *faults]), Exit.INVALID
        )
    for path, value in values.items():
        stack.set_config(f"{PROJECT}:{path}", ConfigValue(value), path=True)


def _place(into: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        inner = into.get(part)
        into[part] = dict(inner) if isinstance(inner, dict) else {}
        into = into[part]
    into[path[-1]] = _typed(value)


def _typed(value: str) -> bool | int | str:
    if value in {"true", "false"}:
        return value == "true"
    return int(value) if value.isdecimal() and not value.startswith("0") else value
