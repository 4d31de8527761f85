"""Files whose state is part of a clean host: recorded at enrolment, compared and restored at reclaim."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils import places
from ansible.module_utils.steps import StepFailed, run

ROOT = Path("/")
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


@dataclass(frozen=True)
class Difference:
    extra: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.extra or self.missing or self.altered)

    def findings(self) -> list[str]:
        return (
            [f"not in the manifest: {path}" for path in self.extra]
            + [f"gone since enrolment: {path}" for path in self.missing]
            + [f"altered since enrolment: {path}" for path in self.altered]
        )


def walk(path: str, root: Path = ROOT, skip: Iterable[str] = ()) -> Iterator[str]:
    """The path itself and everything under it, parents first, never through a link.

    ``skip`` leaves out whole trees.
    """
    if path in places.NEVER or path in skip:
        return
    real = root / path.lstrip("/")
    if not os.path.lexists(real):
        return
    yield path
    if real.is_dir() and not real.is_symlink():
        for child in sorted(os.listdir(real)):
            yield from walk(f"{path.rstrip('/')}/{child}", root, skip)


def describe(path: str, root: Path = ROOT) -> Entry:
    """One file as recorded: type, mode, owner, and for files the SHA-256, for links the target."""
    real = root / path.lstrip("/")
    info = real.lstat()
    entry: Entry = {"mode": f"{stat.S_IMODE(info.st_mode):04o}", "uid": info.st_uid, "gid": info.st_gid}
    if stat.S_ISLNK(info.st_mode):
        return {"type": "link", "target": os.readlink(real), "uid": info.st_uid, "gid": info.st_gid}
    if stat.S_ISDIR(info.st_mode):
        return {"type": "directory", **entry}
    if stat.S_ISREG(info.st_mode):
        return {"type": "file", **entry, "sha256": digest(real)}
    return {"type": "special", **entry}


def digest(real: Path) -> str:
    hashed = hashlib.sha256()
    with real.open("rb") as source:
        for block in iter(lambda: source.read(1 << 20), b""):
            hashed.update(block)
    return hashed.hexdigest()


def record(
    paths: Iterable[str], root: Path = ROOT, budget: Budget | None = None, skip: Iterable[str] = ()
) -> dict[str, Entry]:
    """Every file under the paths.

    With a budget, small files keep their content so that it can be restored.
    """
    entries: dict[str, Entry] = {}
    for top in paths:
        for path in walk(top, root, skip):
            try:
                entries[path] = describe(path, root)
            except FileNotFoundError:  # it went away while we looked
                continue
            real = root / path.lstrip("/")
            if budget and entries[path]["type"] == "file" and real.lstat().st_size <= CONTENT_LIMIT:
                encoded = encode(real.read_bytes())
                if budget.take(encoded):
                    entries[path]["content"] = encoded
    return entries


def encode(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def content(entry: Entry) -> bytes | None:
    return zlib.decompress(base64.b64decode(entry["content"])) if "content" in entry else None


def compare(baseline: dict[str, Entry], current: dict[str, Entry]) -> Difference:
    def plain(entry: Entry) -> Entry:
        return {key: said for key, said in entry.items() if key != "content"}

    both = baseline.keys() & current.keys()
    return Difference(
        extra=sorted(current.keys() - baseline.keys()),
        missing=sorted(baseline.keys() - current.keys()),
        altered=sorted(path for path in both if plain(baseline[path]) != plain(current[path])),
    )


def under(entries: dict[str, Entry], paths: Iterable[str]) -> dict[str, Entry]:
    """The part of a record that lies at or below the paths."""
    tops = tuple(paths)
    return {
        path: entry
        for path, entry in entries.items()
        if any(path == t or path.startswith(f"{t}/") for t in tops)
    }


def restore(path: str, entry: Entry, root: Path = ROOT) -> None:
    """Put one recorded file back. Raises StepFailed when its content was not kept."""
    real = root / path.lstrip("/")
    raw = content(entry)
    exists = os.path.lexists(real)
    if entry["type"] == "special" or (
        entry["type"] == "file" and raw is None and not (exists and _same_content(real, entry))
    ):
        raise StepFailed(
            f"{path} was altered or removed and its content is not in the manifest: it cannot be restored"
        )
    if exists and _type(real) != entry["type"]:
        remove(real)
    if entry["type"] == "directory":
        real.mkdir(parents=True, exist_ok=True)
    elif entry["type"] == "link":
        _replace_link(real, entry["target"])
    elif raw is not None and not _same_content(real, entry):
        write(real, raw)
    os.chown(real, entry["uid"], entry["gid"], follow_symlinks=False)
    if entry["type"] != "link":
        real.chmod(int(entry["mode"], 8))


def write(real: Path, raw: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically: a killed run leaves the old or the new one."""
    if os.path.lexists(real):
        _release(real)
    real.parent.mkdir(parents=True, exist_ok=True)
    fresh = real.with_name(f".{real.name}.ironyard")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as target:
        target.write(raw)
        target.flush()
        os.fsync(target.fileno())
    fresh.replace(real)


def remove(real: Path) -> None:
    """Remove a file or a tree, through the immutable attribute as well; absent is success."""
    try:
        _remove(real)
    except PermissionError:
        run("chattr", "-R", "-i", "-a", str(real.parent if real.is_symlink() else real))
        _release(real.parent)
        _remove(real)


def _remove(real: Path) -> None:
    if real.is_dir() and not real.is_symlink():
        shutil.rmtree(real)
    else:
        real.unlink(missing_ok=True)


def _release(real: Path) -> None:
    if os.geteuid() == 0:
        run("chattr", "-i", "-a", str(real))


def _type(real: Path) -> str:
    mode = real.lstat().st_mode
    kinds = (("link", stat.S_ISLNK), ("directory", stat.S_ISDIR), ("file", stat.S_ISREG))
    return next((name for name, test in kinds if test(mode)), "special")


def _same_content(real: Path, entry: Entry) -> bool:
    return os.path.lexists(real) and _type(real) == "file" and digest(real) == entry["sha256"]


def _replace_link(real: Path, target: str) -> None:
    if real.is_symlink() and os.readlink(real) == target:
        return
    real.parent.mkdir(parents=True, exist_ok=True)
    fresh = real.with_name(f".{real.name}.ironyard")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(real)
