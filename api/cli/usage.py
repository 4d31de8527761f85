"""`usage`: what is used of the limits now and in this month, and what the month will probably come to."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from api.cli import output, quotas, whose
from api.cli.amounts import name, shown
from api.cli.client import connect
from api.cli.options import Json

MONTH_COLUMNS = ("this month", "limit", "soft", "used", "committed", "overrun", "forecast", "until")


def usage(
    workspace: whose.Workspace = None,
    organisation: whose.Organisation = None,
    member: whose.Member = None,
    as_json: Json = False,
) -> None:
    """Show use against quotas now and against the month's budgets, with a forecast to the month's end."""
    with connect() as client:
        found = client.get(f"{whose.path(client, workspace, organisation, member)}/usage")
    if as_json:
        output.emit(found)
        return
    of = whose.sentence(workspace, organisation, member)
    print(f"Use of {of}, whose months are those of {found['time_zone']}")
    print()
    output.table(("now", *quotas.COLUMNS[1:]), (quotas.row_of(row) for row in found["limits"]))
    print()
    output.table(MONTH_COLUMNS, (_row(month) for month in found["months"]))
    warnings = [line for month in found["months"] for line in _beyond(month)]
    if warnings:
        print()
    for line in warnings:
        print(line)


def _row(month: Any) -> tuple[Any, ...]:
    amounts = ("hard_limit", "soft_limit", "used", "committed", "overrun", "forecast")
    return (name(month), *(shown(month[one]) for one in amounts), output.instant(month["end"]))


def _beyond(month: Any) -> Iterator[str]:
    """Says of the strictest limit that the forecast passes by how much it does."""
    for column, called in (("hard_limit", "limit"), ("soft_limit", "soft limit")):
        if month[column] is None:
            continue
        more = Decimal(month["forecast"]) - Decimal(month[column])
        if more > 0:
            yield f"At the month's end {name(month)} will probably be {more:.2f} above the {called}."
            return
