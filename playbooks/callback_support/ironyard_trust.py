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
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin; umask 077; "
        f"take() {{ head -c {size} || dd bs=65536 iflag=fullblock,count_bytes count={size}; }} 2>/dev/null; "
        f"for d in {' '.join(PLACES)}; do d=$d/{name}; mkdir $d 2>/dev/null || {{ d=; continue; }}; "
        "printf '#!/bin/sh\\n' >$d/t; take </dev/zero >$d/busybox && chmod 700 $d/t && "
        '$d/t 2>/dev/null && break; rm -rf $d; d=; done; [ -n "$d" ] || exit 97; '
        "take >$d/busybox && chmod 700 $d/busybox && B=$d/busybox exec $d/busybox sh"
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
        if now is None and "/__pycache__/" not in path:  # Python makes these again
            found[path] = "missing"
        elif now not in (None, row.data):
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


def mend(want: Wanted, found: dict[str, str], mounts: Iterable[str], chattr: dict[str, str]) -> str:
    """The script that repairs: unmount, remove, and put back from the host's store of clean copies.

    Immutable files are freed by a copy of chattr that runs from the store with its own loader and libraries;
    an ld.so.preload is covered meanwhile, since every loader reads it.
    """
    lines = [
        "PATH=",
        "umask 022",
        "D=${B%/*}",
        "have() { s=$($B sha256sum $1 2>/dev/null); case $s in $2*) ;; *) false;; esac; }",
    ]
    lines += [f"$B umount -l {shlex.quote(point)} 2>/dev/null" for point in mounts]
    preload = found.get("/etc/ld.so.preload")
    if preload:
        lines.append(": >$D/empty; $B mount --bind $D/empty /etc/ld.so.preload")
    lines += _chattr(want, chattr)
    for path in found:
        folder = shlex.quote(path.rsplit("/", 1)[0] or "/")
        lines.append(f"c -i -a {folder} {shlex.quote(path)}")
    if preload:
        lines.append("$B umount -l /etc/ld.so.preload; c -i -a /etc/ld.so.preload")
    folders = sorted({path.rsplit("/", 1)[0] for path in found if path in want})
    lines += [f"[ -d {shlex.quote(folder)} ] || $B mkdir -p {shlex.quote(folder)}" for folder in folders]
    lines += [_mend_one(path, want.get(path)) for path in sorted(found)]
    return "\n".join(lines) + "\n"


def _chattr(want: Wanted, chattr: dict[str, str]) -> list[str]:
    """Lines that make `c` run chattr from the store; without its parts it does nothing."""
    loader = next((name for name in chattr if name.startswith("ld")), "")
    lines = []
    for name, path in chattr.items():
        if path in want:
            lines.append(
                f"have {_kept(want[path].data)} {want[path].data} && $B cp {_kept(want[path].data)} $D/{name}"
            )
    run = (
        f"$B chmod 700 $D/{loader} 2>/dev/null && $D/{loader} --library-path $D $D/chattr" if loader else ":"
    )
    return [*lines, f'c() {{ {run} "$@" 2>/dev/null; }}']


def _kept(digest: str) -> str:
    return f"{STORE}/{digest[:2]}/{digest}"


def _mend_one(path: str, row: Any) -> str:
    name, fresh = shlex.quote(path), shlex.quote(f"{path}.ironyard")
    if row is None:
        return f"$B rm -rf {name}"
    if row.kind == "l":
        return f"$B rm -rf {name}; $B ln -s {shlex.quote(row.data)} {name}"
    kept = _kept(row.data)
    return (
        f"have {kept} {row.data} && $B rm -rf {fresh} && $B cp {kept} {fresh} && "
        f"$B chown {row.uid}:{row.gid} {fresh} && $B chmod {row.mode:o} {fresh} && "
        f"$B touch -d @{row.modified} {fresh} && "  # compiled Python knows its source by the time
        f"{{ [ ! -d {name} ] || $B rm -rf {name}; }} && $B mv -f {fresh} {name}"
    )


def static(raw: bytes) -> bool:
    """Whether bytes are a 64-bit ELF program that needs no loader (it has no PT_INTERP header)."""
    if raw[:5] != b"\x7fELF\x02":
        return False
    at, size, count = (int.from_bytes(raw[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    kinds = (int.from_bytes(raw[at + n * size : at + n * size + 4], "little") for n in range(count))
    return 3 not in kinds
