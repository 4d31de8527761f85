"""How the controller judges the host's own tools, and the scripts by which a static tool looks and mends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible.module_utils import sshd, tools, tracked

from tests.playbooks.conftest import PLAYBOOKS

sys.path.insert(0, str(PLAYBOOKS / "callback_support"))
import ironyard_trust as trust


class Row(NamedTuple):
    kind: str
    mode: int
    uid: int
    gid: int
    data: str
    modified: int = 1_700_000_000


DIGEST = "a" * 32
BUSYBOX = Path("/usr/bin/busybox")
static = pytest.mark.skipif(
    not BUSYBOX.exists() or not trust.static(BUSYBOX.read_bytes()), reason="no static busybox"
)
ROWS = {
    "/usr/bin/tool": Row("f", 0o755, 0, 0, DIGEST),
    "/usr/bin/link": Row("l", 0o777, 0, 0, "tool"),
    "/usr/lib/python3/a.py": Row("f", 0o644, 0, 0, DIGEST),
    "/usr/lib/python3": Row("d", 0o755, 0, 0, ""),
    "/usr/share/other": Row("f", 0o644, 0, 0, DIGEST),
}
TOOLS = {"files": ["/usr/bin/tool"], "links": ["/usr/bin/link"], "trees": ["/usr/lib/python3"],
         "startup": ["/etc/ld.so.preload"]}  # fmt: skip


def seen(*lines: str) -> trust.Seen:
    clean = [
        "#mounts", "20 1 254:0 / / rw - ext4 /dev/vda rw", "#links", "tool\t/usr/bin/link", "#files",
        f"{DIGEST}ffff  /usr/bin/tool", f"{DIGEST}ffff  /usr/lib/python3/a.py",
    ]  # fmt: skip
    return trust.read("\n".join([*clean, *lines, "#end"]))


def test_what_is_asked_and_that_a_clean_host_has_no_problems() -> None:
    want = trust.wanted(ROWS, TOOLS)
    assert set(want) == {"/usr/bin/tool", "/usr/bin/link", "/usr/lib/python3/a.py"}
    assert seen().complete
    assert trust.problems(want, seen()) == {}


@pytest.mark.parametrize(
    ("line", "path", "what"),
    [
        (f"{'b' * 64}  /usr/bin/tool", "/usr/bin/tool", "altered"),
        (f"{'b' * 64}  /etc/ld.so.preload", "/etc/ld.so.preload", "foreign"),
        (f"{'b' * 64}  /usr/lib/python3/evil.pth", "/usr/lib/python3/evil.pth", "foreign"),
        ("#links\n/opt/evil\t/usr/bin/link", "/usr/bin/link", "altered"),
        ("#links\n/opt/evil\t/root/.bashrc", "/root/.bashrc", "foreign"),
    ],
)
def test_what_differs(line: str, path: str, what: str) -> None:
    assert trust.problems(trust.wanted(ROWS, TOOLS), seen(line))[path] == what


def test_what_is_gone_is_missing_and_an_answer_cut_short_is_none() -> None:
    empty = trust.read("#mounts\n#links\n#files\n#end")
    assert set(trust.problems(trust.wanted(ROWS, TOOLS), empty).values()) == {"missing"}
    assert not trust.read("#mounts\n#links\n").complete


def test_compiled_python_may_be_missing_but_not_altered() -> None:
    path = "/usr/lib/python3/__pycache__/a.pyc"
    want = trust.wanted({**ROWS, path: ROWS["/usr/lib/python3/a.py"]}, TOOLS)
    assert trust.problems(want, seen()) == {}
    assert trust.problems(want, seen(f"{'b' * 64}  {path}")) == {path: "altered"}


def test_mounts_over_tools_are_the_innermost_first() -> None:
    points = ["/usr", "/srv", "/usr/bin", "/usr/binary"]
    assert trust.covering(["/usr/bin/tool"], points) == ["/usr/bin", "/usr"]


def test_only_a_static_program_is_sent() -> None:
    assert not trust.static(Path("/bin/sh").read_bytes())
    assert not trust.static(b"#!/bin/sh\n")


def answer(folder: Path, script: str) -> trust.Seen:
    """Send the tool and a script to a shell as the plugin does over SSH."""
    raw = BUSYBOX.read_bytes()
    line = trust.bring("tool", len(raw)).replace(" ".join(trust.PLACES), str(folder))
    done = subprocess.run(
        ["/bin/sh", "-c", line], input=raw + script.encode(), capture_output=True, check=False
    )
    return trust.read(done.stdout.decode())


@static
def test_the_tool_looks_mends_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, host, store = tmp_path / "run", tmp_path / "host", tmp_path / "store"
    for folder in (place, host / "tree", store):
        folder.mkdir(parents=True)
    monkeypatch.setattr(trust, "STORE", str(store))
    rows: dict[str, Any] = {}
    for name in ("altered", "gone", "a name with 'odd' words"):
        file = host / name
        file.write_text(f"#!/bin/sh\n# {name}\n")
        digest = subprocess.check_output(["sha256sum", file], text=True).lstrip("\\")[: trust.DIGITS]
        rows[str(file)] = Row("f", 0o755, file.stat().st_uid, file.stat().st_gid, digest)
        (store / digest[:2]).mkdir(exist_ok=True)
        shutil.copy(file, store / digest[:2] / digest)
    rows[str(host / "link")] = Row("l", 0o777, 0, 0, "altered")
    (host / "link").symlink_to("/opt/evil")
    (host / "altered").write_text("evil")
    (host / "gone").unlink()
    (host / "tree" / "evil.pth").write_text("import os")
    scan = trust.scan(rows, [str(host / "tree")]) + trust.finish()

    before = answer(place, scan)
    problems = trust.problems(rows, before)
    assert problems == {
        str(host / "altered"): "altered",
        str(host / "gone"): "missing",
        str(host / "link"): "altered",
        str(host / "tree" / "evil.pth"): "foreign",
    }
    after = answer(place, trust.mend(rows, problems, [], {}) + scan)
    assert trust.problems(rows, after) == {}
    assert (host / "gone").stat().st_mode & 0o777 == 0o755
    assert (host / "gone").stat().st_mtime == 1_700_000_000
    assert list(place.iterdir()) == []


@static
def test_a_changed_clean_copy_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "STORE", str(tmp_path / "store"))
    file, digest = tmp_path / "file", "c" * 32
    file.write_text("evil")
    (tmp_path / "store" / "cc").mkdir(parents=True)
    (tmp_path / "store" / "cc" / digest).write_text("also evil")
    rows = {str(file): Row("f", 0o755, 0, 0, digest)}
    (tmp_path / "run").mkdir()
    script = trust.mend(rows, {str(file): "altered"}, [], {}) + trust.scan(rows, []) + trust.finish()
    assert trust.problems(rows, answer(tmp_path / "run", script)) == {str(file): "altered"}
    assert file.read_text() == "evil"


def test_a_host_where_no_program_may_run_gives_no_answer(tmp_path: Path) -> None:
    line = trust.bring("tool", 4).replace(" ".join(trust.PLACES), str(tmp_path / "no-such-folder"))
    done = subprocess.run(["/bin/sh", "-c", line], input=b"abcd", capture_output=True, check=False)
    assert done.returncode == 97


def test_tools_are_recorded_with_their_links_and_libraries() -> None:
    found = tools.record({"root": "/root"})
    assert str(Path("/bin/sh").resolve()) in found["files"]
    assert any("libc.so" in path or "libc-" in path for path in found["files"])
    assert "/root/.bashrc" in found["startup"]
    assert not [path for path in found["files"] if Path(path).is_symlink()]
    assert {"chattr"} < set(found["chattr"])


def test_sshds_configuration_goes_back_to_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sshd_config.d"
    folder.mkdir()
    config, own = tmp_path / "sshd_config", folder / "00-ironyard.conf"
    config.write_text("Include sshd_config.d/*.conf\n")
    own.write_text("PasswordAuthentication no\n")
    monkeypatch.setattr(sshd, "SSH", tmp_path)
    monkeypatch.setattr(sshd, "DROP_IN", own)
    monkeypatch.setattr(sshd, "FENCE", folder / "00-ironyard-fence.conf")
    files = {str(p): {"content": tracked.encode(p.read_bytes())} for p in (config, own)}
    assert sshd.restore(files) == []
    config.write_text("Garbage yes\n")
    (folder / "99-evil.conf").write_text("Match User eve\n  AuthorizedKeysFile /opt/keys\n")
    (folder / "00-ironyard-fence.conf").write_text("# the fence of an earlier run\n")
    own.unlink()
    own.symlink_to("/dev/null")
    assert sshd.restore(files, check=True) == [str(folder / "99-evil.conf"), str(config), str(own)]
    assert config.read_text() == "Garbage yes\n"
    sshd.restore(files)
    assert sorted(path.name for path in folder.iterdir()) == ["00-ironyard-fence.conf", "00-ironyard.conf"]
    assert config.read_text().startswith("Include")
    assert own.read_text() == "PasswordAuthentication no\n"
    assert sshd.restore({}) == []
