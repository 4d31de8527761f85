"""GPU-hours and money as they are given and shown."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import typer

NONE = "none"


def amount(text: str, option: str) -> str:
    """Checked, and as it was given: the API keeps what is exact."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise typer.BadParameter(f"{text!r} is not an amount such as 250 or 12.50", param_hint=option)
    return format(value, "f")


def limit(text: str, option: str) -> str | None:
    return None if text == NONE else amount(text, option)


def shown(value: str | None) -> str | None:
    """To the hundredth."""
    return None if value is None else f"{Decimal(value):.2f}"


def name(row: Any) -> str:
    """Of a budget or of a month's use: `GPU-hours`, or `money EUR`."""
    return "GPU-hours" if row["resource"] == "gpu_hours" else f"money {row['currency']}"
