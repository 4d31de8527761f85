"""The host's store of clean copies: filled at enrolment, trusted only as far as the index confirms it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils import attributes, index, places, tracked
from ansible.module_utils.index import Rows
from ansible.module_utils.steps import Step
from ansible.module_utils.threads import spread

STORE = Path("/var/lib/ironyard/pristine")
SHARE = 5  # at most one fifth of the free space
BLOCK = 1 << 20


class Limits(NamedTuple):
    """Bytes of one file and of the whole store."""

    one: int
    total: int


def place(digest: str, store: Path = STORE) -> Path:
    return store / digest[:2] / digest


def wanted(rows: Rows, table: places.Rules, limits: Limits) -> dict[str, str]:
    """Which contents the store holds, each with one path that has it; small files first, up to the limits."""
    found: dict[str, str] = {}
    left = limits.total
    files = ((row.size, path, row.data) for path, row in rows.items() if row.kind == "f" and row.data)
    for size, path, digest in sorted(files):
        if digest in found or table.of(path).content == "left":
            continue
        if size > min(left, limits.one):
            break
        found[digest] = path
        left -= size
    return found


def prepare(limits: Limits, store: Path = STORE) -> Limits:
    """Make the store's folders, as root's alone; the limits that its disk allows."""
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.parent.chmod(0o700)
    store.chmod(0o700)
    return Limits(limits.one, min(limits.total, shutil.disk_usage(store).free // SHARE))


def fill(contents: dict[str, str], store: Path = STORE, root: str = "") -> int:
    """Copy what is missing from the files that have it; returns how many objects were added."""
    missing = [(digest, path) for digest, path in contents.items() if not place(digest, store).exists()]
    for shelf in {digest[:2] for digest, _ in missing}:
        (store / shelf).mkdir(mode=0o700, exist_ok=True)
    return sum(spread(lambda item: _add(item[0], f"{root}{item[1]}", store), missing))


def _add(digest: str, real: str, store: Path) -> bool:
    target = place(digest, store)
    fresh = target.with_name(f"{digest}.new")
    try:
        with open(real, "rb") as source, open(fresh, "wb", opener=_private) as copy:
            good = _copied(source.fileno(), copy.fileno()) == digest
    except OSError:
        fresh.unlink(missing_ok=True)
        return False
    if good:
        fresh.chmod(0o400)
        fresh.replace(target)
    else:
        fresh.unlink()
    return good


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _copied(source: int, target: int | None) -> str:
    """Copy, or only read; the digest of what was there."""
    hashed = hashlib.sha256()
    while True:
        block = os.read(source, BLOCK)
        if not block:
            return hashed.hexdigest()[: index.DIGITS]
        hashed.update(block)
        view = memoryview(block)
        while target is not None and view:
            view = view[os.write(target, view) :]


def copy(digest: str, target: int, store: Path = STORE) -> bool:
    """Write the object to an open file; False when the store does not have it as it should be."""
    try:
        source = os.open(place(digest, store), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return _copied(source, target) == digest
    finally:
        os.close(source)


def listed(store: Path = STORE) -> Iterable[str]:
    """Everything in the store, below its shelves, as paths; folders that are no shelves as themselves."""
    if not store.is_dir() or store.is_symlink():
        return
    for shelf in sorted(os.listdir(store)):
        folder = store / shelf
        if len(shelf) != 2 or folder.is_symlink() or not folder.is_dir():
            yield str(folder)
            continue
        for name in sorted(os.listdir(folder)):
            yield str(folder / name)


def foreign(contents: Iterable[str], store: Path = STORE) -> list[str]:
    """Objects that the index does not name or whose bytes or rights are other than they should be."""
    known = set(contents)
    checked = spread(lambda path: (path, _good(path, known)), list(listed(store)))
    return sorted(path for path, fine in checked if not fine)


def _good(path: str, known: set[str]) -> bool:
    digest = os.path.basename(path)
    if digest not in known or os.path.islink(path) or not os.path.isfile(path):
        return False
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        info = os.fstat(handle)
        if (info.st_mode & 0o7777, info.st_uid, info.st_gid, info.st_nlink) != (0o400, 0, 0, 1):
            return False
        return not attributes.read(handle) and _copied(handle, None) == digest
    finally:
        os.close(handle)


def limits(manifest: dict[str, Any]) -> Limits:
    return Limits(*manifest["index"]["store"])


def clean(step: Step, contents: dict[str, str]) -> None:
    """Remove what is foreign, then copy anew what is missing from the files, which are as recorded by now."""
    for path in foreign(contents):
        step.gone("objects of the store", path)
        if not step.check:
            tracked.remove(Path(path))
    if not step.check:
        if STORE.is_symlink() or not STORE.is_dir():
            tracked.remove(STORE)
        prepare(Limits(0, 0))
        added = fill(contents)
        if added:
            step.did(f"the store holds {added} more clean copies")


def findings(contents: dict[str, str]) -> list[str]:
    return [
        f"the store of clean copies has a foreign or altered object: {path}" for path in foreign(contents)
    ]
