"""File trees: read them as rows of the index, and say how they differ from it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils import attributes, index, places
from ansible.module_utils.index import Row, Rows, shown
from ansible.module_utils.threads import spread

TOPS = ("/", *places.RUNTIME)
BLOCK = 1 << 20
LISTED = 300
KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}
ON_DISK = {"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "f2fs", "zfs", "overlay"}


@dataclass(frozen=True)
class Difference:
    extra: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    altered: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.extra or self.missing or self.altered)

    def paths(self) -> list[str]:
        return [*self.extra, *self.missing, *self.altered]

    def findings(self) -> list[str]:
        """Sentences, some hundred of a kind at most."""
        found = _some("not in the manifest", [shown(path) for path in self.extra])
        found += _some("gone since enrolment", [shown(path) for path in self.missing])
        return found + _some(
            "altered since enrolment", [f"{shown(path)} ({what})" for path, what in self.altered.items()]
        )


def _some(words: str, paths: list[str]) -> list[str]:
    found = [f"{words}: {path}" for path in paths[:LISTED]]
    if len(paths) > LISTED:
        found.append(f"{words}: {len(paths) - LISTED} more")
    return found


def mounts(table: places.Rules, listing: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Where file systems of disks are mounted, as folders that belong to the index."""
    found = set()
    for line in listing.read_text(errors="surrogateescape").splitlines():
        left, right = line.split(" - ", 1)
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), left.split()[4])
        if right.split()[0] in ON_DISK and table.of(point).walk and os.path.isdir(point):
            found.add(point)
    return sorted(found)


def unmounted(table: places.Rules) -> list[str]:
    """File systems that enrolment knew and that are not there now: what is under them is not missing."""
    return sorted(table.mounts - set(mounts(table)))


def rules(manifest: dict[str, Any]) -> places.Rules:
    """The table of places with what enrolment knew of this host."""
    known = manifest["index"]
    return places.Rules(manifest["homes"].values(), known["emptied"], known["skip"], known["mounts"])


class Scan:
    """Reads trees below ``root``. With ``before`` only what could be as recorded is read to its end."""

    def __init__(self, table: places.Rules, before: Rows | None = None, root: str = "") -> None:
        self.table, self.before, self.root = table, before, root
        self.rows: Rows = {}
        self.files: list[tuple[str, os.stat_result]] = []

    def run(self, tops: Iterable[str] = TOPS) -> Rows:
        for top in tops:
            self._top(top)
        self.files.sort(key=lambda item: -item[1].st_size)
        self.rows.update({path: row for path, row in spread(self._read, self.files) if row})
        return self.rows

    def _top(self, top: str) -> None:
        real = f"{self.root}{top}"
        if not os.path.lexists(real):
            return
        info, rule = os.lstat(real), self.table.of(top)
        self._note(top, info, rule)
        pending = [(top, info.st_dev, rule)] if self._enters(top, info, rule, info.st_dev) else []
        while pending:
            folder, device, rule = pending.pop()
            for name, info in self._names(folder):
                path = f"{folder.rstrip('/')}/{name}"
                child = self.table.child(folder, name, rule)
                if self.before is None and path in self.table.traces:
                    continue
                self._note(path, info, child)
                if self._enters(path, info, child, device):
                    pending.append((path, info.st_dev, child))

    def _names(self, folder: str) -> list[tuple[str, os.stat_result]]:
        found = []
        try:
            with os.scandir(f"{self.root}{folder}") as entries:
                for entry in entries:
                    try:
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue
        except (FileNotFoundError, NotADirectoryError):
            return []
        return found

    def _enters(self, path: str, info: os.stat_result, rule: places.Rule, device: int) -> bool:
        """Folders of our file systems; a folder that enrolment did not see goes whole, whatever is in it."""
        if not stat.S_ISDIR(info.st_mode) or not rule.walk:
            return False
        if info.st_dev != device and path not in self.table.mounts:
            return False
        return self.before is None or (path in self.before and self.before[path].kind == "d")

    def _note(self, path: str, info: os.stat_result, rule: places.Rule) -> None:
        kind = KINDS[stat.S_IFMT(info.st_mode)]
        if kind != "d" and rule.additions == "kept":
            return
        if kind in "df":
            self.files.append((path, info))
            return
        real, data = f"{self.root}{path}", ""
        if kind == "l":
            data = os.readlink(real)
        elif kind in "cb":
            data = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
        self.rows[path] = _row(kind, info, data, attributes.read(real))

    def _read(self, item: tuple[str, os.stat_result]) -> tuple[str, Row | None]:
        """A file or folder from an open handle, so that size, content and attributes are of one thing."""
        path, info = item
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            handle = os.open(f"{self.root}{path}", flags)
        except FileNotFoundError:  # it went away while we looked
            return path, None
        try:
            info = os.fstat(handle)
            kind = KINDS[stat.S_IFMT(info.st_mode)]
            data = digest(handle) if kind == "f" and self._worth(path, info) else ""
            return path, _row(kind, info, data, attributes.read(handle))
        finally:
            os.close(handle)

    def _worth(self, path: str, info: os.stat_result) -> bool:
        if self.table.of(path).content == "left":
            return False
        if self.before is None:
            return True
        known = self.before.get(path)
        return known is not None and known.kind == "f" and known.size == info.st_size


