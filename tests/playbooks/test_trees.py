"""The index of a clean host's files: read, written down, compared, and every kind of damage mended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils import attributes, index, places, steps, trees

from tests.playbooks.small_host import ROOT_ONLY, Enrolled, build, set_flag


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


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


def test_a_source_that_was_only_touched_gets_its_time_back_with_its_bytecode(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "usr/lib/py"
    (folder / "__pycache__").mkdir(parents=True)
    source, compiled = folder / "a.py", folder / "__pycache__/a.cpython-311.pyc"
    source.write_text("x = 1\n")
    compiled.write_bytes(b"bytecode")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    host = Enrolled(root, tmp_path / "index.xz", monkeypatch)
    source.touch()
    compiled.write_bytes(b"compiled anew")
    host.mend()
    assert compiled.read_bytes() == b"bytecode"
    assert source.stat().st_mtime == 1_700_000_000


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
