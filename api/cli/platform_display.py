"""How an update is shown: live at a terminal, one line a step elsewhere. All of it on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from api.cli import output
from api.cli.platform_events import Change, Tally

if TYPE_CHECKING:
    from rich.console import RenderableType

STILL = 15.0  # seconds between plain lines that say what is still being done
AT_ONCE = 8  # steps in flight that a terminal lists
STYLES = {"failed": "red", "created": "green", "updated": "cyan", "deleted": "yellow", "replaced": "yellow"}


class Display:
    """One command's progress. Silent when `quiet`: then the command prints one document at its end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, sentence: str) -> None:
        if not self.quiet:
            output.say(sentence)

    @contextlib.contextmanager
    def following(self, title: str, expected: int | None = None) -> Iterator[Tally]:
        """Shows what the tally that it gives is told. `expected` is the number of changes, where known."""
        if self.quiet:
            yield Tally()
        elif sys.stderr.isatty():
            with _Live(title, expected) as tally:
                yield tally
        else:
            with _lines(title) as tally:
                yield tally


class _Live:
    def __init__(self, title: str, expected: int | None) -> None:
        from rich.live import Live

        self.title, self.expected = title, expected
        self.tally = Tally(self._told)
        self.began = time.monotonic()
        self.console = output.console(stderr=True)
        self.live = Live(
            get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Tally:
        self.live.__enter__()
        return self.tally

    def __exit__(self, *exception: object) -> None:
        self.live.__exit__(None, None, None)

    def _told(self, word: str, change: Change, seconds: float) -> None:
        from rich.text import Text

        if seconds or word == "failed":
            line = Text(f"{word} ", style=STYLES.get(word, ""))
            line.append(output.clean(f"{change.words} ({_time(seconds)})"), style="default")
            self.console.print(line)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        now = time.monotonic()
        running = self.tally.in_flight()
        total = "" if self.expected is None else f" of {self.expected}"
        head = f"{self.title}: {len(self.tally.done)}{total} done, {_time(now - self.began)}"
        rows = [
            Text(output.clean(f"  {change.words} ({_time(now - since)})"), style="dim")
            for change, since in running[:AT_ONCE]
        ]
        if len(running) > AT_ONCE:
            rows.append(Text(f"  and {len(running) - AT_ONCE} more", style="dim"))
        return Group(Spinner("dots", text=head), *rows)


@contextlib.contextmanager
def _lines(title: str) -> Iterator[Tally]:
    began = time.monotonic()
    ended = threading.Event()

    def line(text: str) -> None:
        output.say(f"[{time.monotonic() - began:4.0f} s] {text}")

    def told(word: str, change: Change, seconds: float) -> None:
        if seconds or word == "failed":
            line(f"{word} {change.words} ({_time(seconds)})")

    tally = Tally(told)

    def remind() -> None:
        while not ended.wait(STILL):
            names = [change.words for change, _ in tally.in_flight()]
            line(f"{title}: " + (f"still at {', '.join(names[:AT_ONCE])}" if names else "at work"))

    line(title)
    reminder = threading.Thread(target=remind, name="progress", daemon=True)
    reminder.start()
    try:
        yield tally
    finally:
        ended.set()
        reminder.join()


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
