"""`rates`: what our own GPUs cost an hour, and from when on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.amounts import amount
from api.cli.client import connect
from api.cli.commands import group
from api.cli.options import Json, Newest, moment

app = group()
COLUMNS = ("model", "region", "price an hour", "from", "set by")


@app.command("list")
def list_rates(
    current: Annotated[bool, typer.Option("--current", help="Only those in force.")] = False,
    limit: Newest = 50,
    as_json: Json = False,
) -> None:
    """List what one of our GPUs costs an hour; the most exact rate counts, model before region."""
    with connect() as client:
        rows = client.pages("/rates", limit=limit, current=current or None)
    output.show(rows, COLUMNS, (_row(row) for row in rows), as_json=as_json)


@app.command("set")
def set_rate(
    price: Annotated[str, typer.Argument(metavar="PRICE", help="Of a GPU-hour, in the platform's currency.")],
    model: Annotated[str | None, typer.Option(help="As `ironyard gpus` shows it; absent: any.")] = None,
    region: Annotated[str | None, typer.Option(help="Absent: any.")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Not in the past; absent: now.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set a rate from a moment on; what is held or reserved by then keeps its price."""
    asked = {
        "per_gpu_hour": amount(price, "PRICE"),
        "model": model,
        "region": region,
        "effective_from": moment(begin).isoformat() if begin else None,
    }
    with connect() as client:
        row = client.post("/admin/rates", asked)
    if as_json:
        output.emit(row)
        return
    of = f"{row['model'] or 'any model'} in {row['region'] or 'any region'}"
    cost = f"{_price(row)} {row['currency']}"
    print(f"A GPU of {of} costs {cost} an hour from {output.moment(row['effective_from'])} on.")


def _row(row: Any) -> tuple[Any, ...]:
    begins = output.moment(row["effective_from"])
    cost = f"{_price(row)} {row['currency']}"
    return row["model"] or "any", row["region"] or "any", cost, begins, row["set_by"]


def _price(row: Any) -> str:
    """At least two places, and no more than the rate has."""
    whole, _, places = row["per_gpu_hour"].partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"
