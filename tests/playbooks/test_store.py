"""What is removed for sure, where content comes from, and what lies in memory."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils import packages, pristine, runtime, steps, tracked

from tests.playbooks.small_host import ROOT_ONLY, Enrolled, build, set_flag


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


@pytest.fixture
def host(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    return Enrolled(root, tmp_path / "index.xz", monkeypatch)


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
