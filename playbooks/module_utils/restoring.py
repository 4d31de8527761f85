"""Bring the file trees back to the index: remove what is extra, put back what is missing or altered."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils import attributes, index, packages, places, pristine, tracked, trees
from ansible.module_utils.index import Row, Rows, shown
from ansible.module_utils.steps import Step, StepFailed

Chosen = Callable[[str], bool]


class Trees:
    """One host's trees, the index that they are compared with, and where their content can be had again."""

    def __init__(self, manifest: dict[str, Any], root: str = "", store: Path = pristine.STORE) -> None:
        self.table = trees.rules(manifest)
        self.before = index.load(manifest)
        self.kept: dict[str, tracked.Entry] = manifest["files"]
        self.contents = pristine.wanted(self.before, self.table, pristine.limits(manifest))
        self.root, self.store = root, store

    def scan(self, tops: Iterable[str] = trees.TOPS) -> Rows:
        return trees.Scan(self.table, self.before, self.root).run(tops)

    def difference(self, chosen: Chosen, tops: Iterable[str] = trees.TOPS) -> trees.Difference:
        """What reclaim has to mend among the chosen paths. Raises StepFailed when a disk is not mounted."""
        gone = [] if self.root else trees.unmounted(self.table)
        if gone:
            raise StepFailed(f"not mounted, but mounted at enrolment: {', '.join(gone)}")
        found = trees.compare(self.before, self.scan(tops), self.table, strictly=True, tops=tops)
        running = Path(__file__).parents
        return trees.Difference(
            [path for path in found.extra if chosen(path) and Path(path) not in running],
            [path for path in found.missing if chosen(path)],
            {path: what for path, what in found.altered.items() if chosen(path)},
        )

    def mend(
        self, step: Step, chosen: Chosen, tops: Iterable[str] = trees.TOPS
    ) -> tuple[trees.Difference, list[str]]:
        """Returns what was different, and the paths whose content is nowhere to be had."""
        found = self.difference(chosen, tops)
        for path in found.extra:
            step.gone(kind(path), shown(path))
            if not step.check:
                tracked.remove(Path(f"{self.root}{path}"))
        stuck = []
        for path in sorted([*found.missing, *found.altered]):
            step.gone("restored files", f"{shown(path)} ({found.altered.get(path, 'gone')})")
            if not step.check and not self.restore(path):
                stuck.append(path)
        return found, self.reinstalled(step, stuck)

    def reinstalled(self, step: Step, stuck: list[str]) -> list[str]:
        """What still differs after the packages that own the paths were unpacked again."""
        wanted = [path for path in stuck if self.table.of(path).content == "compared"]
        if not wanted or self.root:
            return wanted
        names = packages.owners(wanted)
        trouble = packages.reinstall(names)
        step.note(f"reinstalling {', '.join(names) or 'nothing'}: {trouble or 'done'}")
        now = trees.Scan(self.table, self.before).run(wanted)
        return sorted(trees.compare(self.before, now, self.table, strictly=True, tops=wanted).paths())

    def restore(self, path: str) -> bool:
        """Put one recorded file back; False when its content is nowhere to be had."""
        row, real = self.before[path], f"{self.root}{path}"
        if os.path.lexists(real):
            attributes.unlock(real)
            if trees.KINDS[stat.S_IFMT(os.lstat(real).st_mode)] != row.kind or row.kind in "cb":
                tracked.remove(Path(real))
        os.makedirs(os.path.dirname(real), exist_ok=True)
        good = self._content(path, row, real) if row.kind == "f" else _made(row, real)
        if os.path.lexists(real):  # not a socket, nor what another step writes
            _dress(row, real)
        if path.endswith(".pyc"):
            self._date_source(path)
        return good

    def _date_source(self, compiled: str) -> None:
        """Python compiles anew what has another time than its source: a source that was only touched."""
        folder, name = os.path.split(compiled)
        source = f"{os.path.dirname(folder)}/{name.split('.')[0]}.py"
        row, real = self.before.get(source), f"{self.root}{source}"
        if row and row.kind == "f" and os.path.isfile(real) and not os.path.islink(real):
            os.utime(real, (row.modified, row.modified))

    def _content(self, path: str, row: Row, real: str) -> bool:
        if self.table.of(path).content == "left" or _holds(real, row):
            return True
        fresh = f"{os.path.dirname(real)}/.{row.data}.ironyard"
        attributes.unlock(os.path.dirname(real))
        tracked.remove(Path(fresh))
        target = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            good = self._fetch(path, row, target)
        finally:
            os.close(target)
        if good:
            tracked.swap(Path(fresh), Path(real))
        else:
            os.unlink(fresh)
        return good

    def _fetch(self, path: str, row: Row, target: int) -> bool:
        """The content as recorded, from the ledger's own copy or from the host's store; empty needs none."""
        raw = (
            tracked.content(self.kept.get(path, {}))
            if self.kept.get(path, {}).get("sha256") == row.data
            else None
        )
        if raw is not None or row.size == 0:
            with open(target, "wb", closefd=False) as out:
                out.write(raw or b"")
            return True
        if pristine.copy(row.data, target, self.store):
            return True
        twins = (other for other, known in self.before.items() if other != path and known.data == row.data)
        return any(self._from_twin(other, row, target) for other in twins)

    def _from_twin(self, other: str, row: Row, target: int) -> bool:
        """Another file of the host may hold the same content still."""
        real = f"{self.root}{other}"
        if not _holds(real, row):
            return False
        os.ftruncate(target, 0)
        os.lseek(target, 0, os.SEEK_SET)
        with open(real, "rb") as source, open(target, "wb", closefd=False) as out:
            out.write(source.read())
        return True


