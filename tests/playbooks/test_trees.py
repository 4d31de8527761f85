"""The index of a clean host's files: read, written down, compared, and every kind of damage mended."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import (
    attributes,
    index,
    packages,
    places,
    pristine,
    restoring,
    runtime,
    steps,
    tracked,
    trees,
)

MOST = pristine.Limits(1 << 20, 1 << 30)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="owners and attributes are root's to change")


@pytest.fixture
def root(tmp_path: Path) -> Path:
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


@pytest.fixture
def host(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    return Enrolled(root, tmp_path / "index.xz", monkeypatch)


def test_the_index_reads_back_as_it_was_written() -> None:
    names = ("/plain", "/with space", "/new\nline", "/tab\tand%", os.fsdecode(b"/\xff\xfe"), "/ümlaut")
    rows = {name: index.Row("l", 0, 1, 2, 0, 3, name, "user.x=YQ==") for name in names}
    raw = index.encode(rows)
    assert index.decode(raw) == rows
    assert index.encode(dict(reversed(rows.items()))) == raw
    with pytest.raises(steps.StepFailed, match="cannot be read"):
        index.decode(b"nonsense")


def test_an_index_that_is_absent_or_another_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "index.xz"
    raw = index.encode({})
    manifest = {"index": index.summary(raw, {})}
    with pytest.raises(steps.StepFailed, match="is not at"):
        index.load(manifest, place)
    place.write_bytes(raw)
    assert index.load(manifest, place) == {}
    place.write_bytes(index.encode({"/evil": index.Row("f", 0, 0, 0, 0, 0, "", "")}))
    with pytest.raises(steps.StepFailed, match="is not the index of this manifest"):
        index.load(manifest, place)


def test_a_clean_host_has_no_differences_and_traces_are_no_part_of_the_record(host: Enrolled) -> None:
    before = host.trees().before
    assert "/root/.bash_history" not in before
    assert "/var/log/syslog" not in before
    assert before["/var/log"].kind == "d"
    (host.root / "root/.bash_history").unlink()
    assert not host.difference()


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def refolder(path: Path) -> None:
    path.unlink()
    (path / "in").mkdir(parents=True)


def swap(root: Path) -> None:
    (root / "etc/cron.d").rename(root / "usr/lib/cron.d")
    (root / "etc/cron.d").symlink_to("../usr/lib/cron.d")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a file added": lambda root: (root / "etc/cron.d/evil").write_text("evil"),
    "a tree added": lambda root: (root / "evil/a/b").mkdir(parents=True),
    "a file with odd bytes": lambda root: (root / os.fsdecode(b"etc/\xff\n")).touch(),
    "a link added": lambda root: (root / "etc/evil").symlink_to("/etc/shadow"),
    "a hard link added": lambda root: (root / "etc/evil").hardlink_to(root / "usr/bin/tool"),
    "a pipe added": lambda root: os.mkfifo(root / "etc/evil"),
    "small content": lambda root: (root / "etc/passwd").write_text("evil"),
    "content of the same size": lambda root: (root / "usr/bin/tool").write_bytes(b"e" * 40_000),
    "a file emptied": lambda root: (root / "usr/bin/tool").write_bytes(b""),
    "a file gone": lambda root: (root / "usr/bin/tool").unlink(),
    "an empty file gone": lambda root: (root / "etc/empty").unlink(),
    "a pipe gone": lambda root: (root / "etc/pipe").unlink(),
    "a link led elsewhere": lambda root: relink(root / "etc/cron.d/link", "/etc/shadow"),
    "a file became a link": lambda root: relink(root / "etc/passwd", "/etc/shadow"),
    "a file became a folder": lambda root: refolder(root / "etc/passwd"),
    "a folder became a link": swap,
    "a folder gone": lambda root: subprocess.run(["rm", "-r", root / "etc/cron.d"], check=True),
    "a mode": lambda root: (root / "usr/bin/tool").chmod(0o4755),
    "a folder's mode": lambda root: (root / "etc/cron.d").chmod(0o1777),
    "a link in a place that is emptied": lambda root: relink(root / "var/mail", "/etc"),
    "a cache": lambda root: (root / "var/cache/list").write_text("new"),
    "something added to a cache": lambda root: (root / "var/cache/evil").touch(),
    "something added to live state": lambda root: (root / "var/lib/dhcp/evil").touch(),
    "a history": lambda root: (root / "root/.bash_history").write_text("secret"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_seen_and_mended(host: Enrolled, damage: str) -> None:
    (host.root / "root/.bash_history").unlink()
    DAMAGE[damage](host.root)
    assert host.difference()
    step, stuck = host.mend()
    assert stuck == []
    assert step.changed
    assert not host.difference()
    assert host.trees().scan().keys() == host.trees().before.keys()


def test_live_state_is_left_and_caches_are_no_finding(host: Enrolled) -> None:
    (host.root / "root/.bash_history").unlink()
    (host.root / "var/lib/dhcp/lease").write_text("renewed")
    assert not host.difference()
    (host.root / "var/cache/more").touch()
    (host.root / "var/cache/list").write_text("new")
    assert host.difference()
    assert not host.difference(strictly=False)


def test_times_are_put_back_with_the_content(host: Enrolled) -> None:
    """Python compiles a module anew whose time is not the one in its bytecode."""
    tool = host.root / "usr/bin/tool"
    then = int(tool.stat().st_mtime) - 1000
    os.utime(host.root / "usr/bin/twin", (then, then))
    assert "/usr/bin/twin" not in host.difference().altered
    tool.write_bytes(b"evil")
    host.mend()
    assert int(tool.stat().st_mtime) == host.trees().before["/usr/bin/tool"].modified


@ROOT_ONLY
@pytest.mark.parametrize(
    "damage", ["owner", "capability", "xattr", "default ACL", "immutable", "append-only"]
)
def test_owners_and_attributes_are_part_of_the_record(host: Enrolled, damage: str) -> None:
    (host.root / "root/.bash_history").unlink()
    tool, folder = host.root / "usr/bin/tool", host.root / "etc/cron.d"
    if damage == "owner":
        os.chown(tool, 1234, 1234)
    elif damage == "capability":
        os.setxattr(tool, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    elif damage == "xattr":
        os.setxattr(tool, "user.evil", b"1")
    elif damage == "default ACL":
        entry = "0200000001000700ffffffff02000700050000000400 0500ffffffff10000700ffffffff20000500ffffffff"
        os.setxattr(folder, "system.posix_acl_default", bytes.fromhex(entry.replace(" ", "")))
    else:
        set_flag(tool, 0x10 if damage == "immutable" else 0x20)
        set_flag(folder, 0x10)
    assert host.difference().altered
    _, stuck = host.mend()
    assert stuck == []
    assert not host.difference()


def set_flag(path: Path, flag: int) -> None:
    handle = os.open(path, os.O_RDONLY)
    attributes.set_flags(handle, flag)
    there = attributes.get_flags(handle)
    os.close(handle)
    if not there:
        pytest.skip("this file system has no such attributes")


@ROOT_ONLY
def test_a_recorded_flag_is_put_back(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "root/.bash_history").unlink()
    set_flag(root / "etc/passwd", 0x10)
    host = Enrolled(root, tmp_path / "index.xz", monkeypatch)
    attributes.unlock(str(root / "etc/passwd"))
    (root / "etc/passwd").write_text("evil")
    host.mend()
    assert not host.difference()
    attributes.unlock(str(root / "etc/passwd"))


@ROOT_ONLY
def test_locked_trees_are_removed(tmp_path: Path) -> None:
    inner = tmp_path / "a/b/c"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    for path in (inner / "file", inner, tmp_path / "a/b", tmp_path / "a"):
        set_flag(path, 0x10)
    tracked.remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    home = Path.cwd()
    os.chdir(top)
    for _ in range(1200):
        Path("dddddddd").mkdir()
        os.chdir("dddddddd")
    Path("bottom").touch()
    os.chdir(home)
    tracked.remove(top)
    assert not top.exists()


def test_removing_what_is_absent_or_a_link_touches_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    tracked.remove(tmp_path / "link")
    tracked.remove(tmp_path / "absent")
    assert (tmp_path / "kept/file").exists()


def test_what_is_mounted_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "top/point").mkdir(parents=True)
    (tmp_path / "top/point/data").touch()
    monkeypatch.setattr(tracked, "mount_points", lambda: {str(tmp_path / "top/point")})
    with pytest.raises(steps.StepFailed, match="point is mounted"):
        tracked.remove(tmp_path / "top")
    assert (tmp_path / "top/point/data").exists()


def test_a_busy_target_is_rewritten_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "hosts"
    target.write_text("a much longer text of the tenant")

    def busy(self: Path, other: Path) -> None:
        raise OSError(16, "busy")

    monkeypatch.setattr(Path, "replace", busy)
    tracked.write(target, b"platform")
    assert target.read_bytes() == b"platform"
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]


class Sources:
    """Where content comes from, one source taken away after the other."""

    def __init__(self, host: Enrolled) -> None:
        self.host, self.tool = host, host.root / "usr/bin/tool"
        self.object = pristine.place(host.trees().before["/usr/bin/tool"].data, host.store)

    def damaged(self) -> list[str]:
        self.tool.write_bytes(b"evil")
        return self.host.mend()[1]


def test_a_changed_clean_copy_is_not_used(host: Enrolled) -> None:
    sources = Sources(host)
    sources.object.chmod(0o600)
    sources.object.write_bytes(b"e" * 40_000)
    (host.root / "usr/bin/twin").unlink()
    assert sources.damaged() == ["/usr/bin/tool", "/usr/bin/twin"]
    assert not (host.root / "usr/bin/twin").exists()
    assert sources.tool.read_bytes() == b"evil"
    assert not list(sources.tool.parent.glob(".*ironyard*"))


def test_a_twin_on_the_host_will_do(host: Enrolled) -> None:
    sources = Sources(host)
    sources.object.unlink()
    assert sources.damaged() == []
    assert sources.tool.read_bytes() == (host.root / "usr/bin/twin").read_bytes()


def test_the_ledgers_copy_needs_no_store(host: Enrolled) -> None:
    subprocess.run(["rm", "-r", host.store], check=True)
    (host.root / "etc/passwd").write_text("evil")
    assert host.mend()[1] == []
    assert (host.root / "etc/passwd").read_text().startswith("root:")


@ROOT_ONLY
def test_the_store_holds_what_the_index_names_and_nothing_else(host: Enrolled) -> None:
    here = host.trees()
    assert pristine.foreign(here.contents, host.store) == []
    one, other, third = sorted(pristine.listed(host.store))[:3]
    Path(one).chmod(0o600)
    Path(one).write_text("evil")
    Path(other).chmod(0o644)
    (host.store / "evil").mkdir()
    (host.store / "ab").mkdir(exist_ok=True)
    (host.store / "ab/evil").write_text("evil")
    found = pristine.foreign(here.contents, host.store)
    assert sorted(found) == sorted([one, other, f"{host.store}/ab/evil", f"{host.store}/evil"])
    assert third not in found
    Path(one).unlink()
    assert pristine.fill(here.contents, host.store, str(host.root)) == 1


def test_the_store_keeps_to_its_limits(host: Enrolled) -> None:
    here = host.trees()
    small = pristine.wanted(here.before, here.table, pristine.Limits(1000, 1 << 30))
    assert "/usr/bin/tool" not in small.values()
    assert "/etc/passwd" in small.values()
    smallest = pristine.wanted(here.before, here.table, pristine.Limits(1 << 20, 10))
    assert sorted(smallest.values()) == ["/etc/empty", "/var/cache/list"]


def test_the_ledger_keeps_small_content_within_its_budget(host: Enrolled) -> None:
    rows = host.trees().before
    kept = tracked.contents(rows, ["/etc"], tracked.Budget(), str(host.root))
    assert tracked.content(kept["/etc/passwd"]) == (host.root / "etc/passwd").read_bytes()
    assert "/usr/bin/tool" not in kept
    assert tracked.contents(rows, ["/etc"], tracked.Budget(left=0), str(host.root)) == {}


def test_rules_pass_down_and_the_nearest_one_wins() -> None:
    table = places.Rules(["/root"], ["/tmp"], ["/data"], [])
    assert table.of("/usr/bin/tool") is places.STRICT
    assert table.of("/var/log/deep/file").additions == "kept"
    assert table.of("/var/lib/docker/overlay2/x").walk is False
    assert table.of("/var/lib/docker/evil").additions == "finding"
    assert table.of("/var/lib/nvidia-something/state").content == "left"
    assert table.of("/usr/lib/python3/__pycache__/x.pyc").additions == "removed"
    assert table.of("/etc/ssh/ssh_host_rsa_key").content == "left"
    assert table.of("/run/systemd/system/x.service") is places.STRICT
    assert table.of("/run/other").walk is False
    assert table.of("/tmp").walk is False
    assert table.of("/data/set").additions == "kept"


def test_every_rule_says_why() -> None:
    rules = [*places.RULES.values(), *(rule for rows in places.PATTERNS.values() for _, rule in rows)]
    assert all(len(rule.reason) > 5 for rule in rules)
    assert {rule.additions for rule in rules} <= {"finding", "removed", "kept"}
    assert {rule.content for rule in rules} <= {"compared", "restored", "left"}


def test_mounts_of_disks_only(tmp_path: Path) -> None:
    listing = tmp_path / "mountinfo"
    (tmp_path / "a b").mkdir()
    escaped = str(tmp_path / "a b").replace(" ", "\\040")
    listing.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:5 / /proc rw - proc proc rw\n"
        f"24 22 8:2 / {escaped} rw - xfs /dev/sdb1 rw\n"
        "25 22 8:3 / /var/log rw - ext4 /dev/sdc1 rw\n"
    )
    assert trees.mounts(places.Rules(), listing) == ["/", str(tmp_path / "a b")]


def test_findings_are_sentences_and_not_endless() -> None:
    difference = trees.Difference([f"/evil/{n:04}" for n in range(1000)], ["/gone"], {"/etc/x": "content"})
    found = difference.findings()
    assert found[0] == "not in the manifest: /evil/0000"
    assert "not in the manifest: 700 more" in found
    assert found[-2:] == ["gone since enrolment: /gone", "altered since enrolment: /etc/x (content)"]


def test_packages_of_both_families() -> None:
    text = "ii \tbash\t5.2-1\nrc \told\t1\nii \tlibc6:amd64\t2.36\n"
    text += "ii\tkernel.x86_64\t0:5.1-1\nii\tkernel.x86_64\t0:5.2-1\n"
    now = packages.parse(text)
    assert now == {"bash": "5.2-1", "libc6:amd64": "2.36", "kernel.x86_64": "0:5.1-1, 0:5.2-1"}
    assert packages.findings(now, {"bash": "5.3", "evil": "1", "libc6:amd64": "2.36"}) == [
        "package evil is not in the manifest",
        "package kernel.x86_64 is gone",
        "package bash is 5.3, was 5.2-1",
    ]


def test_packages_that_cannot_be_listed_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "run", lambda *argv, timeout: steps.Ran(argv, 2, "", "database is broken"))
    with pytest.raises(steps.StepFailed, match="cannot be listed"):
        packages.record()


@ROOT_ONLY
def test_what_lies_in_memory_without_an_owner(tmp_path: Path) -> None:
    top = str(tmp_path)
    for folder in ("run/lock", "run/sudo/ts", "dev/shm", "sys/dev/char/1:3", "sys/dev/char/1:5"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run/cron.pid").touch()
    (tmp_path / "sys/dev/char/1:3/uevent").write_text("MAJOR=1\nDEVNAME=null\n")
    os.mknod(tmp_path / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "dev/log").symlink_to("/run/log")
    before = runtime.record(top)
    assert runtime.foreign(before, top) == []
    os.mknod(tmp_path / "dev/evil", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "dev/.hidden").mkdir()
    (tmp_path / "dev/shm/file").touch()
    for name in ("run/evil", "run/docker.sock", "run/lock/evil", "run/sudo/ts/eve", "dev/link"):
        (tmp_path / name).touch()
    assert runtime.foreign(before, top) == [
        "/run/evil",
        "/run/lock/evil",
        "/run/sudo/ts/eve",
        "/dev/.hidden",
        "/dev/evil",
        "/dev/link",
        "/dev/shm/file",
    ]


def test_paths_of_the_report_are_capped_and_text() -> None:
    step = steps.Step("wipe")
    for number in range(250):
        step.gone("files", f"/evil/{number}")
    step.gone("homes", os.fsdecode(b"/home/\xff"))
    result = step.result()
    assert len(result["paths"]["files"]) == 200
    assert result["paths_dropped"] == 50
    assert base64.b64encode(result["paths"]["homes"][0].encode())
