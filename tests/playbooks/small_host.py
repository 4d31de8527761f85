"""A small host with every kind of file, and what enrolment would have recorded of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import attributes, index, places, pristine, restoring, steps, tracked, trees

MOST = pristine.Limits(1 << 20, 1 << 30)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="owners and attributes are root's to change")


def build(tmp_path: Path) -> Path:
    """A small host: every kind of file, in places of different rules."""
    top = tmp_path / "host"
    for folder in (
        "etc/cron.d",
        "etc/ssh",
        "usr/bin",
        "usr/lib/x",
        "var/log",
        "var/cache",
        "var/lib/dhcp",
        "root",
    ):
        (top / folder).mkdir(parents=True)
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (top / "etc/cron.d/platform").write_text("* * * * * root true\n")
    (top / "etc/cron.d/link").symlink_to("platform")
    (top / "usr/bin/tool").write_bytes(os.urandom(40_000))
    (top / "usr/bin/tool").chmod(0o755)
    (top / "usr/bin/twin").write_bytes((top / "usr/bin/tool").read_bytes())
    (top / "etc/empty").touch()
    os.mkfifo(top / "etc/pipe")
    (top / "var/cache/list").write_text("old")
    (top / "var/mail").symlink_to("spool/mail")
    (top / "var/lib/dhcp/lease").write_text("old")
    (top / "var/log/syslog").write_text("secret")
    (top / "root/.bash_history").write_text("secret")
    return top


class Enrolled:
    """The small host with what enrolment would have recorded of it."""

    def __init__(
        self, root: Path, place: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool = True
    ) -> None:
        self.root, self.store = root, root.parent / "store"
        table = places.Rules(["/root"], ["/var/mail"])
        rows = trees.Scan(table, root=str(root)).run()
        raw = index.encode(rows)
        place.write_bytes(raw)
        monkeypatch.setattr(index, "PLACE", place)
        known = {
            **index.summary(raw, rows),
            "emptied": ["/var/mail"],
            "skip": [],
            "mounts": [],
            "store": list(MOST),
        }
        content = tracked.contents(rows, ["/etc"], tracked.Budget(), str(root)) if kept else {}
        self.manifest: dict[str, Any] = {"index": known, "homes": {"root": "/root"}, "files": content}
        self.store.mkdir()
        pristine.fill(pristine.wanted(rows, table, MOST), self.store, str(root))

    def trees(self) -> restoring.Trees:
        return restoring.Trees(self.manifest, str(self.root), self.store)

    def difference(self, *, strictly: bool = True) -> trees.Difference:
        here = self.trees()
        return trees.compare(here.before, here.scan(), here.table, strictly=strictly)

    def mend(self) -> tuple[steps.Step, list[str]]:
        step = steps.Step("wipe")
        _, stuck = self.trees().mend(step, lambda _path: True)
        return step, stuck


def set_flag(path: Path, flag: int) -> None:
    handle = os.open(path, os.O_RDONLY)
    attributes.set_flags(handle, flag)
    there = attributes.get_flags(handle)
    os.close(handle)
    if not there:
        pytest.skip("this file system has no such attributes")
