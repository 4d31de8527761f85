"""What a tenant with root may leave on a host: one row a residue, how it is planted and how it is looked for.

Both are shell for the lab's hosts. A probe prints something while the residue is there, and nothing on a
clean host; it uses the host's own tools and none of our modules. Every module of this folder with a table
RESIDUES takes part.
"""

from __future__ import annotations

import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Residue:
    name: str
    kind: str
    plant: str
    probe: str


def at(name: str, kind: str, path: str, content: str = "evil", *, more: str = "true") -> Residue:
    """A file of the tenant's at a place where there was none."""
    where = shlex.quote(path)
    plant = f"mkdir -p $(dirname {where}) && printf '%s\\n' {shlex.quote(content)} >{where}; {more}"
    return Residue(name, kind, plant, f"ls -d {where}")


def line(name: str, kind: str, path: str, text: str = "# evil") -> Residue:
    """A line of the tenant's in a file of the platform's."""
    return Residue(
        name, kind, f"printf '%s\\n' {shlex.quote(text)} >>{path}", f"grep -F {shlex.quote(text)} {path}"
    )


def every() -> list[Residue]:
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [residue for module in modules for residue in getattr(module, "RESIDUES", ())]


def planting(residues: list[Residue]) -> str:
    """One script that plants them all, each in a shell of its own."""
    parts = [f"(\n{one.plant}\n) </dev/null >/dev/null 2>&1\n" for one in residues]
    return "exec 2>/dev/null\numask 022\n" + "".join(parts) + "exit 0\n"


def looking(residues: list[Residue]) -> str:
    """One script that prints `number<tab>what is left` for each."""
    parts = [
        f"out=$( (\n{one.probe}\n) </dev/null 2>/dev/null | head -c 300 | tr '\\n\\0\\t' '   ')\n"
        f"printf '%s\\t%s\\n' {number} \"$out\"\n"
        for number, one in enumerate(residues)
    ]
    return "".join(parts)


def seen(printed: str) -> dict[int, str]:
    rows = (row.split("\t", 1) for row in printed.splitlines() if "\t" in row)
    return {int(number): left.strip() for number, left in rows}
