"""The index: one line for every file of a clean host, kept apart from the manifest because it is large."""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ansible.module_utils.steps import StepFailed

# Where the action plugin ironyard_index puts it before a play's first module runs.
PLACE = Path("/run/ironyard/index.xz")
DIGITS = 32  # of the SHA-256: 128 bits
PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


class Row(NamedTuple):
    """One file. ``kind`` is find(1)'s letter, ``data`` a file's digest, a link's target, a device's numbers.

    ``modified`` (seconds) is restored and never compared; ``attributes`` are flags, ACLs and other xattrs.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    modified: int
    data: str
    attributes: str


Rows = dict[str, Row]


def shown(path: str) -> str:
    """A path as text for people and for the index: bytes that are not plain are written %XX."""
    return quote_from_bytes(os.fsencode(path), safe=PLAIN)


def meant(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text)) if "%" in text else text


def encode(rows: Rows) -> bytes:
    lines = []
    for path in sorted(rows):
        row = rows[path]
        numbers = f"{row.mode:o}\t{row.uid}\t{row.gid}\t{row.size}\t{row.modified}"
        lines.append(f"{row.kind}\t{numbers}\t{shown(row.data)}\t{row.attributes}\t{shown(path)}\n")
    return lzma.compress("".join(lines).encode(), preset=2)


def decode(raw: bytes) -> Rows:
    """Raises StepFailed when the bytes are no index."""
    rows: Rows = {}
    try:
        for line in lzma.decompress(raw).decode().splitlines():
            kind, mode, uid, gid, size, modified, data, attributes, path = line.split("\t")
            rows[meant(path)] = Row(
                kind, int(mode, 8), int(uid), int(gid), int(size), int(modified), meant(data), attributes
            )
    except (lzma.LZMAError, ValueError) as error:
        raise StepFailed(f"the index cannot be read: {error}") from error
    return rows


def summary(raw: bytes, rows: Rows) -> dict[str, Any]:
    """What the manifest says of its index."""
    return {"sha256": hashlib.sha256(raw).hexdigest(), "entries": len(rows), "bytes": len(raw)}


def load(manifest: dict[str, Any], place: Path | None = None) -> Rows:
    """The host's index. Raises StepFailed when it is not on the host or not the one of this manifest."""
    place = place or PLACE
    if not place.exists():
        raise StepFailed(f"the manifest's index is not at {place}: the role `index` brings it, run it first")
    raw = place.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != manifest["index"]["sha256"]:
        raise StepFailed(
            f"{place} is not the index of this manifest",
            [f"its SHA-256 is {found}, the manifest says {manifest['index']['sha256']}"],
        )
    return decode(raw)


def under(path: str, tops: Iterable[str]) -> bool:
    """Whether the path is one of the tops or lies below one."""
    return any(path == top or path.startswith(f"{top.rstrip('/')}/") for top in tops)
