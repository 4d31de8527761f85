"""Taking a stack down: what is protected stays, unless the stack's name is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.cli.exits import Exit, Failure
from api.cli.options import confirm
from api.cli.platform_events import Change, Tally

if TYPE_CHECKING:
    from pulumi.automation import Stack

    from api.cli.platform_engine import Engine


def divided(
    resources: Sequence[Mapping[str, Any]], *, with_data: bool
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """What stays and what goes, each in the state's order.

    What stays is the protected, and all that it depends on: an operator, a namespace, a password.
    """
    known = {one["urn"]: one for one in resources}
    kept: set[str] = set()
    waiting = [urn for urn, one in known.items() if one.get("protect") and not with_data]
    while waiting:
        urn = waiting.pop()
        if urn not in kept and urn in known:
            kept.add(urn)
            waiting += _needs(known[urn])
    things = [urn for urn, one in known.items() if _is_thing(one)]
    return (
        tuple(Change("keep", urn) for urn in things if urn in kept),
        tuple(Change("delete", urn) for urn in things if urn not in kept),
    )


def agreed(stack: str, *, with_data: bool, yes: bool, confirmed: str | None) -> None:
    """Raises Failure unless the user wants it: data goes only when the stack's name was given."""
    if with_data and confirmed is not None and confirmed != stack:
        raise Failure(f"--confirm names {confirmed}, not {stack}; nothing was done.", Exit.USAGE)
    if with_data and yes and confirmed is None:
        raise Failure(f"To delete the data of stack {stack} as well, say --confirm {stack}.", Exit.USAGE)
    what = "delete everything, WITH ALL DATA, in" if with_data else "delete all of this in"
    confirm(f"{what} stack", stack, yes=yes or (with_data and confirmed == stack))


def destroy_stack(engine: Engine, stack: Stack, *, with_data: bool, expected: int) -> Tally:
    """Raises Failure with what could not be removed; what could be is."""
    if not expected:
        return Tally()
    if with_data:
        engine.command("state", "unprotect", "--all", "--yes")
    return engine.follow(
        "Removing",
        lambda told: stack.destroy(
            on_event=told, exclude_protected=not with_data or None, show_secrets=False
        ),
        expected=expected,
    )


def _needs(resource: Mapping[str, Any]) -> list[str]:
    provider = str(resource.get("provider", "")).rpartition("::")[0]
    return [*resource.get("dependencies", ()), resource.get("parent", ""), provider]


def _is_thing(resource: Mapping[str, Any]) -> bool:
    return bool(resource.get("custom")) and not resource["type"].startswith("pulumi:")
