"""`budget`: GPU-hours and money of a calendar month, for an organisation, a workspace or a member."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import typer

from api.cli import output, whose
from api.cli.amounts import limit, name, shown
from api.cli.client import connect
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.options import Json

app = group()
COLUMNS = ("budget", "limit", "soft", "from", "until", "committed", "overrun", "left")
Hours = Annotated[str | None, typer.Option(metavar="HOURS", help="GPU-hours a month; `none`: no limit.")]
Money = Annotated[
    str | None, typer.Option(metavar="AMOUNT", help="A month, in the platform's currency; `none`: no limit.")
]
SoftHours = Annotated[
    str | None, typer.Option(metavar="HOURS", help="As --gpu-hours, and exceeding it only warns.")
]
SoftMoney = Annotated[
    str | None, typer.Option(metavar="AMOUNT", help="As --money, and exceeding it only warns.")
]


@app.command("show")
def show(
    workspace: whose.Workspace = None,
    organisation: whose.Organisation = None,
    member: whose.Member = None,
    as_json: Json = False,
) -> None:
    """See the budgets, and what is committed of them in this month and in those that follow."""
    with connect() as client:
        rows = client.get(f"{whose.path(client, workspace, organisation, member)}/budgets")
    _show(rows, whose.sentence(workspace, organisation, member), as_json=as_json)


@app.command("set")
def set_budgets(
    workspace: whose.Workspace = None,
    organisation: whose.Organisation = None,
    member: whose.Member = None,
    gpu_hours: Hours = None,
    money: Money = None,
    soft_gpu_hours: SoftHours = None,
    soft_money: SoftMoney = None,
    as_json: Json = False,
) -> None:
    """Set the budgets of a month; limits that are not named stay."""
    hard = _named("", gpu_hours, money)
    soft = _named("soft-", soft_gpu_hours, soft_money)
    if not hard and not soft:
        raise Failure("Give --gpu-hours, --money, --soft-gpu-hours or --soft-money.", Exit.USAGE)
    with connect() as client:
        path = f"{whose.path(client, workspace, organisation, member)}/budgets"
        rows = client.revise("PUT", path, lambda present: _body(present, hard, soft))
    _show(rows, whose.sentence(workspace, organisation, member), as_json=as_json)


def _named(prefix: str, gpu_hours: str | None, money: str | None) -> dict[str, str | None]:
    given = {"gpu_hours": (gpu_hours, "gpu-hours"), "money": (money, "money")}
    return {
        resource: limit(text, f"--{prefix}{option}")
        for resource, (text, option) in given.items()
        if text is not None
    }


def _body(present: list[Any], hard: dict[str, str | None], soft: dict[str, str | None]) -> dict[str, Any]:
    return _side(present, "hard_limit", hard) | {"soft": _side(present, "soft_limit", soft)}


def _side(present: list[Any], column: str, asked: dict[str, str | None]) -> dict[str, Any]:
    limits = {row["resource"]: shown(row[column]) for row in present} | asked
    return {resource: value for resource, value in limits.items() if value is not None}


def _show(rows: Any, of: str, *, as_json: bool) -> None:
    output.show(rows, COLUMNS, (line for row in rows for line in _lines(row)), as_json=as_json)
    if not rows and not as_json:
        output.say(f"There is no budget of {of}.")


def _lines(row: Any) -> Iterator[tuple[Any, ...]]:
    hard = row["hard_limit"]
    for period in row["periods"]:
        committed = period["committed"]
        yield (
            name(row),
            shown(hard),
            shown(row["soft_limit"]),
            *(output.instant(period[edge]) for edge in ("start", "end")),
            shown(committed),
            shown(period["overrun"]),
            None if hard is None else shown(str(Decimal(hard) - Decimal(committed))),
        )
