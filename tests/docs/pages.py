"""Reads the documentation: commands in `console` blocks with the output they show, tables, paths.

In a `console` block `$ ` begins a command and `> ` goes on with it; every other line is output.
`<!-- not run: why -->` before a block keeps its commands from being run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
NAMES = (
    "install",
    "operate",
    "hosts",
    "extend",
    "security",
    "platform",
    "proof",
    "health",
    "reclaim",
    "api",
    "placement",
)
INSTALL, OPERATE, HOSTS, EXTEND, SECURITY, PLATFORM, PROOF, HEALTH, RECLAIM, API, PLACEMENT = (
    ROOT / "docs" / f"{name}.md" for name in NAMES
)
PAGES = (README, INSTALL, OPERATE, HOSTS, EXTEND, SECURITY, PLATFORM, PROOF, HEALTH, RECLAIM, API, PLACEMENT)
NOT_RUN = re.compile(r"<!-- not run: (\S.*\S) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block; `not_run` is the reason why its commands are not run."""

    page: Path
    line: int
    kind: str
    lines: tuple[str, ...]
    not_run: str | None


@dataclass(frozen=True)
class Command:
    where: str
    text: str
    shown: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """The page shows how it is refused."""
        return any(line.startswith("ironyard: ") for line in self.shown)


def blocks(page: Path) -> Iterator[Block]:
    reason, opened, kind, inside = None, 0, "", list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            if opened:
                yield Block(page, opened, kind, tuple(inside), reason)
                reason, opened, inside = None, 0, []
            else:
                opened, kind = number, line[3:].strip()
        elif opened:
            inside.append(line)
        elif line.strip():
            found = NOT_RUN.fullmatch(line.strip())
            reason = found.group(1) if found else None


def commands(block: Block) -> list[Command]:
    found: list[tuple[int, list[str], list[str]]] = []
    for number, line in enumerate(block.lines, block.line + 1):
        if line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif line.startswith("> ") and found and not found[-1][2]:
            found[-1][1].append(line[2:])
        elif found:
            found[-1][2].append(line)
        else:
            raise ValueError(f"{block.page.name}:{number}: output before any command")
    return [
        Command(f"{block.page.name}:{number}", "\n".join(text), tuple(shown)) for number, text, shown in found
    ]


def to_run(page: Path) -> list[Command]:
    return [
        command
        for block in blocks(page)
        if block.kind == "console" and block.not_run is None
        for command in commands(block)
    ]


def table(page: Path, first: str) -> list[list[str]]:
    """The rows below the header whose first cell is `first`, cells stripped of spaces and backquotes."""
    lines = page.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if _cells(line)[:1] == [first])
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(_cells(line))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip("|").split("|")] if line.startswith("|") else []
