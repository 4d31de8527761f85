"""Progress of several things at once: bars at a terminal, one line a change elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from api.cli.output import clean, console

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {None: " ", True: "[green]✓[/]", False: "[red]✗[/]"}


class Display(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, name: str, percent: float, text: str, *, well: bool | None = None) -> None:
        """`well` is None while it goes on."""
        ...

    def line(self, text: str) -> None: ...


class Bars:
    def __init__(self, to: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.fields[mark]} {task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=to,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, name: str, percent: float, text: str, *, well: bool | None = None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=100, mark=" ", text="")
        self._progress.update(self._tasks[name], completed=percent, text=clean(text), mark=MARKS[well])
        if well is not None:
            self._progress.stop_task(self._tasks[name])

    def line(self, text: str) -> None:
        self._progress.console.print(clean(text), markup=False)


class Lines:
    """`quiet`: only what `line` says."""

    def __init__(self, to: Console, *, quiet: bool = False) -> None:
        self._console = to
        self._quiet = quiet
        self._last: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, name: str, percent: float, text: str, *, well: bool | None = None) -> None:  # noqa: ARG002
        if self._last.get(name) != text and not self._quiet:
            self._last[name] = text
            self.line(f"{name}: {text}")

    def line(self, text: str) -> None:
        self._console.print(clean(text), markup=False)


def display(*, stderr: bool = False, quiet: bool = False) -> Display:
    stream = sys.stderr if stderr else sys.stdout
    to = console(stderr=stderr)
    return Bars(to) if stream.isatty() else Lines(to, quiet=quiet)
