"""Single files: the content that the ledger keeps of small ones; how one is written and removed for sure."""

from __future__ import annotations

import base64
import errno
import os
import re
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils import attributes
from ansible.module_utils.index import Rows, under
from ansible.module_utils.steps import StepFailed

Entry = dict[str, Any]
CONTENT_LIMIT = 32 * 1024


@dataclass
class Budget:
    """How many bytes of encoded content a record may still take."""

    left: int = 120 * 1024

    def take(self, encoded: str) -> bool:
        if len(encoded) > self.left:
            return False
        self.left -= len(encoded)
        return True


def encode(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def content(entry: Entry) -> bytes | None:
    return zlib.decompress(base64.b64decode(entry["content"])) if "content" in entry else None


def contents(rows: Rows, tops: Iterable[str], budget: Budget, root: str = "") -> dict[str, Entry]:
    """Small files of the index below the tops, with their content, in the tops' order while there is room."""
    found: dict[str, Entry] = {}
    for top in tops:
        for path in sorted(rows):
            row = rows[path]
            if path in found or row.kind != "f" or not row.data or row.size > CONTENT_LIMIT:
                continue
            if not under(path, [top]):
                continue
            encoded = encode(Path(f"{root}{path}").read_bytes())
            if budget.take(encoded):
                found[path] = {"sha256": row.data, "content": encoded}
    return found


def write(real: Path, raw: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically: a killed run leaves the old or the new one."""
    attributes.unlock(str(real))
    real.parent.mkdir(parents=True, exist_ok=True)
    attributes.unlock(str(real.parent))
    fresh = real.with_name(f".{real.name[:200]}.ironyard")
    remove(fresh)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as target:
        target.write(raw)
        target.flush()
        os.fsync(target.fileno())
    swap(fresh, real)


def swap(fresh: Path, real: Path) -> None:
    """Put a new file in an old one's place; what is mounted there can only be rewritten."""
    if real.is_dir() and not real.is_symlink():
        remove(real)
    try:
        fresh.replace(real)
    except OSError as error:
        if error.errno != errno.EBUSY or not real.is_file():
            raise
        with fresh.open("rb") as source, real.open("r+b") as target:
            target.truncate()
            for block in iter(lambda: source.read(1 << 20), b""):
                target.write(block)
        fresh.unlink()


def remove(real: Path) -> None:
    """Remove a file or a tree, however locked or deep; absent is success, a mount in it a StepFailed."""
    path = str(real)
    if not os.path.lexists(path):
        return
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            _remove_tree(path)
        else:
            _unlink(path)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise StepFailed(
                f"{error.filename or path} is in use or mounted: it cannot be removed"
            ) from error
        raise


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except PermissionError:
        attributes.unlock(path)
        attributes.unlock(os.path.dirname(path))
        os.unlink(path)


def _remove_tree(top: str) -> None:
    """Folders are first moved up to the top: no path gets longer, however deep the tree is."""
    attributes.unlock(os.path.dirname(top))
    points = mount_points()
    pending, emptied = [top], []
    while pending:
        folder = pending.pop()
        if folder in points:
            raise StepFailed(f"{folder} is mounted: what is in it is not removed")
        attributes.unlock(folder)
        with os.scandir(folder) as entries:
            children = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_folder in children:
            if is_folder:
                emptied.append(_lifted(path, f"{top}/.ironyard-{os.getpid()}-{len(emptied)}", points))
                pending.append(emptied[-1])
            else:
                _unlink(path)
    for folder in sorted(emptied, key=len, reverse=True):
        os.rmdir(folder)
    os.rmdir(top)


def _lifted(path: str, place: str, points: set[str]) -> str:
    """The folder's new place, or its old one where the file system does not move it."""
    if path in points:
        return path
    attributes.unlock(path)
    try:
        os.rename(path, place)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOTEMPTY, errno.EEXIST):
            raise
        return path
    return place


def mount_points(table: Path = Path("/proc/self/mountinfo")) -> set[str]:
    lines = table.read_bytes().splitlines()
    return {
        os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m.group(1), 8)]), line.split()[4]))
        for line in lines
    }
