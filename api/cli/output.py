"""What commands print: rich tables at a terminal, plain columns in a pipe, one JSON document on request."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a machine says must not steer the terminal
STYLES = {
    "idle": "green",
    "ok": "green",
    "succeeded": "green",
    "active": "green",
    "allocated": "cyan",
    "running": "cyan",
    "enrolling": "cyan",
    "cleaning": "cyan",
    "reclaiming": "cyan",
    "failed": "red",
    "maintenance": "red",
    "cancelled": "yellow",
    "unknown": "yellow",
    "queued": "yellow",
}
RICH_GAP = 3  # characters between the columns of a rich table
MINUTE, HOUR, DAY = 60, 3600, 86400


def emit(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def say(sentence: str) -> None:
    """Remarks go to standard error, so that they never mix with what a script reads."""
    print(clean(sentence), file=sys.stderr, flush=True)


def show(
    documents: Sequence[Any], columns: Sequence[str], rows: Iterable[Sequence[Any]], *, as_json: bool
) -> None:
    if as_json:
        emit(documents)
    else:
        table(columns, rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table that the terminal is too narrow for is plain as well: folded cells cannot be read or copied."""
    cells = [[_text(cell) for cell in row] for row in rows]
    lines = [[column.upper() for column in columns], *cells]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    if sys.stdout.isatty() and sum(widths) + RICH_GAP * len(widths) <= shutil.get_terminal_size().columns:
        _rich_table(columns, cells)
        return
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def details(pairs: Iterable[tuple[str, Any]]) -> None:
    kept = [(name, _text(value)) for name, value in pairs if value is not None]
    width = max(len(name) for name, _ in kept)
    for name, value in kept:
        print(f"{name.ljust(width)}  {value}".rstrip())


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def moment(value: str | None) -> str:
    """`2026-01-05 09:00:00Z (3 min ago)`"""
    if value is None:
        return ""
    at = datetime.fromisoformat(value).astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%SZ} ({age(at)})"


def instant(value: str) -> str:
    """`2026-02-01 00:00Z`: the edge of a month."""
    return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%MZ}"


def since(value: str) -> str:
    """How long ago at a terminal, where it saves width; the moment elsewhere."""
    at = datetime.fromisoformat(value).astimezone(UTC)
    return age(at) if sys.stdout.isatty() else f"{at:%Y-%m-%dT%H:%M:%SZ}"


def age(at: datetime) -> str:
    """In the two largest units."""
    seconds = round((datetime.now(UTC) - at).total_seconds())
    if not seconds:
        return "now"
    return f"{length(seconds)} ago" if seconds > 0 else f"in {length(-seconds)}"


def length(seconds: int) -> str:
    """In the two largest units: `7 d`, `1 h 30 min`."""
    left, parts = seconds, []
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (1, "s")):
        amount, left = divmod(left, unit)
        if amount:
            parts.append(f"{amount} {name}")
    return " ".join(parts[:2])


def clean(text: str) -> str:
    return CONTROL.sub("�", text)


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return clean(", ".join(f"{key}={item}" for key, item in value.items())) or "-"
    if isinstance(value, (list, tuple)):
        return clean(", ".join(map(str, value))) or "-"
    return clean(one_line(str(value))) or "-"


def _rich_table(columns: Sequence[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in made.columns:
        column.overflow = "fold"
    for row in rows:
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(made)
