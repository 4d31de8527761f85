"""What the controller asks a host by a static tool of its own, and how it judges the answer."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

STORE = "/var/lib/ironyard/pristine"
DIGITS = 32
# Places for the tool, by likelihood that a program may run there and that there is room.
PLACES = ("/run", "/dev/shm", "/var/lib", "/root", "/tmp")  # noqa: S108 - a folder of its own, with a drawn name
Wanted = dict[str, Any]


@dataclass
class Seen:
    """What the tool saw: digests of files, targets of links, the lines of mountinfo."""

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)
    complete: bool = False


def bring(name: str, size: int) -> str:
    """A shell line that takes `size` bytes of its input as the tool, which then runs the rest as a script."""
    return (
        f"umask 077; for d in {' '.join(PLACES)}; do d=$d/{name}; mkdir $d 2>/dev/null || continue; "
        f"printf '#!/bin/sh\\n' >$d/t; head -c {size} /dev/zero >$d/busybox 2>/dev/null && chmod 700 $d/t && "
        '$d/t 2>/dev/null && break; rm -rf $d; d=; done; [ -n "$d" ] || exit 97; '
        f"head -c {size} >$d/busybox && chmod 700 $d/busybox && B=$d/busybox exec $d/busybox sh"
    )


def scan(paths: Iterable[str], trees: Iterable[str]) -> str:
    """The script that looks; it ends with its folder gone."""
    listed = "\n".join(path for path in paths if "\n" not in path)
    where = " ".join(shlex.quote(tree) for tree in trees)
    find = f"$B find {where} -type f -print 2>/dev/null" if where else ":"
    return f"""PATH=
L=${{B%/*}}/l
$B cat >$L <<'IRONYARD_LIST'
{listed}
IRONYARD_LIST
echo '#mounts'
$B cat /proc/1/mountinfo
echo '#links'
while IFS= read -r p; do [ -L "$p" ] && echo "$($B readlink "$p")	$p"; done <$L
echo '#files'
{{ while IFS= read -r p; do [ -f "$p" ] && [ ! -L "$p" ] && echo "$p"; done <$L; {find}; }} \\
  | $B tr '\\n' '\\0' | $B xargs -0 -r -n 200 $B sha256sum 2>/dev/null
echo '#end'
"""


def finish() -> str:
    return 'exec $B rm -rf "${B%/*}"\n'


def read(text: str) -> Seen:
    seen, part = Seen(), ""
    for line in text.splitlines():
        if line.startswith("#"):
            part = line
            seen.complete = part == "#end"
        elif part == "#mounts":
            seen.mounts.append(line)
        elif part == "#links":
            target, _, path = line.partition("\t")
            seen.links[path] = target
        elif part == "#files":
            digest, _, path = line.partition("  ")
            seen.files[path] = digest[:DIGITS]
    return seen


def wanted(rows: dict[str, Any], tools: dict[str, list[str]]) -> Wanted:
    """The index's rows of the tools' files and links, and of everything in their trees."""
    named = {*tools["files"], *tools["links"], *tools["startup"]}
    tops = tuple(f"{tree}/" for tree in tools["trees"])
    return {
        path: row
        for path, row in rows.items()
        if row.kind in "fl" and (path in named or (row.kind == "f" and path.startswith(tops)))
    }


def problems(want: Wanted, seen: Seen) -> dict[str, str]:
    """By path: altered, missing or foreign."""
    found = {}
    for path, row in want.items():
        now = seen.files.get(path) if row.kind == "f" else seen.links.get(path)
        if now is None:
            found[path] = "missing"
        elif now != row.data:
            found[path] = "altered"
    for path in [*seen.files, *seen.links]:
        if path not in want:
            found[path] = "foreign"
    return found


def covering(paths: Iterable[str], points: Iterable[str]) -> list[str]:
    """Foreign mount points over one of the paths or a folder of it, the innermost first."""
    known = list(paths)
    found = {p for p in points if any(path == p or path.startswith(f"{p.rstrip('/')}/") for path in known)}
    return sorted(found, key=len, reverse=True)


def mend(want: Wanted, found: dict[str, str], mounts: Iterable[str]) -> str:
    """The script that repairs: unmount, remove, and put back from the host's store of clean copies."""
    lines = ["PATH="]
    lines += [f"$B umount -l {shlex.quote(point)} 2>/dev/null" for point in mounts]
    for path, what in sorted(found.items()):
        name, folder = shlex.quote(path), shlex.quote(path.rsplit("/", 1)[0] or "/")
        lines.append(f"$B chattr -i -a {folder} {name} 2>/dev/null")
        if what == "foreign":
            lines.append(f"$B rm -rf {name}")
            continue
        row = want[path]
        fresh = shlex.quote(f"{path}.ironyard")
        if row.kind == "l":
            lines.append(f"$B rm -rf {name}; $B ln -s {shlex.quote(row.data)} {name}")
            continue
        kept = shlex.quote(f"{STORE}/{row.data[:2]}/{row.data}")
        lines.append(
            f"s=$($B sha256sum {kept} 2>/dev/null); case $s in {row.data}*) $B rm -rf {fresh}; "
            f"$B cp {kept} {fresh} && $B chown {row.uid}:{row.gid} {fresh} && $B chmod {row.mode:o} {fresh} "
            f"&& {{ [ -d {name} ] && $B rm -rf {name}; $B mv -f {fresh} {name}; }};; esac"
        )
    return "\n".join(lines) + "\n"


def static(raw: bytes) -> bool:
    """Whether bytes are a 64-bit ELF program that needs no loader (it has no PT_INTERP header)."""
    if raw[:5] != b"\x7fELF\x02":
        return False
    at, size, count = (int.from_bytes(raw[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    kinds = (int.from_bytes(raw[at + n * size : at + n * size + 4], "little") for n in range(count))
    return 3 not in kinds