def _row(kind: str, info: os.stat_result, data: str, found: str) -> Row:
    mode = stat.S_IMODE(info.st_mode) if kind != "l" else 0
    size = info.st_size if kind == "f" else 0
    return Row(kind, mode, info.st_uid, info.st_gid, size, int(info.st_mtime), data, found)


def digest(handle: int) -> str:
    hashed = hashlib.sha256()
    while True:
        block = os.read(handle, BLOCK)
        if not block:
            return hashed.hexdigest()[: index.DIGITS]
        hashed.update(block)


def compare(
    before: Rows, now: Rows, table: places.Rules, *, strictly: bool, tops: Iterable[str] = TOPS
) -> Difference:
    """How ``now`` differs below the tops.

    ``strictly`` counts what a service may do meanwhile as well: reclaim removes it, verify does not mind.
    """
    tops = tuple(tops)
    whole = "/" in tops
    extra = [path for path in sorted(now.keys() - before.keys()) if _unwanted(table.of(path), strictly)]
    missing = [
        path
        for path in sorted(before.keys() - now.keys())
        if (whole or index.under(path, tops)) and _missed(before[path], table.of(path), strictly)
    ]
    altered = {}
    for path in sorted(before.keys() & now.keys()):
        if before[path] != now[path]:
            what = changes(before[path], now[path], table.of(path), strictly=strictly)
            if what:
                altered[path] = what
    return Difference(extra, missing, altered)


def _unwanted(rule: places.Rule, strictly: bool) -> bool:
    return rule.additions == "finding" or (strictly and rule.additions == "removed")


def _missed(row: Row, rule: places.Rule, strictly: bool) -> bool:
    """Sockets are made by who listens; what may come and go is only put back, and never a finding."""
    if row.kind == "s" or (rule.content == "left" and row.kind == "f"):
        return False
    return rule.additions != "removed" or (strictly and rule.content != "left")


def changes(before: Row, now: Row, rule: places.Rule, *, strictly: bool) -> str:
    """What differs, in words; '' when nothing does that counts."""
    if before.kind != now.kind:
        return "another kind of file"
    found = []
    counts = rule.content == "compared" or (strictly and rule.content == "restored")
    counts = counts or (before.kind != "f" and rule.additions == "finding")  # where a link leads, always
    if counts and (before.data, before.size) != (now.data, now.size):
        found.append("content" if before.kind == "f" else "target")
    if (before.mode, before.uid, before.gid) != (now.mode, now.uid, now.gid):
        found.append("mode or owner")
    if before.attributes != now.attributes:
        found.append("attributes")
    return ", ".join(found)