def _holds(real: str, row: Row) -> bool:
    if os.path.islink(real) or not os.path.isfile(real):
        return False
    with open(real, "rb") as source:
        return os.fstat(source.fileno()).st_size == row.size and trees.digest(source.fileno()) == row.data


def _made(row: Row, real: str) -> bool:
    """A folder, link, pipe or device; a socket is made by the service that listens on it."""
    if os.path.lexists(real) and row.kind != "l":
        return True
    if row.kind == "d":
        os.mkdir(real)
    elif row.kind == "l":
        fresh = Path(f"{os.path.dirname(real)}/.link.ironyard")
        tracked.remove(fresh)
        fresh.symlink_to(row.data)
        tracked.swap(fresh, Path(real))
    elif row.kind == "p":
        os.mkfifo(real)
    elif row.kind in "cb":
        major, minor = row.data.split(":")
        form = stat.S_IFCHR if row.kind == "c" else stat.S_IFBLK
        os.mknod(real, form | 0o600, os.makedev(int(major), int(minor)))
    return True


def _dress(row: Row, real: str) -> None:
    """Owner, mode, times and attributes, in the order in which none undoes another."""
    os.chown(real, row.uid, row.gid, follow_symlinks=False)
    if row.kind != "l":
        os.chmod(real, row.mode)
    if row.kind == "f":
        os.utime(real, (row.modified, row.modified))
    attributes.apply(real, row.attributes)


def of_identity(key_folders: Iterable[str]) -> Chosen:
    """The paths that the step `identity` restores; the rest is the step `wipe`'s."""
    tops = (*places.IDENTITY, *key_folders)
    return lambda path: index.under(path, tops)


def kind(path: str) -> str:
    """The word for a removed path in the report's counts."""
    words = (
        ("/var/spool/cron", "cron and at jobs"),
        ("/var/spool/at", "cron and at jobs"),
        ("/etc/cron", "cron and at jobs"),
        ("/etc/systemd", "unit files"),
        ("/run/systemd", "unit files"),
        ("/usr/lib/systemd", "unit files"),
        ("/usr/local/lib/systemd", "unit files"),
        ("/etc/sudoers", "sudoers files"),
        ("/home", "home files"),
        ("/root", "home files"),
    )
    if "/.ssh" in path:
        return "SSH keys"
    return next((word for top, word in words if path.startswith(top)), "files")
