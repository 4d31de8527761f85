"""What surrounds the trees in reclaim: transport of the index, restarts, packages, the report."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.module_utils import accounts, packages, processes, steps, tracked, trees

from tests.playbooks import ledger as ledgers
from tests.playbooks.conftest import PLAYBOOKS, load

RAW = b"an index"
DIGEST = hashlib.sha256(RAW).hexdigest()
report = load(PLAYBOOKS / "filter_plugins" / "ironyard.py").report


class Action:
    """The action plugin with a host that only keeps what is written to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int = 0, **args: Any) -> None:
        self.written: bytes | None = None
        plugin = load(PLAYBOOKS / "action_plugins" / "ironyard_index.py")
        monkeypatch.setattr(plugin.ActionBase, "run", lambda *_: {})
        self.module = plugin.ActionModule.__new__(plugin.ActionModule)
        self.module._task = type("Task", (), {"args": {"manifest": {"index": {"sha256": DIGEST}}, **args}})()
        self.module._low_level_execute_command = self.execute
        self.code = code

    def execute(self, _command: str, in_data: bytes) -> dict[str, Any]:
        self.written = in_data
        return {"rc": self.code, "stderr": "no space left on device"}


def test_the_index_comes_from_the_workers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.xz").write_bytes(RAW)
    action = Action(monkeypatch, file=str(tmp_path / "index.xz"))
    assert action.module.run()["changed"] is False
    assert action.written == RAW


def test_the_index_comes_from_the_ledger_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    with ledgers.serve() as ledger:
        ledger.indexes["id-1"] = RAW
        monkeypatch.setenv("IRONYARD_URL", ledger.url)
        monkeypatch.setenv("IRONYARD_TOKEN", ledgers.TOKEN)
        action = Action(monkeypatch, host_id="id-1")
        action.module.run()
        assert action.written == RAW
        monkeypatch.setenv("IRONYARD_TOKEN", "wrong")
        with pytest.raises(AnsibleActionFail, match="does not hand out the host's index: Not signed in"):
            action.module.run()


def test_another_index_a_full_disk_and_no_source_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").write_bytes(b"another")
    (tmp_path / "right").write_bytes(RAW)
    with pytest.raises(AnsibleActionFail, match="is not the one of the host's manifest"):
        Action(monkeypatch, file=str(tmp_path / "other")).module.run()
    with pytest.raises(AnsibleActionFail, match=r"cannot be written to .*no space left"):
        Action(monkeypatch, code=1, file=str(tmp_path / "right")).module.run()
    monkeypatch.setenv("IRONYARD_CREDENTIALS", str(tmp_path / "none"))
    monkeypatch.delenv("IRONYARD_URL", raising=False)
    with pytest.raises(AnsibleActionFail, match="neither in a file"):
        Action(monkeypatch, host_id="id-1").module.run()


def test_a_host_without_a_manifest_needs_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    action = Action(monkeypatch, manifest=None)
    assert action.module.run()["evidence"] == ["the host has no index"]
    assert action.written is None


@pytest.mark.parametrize(
    ("path", "restarted"),
    [
        ("/etc/systemd/system/cron.service.d/evil.conf", ["cron.service"]),
        ("/run/systemd/system/cron.service", ["cron.service"]),
        ("/usr/lib/systemd/system/cron.service", ["cron.service"]),
        ("/etc/default/cron", ["cron.service"]),
        ("/etc/docker/daemon.json", ["docker.service"]),
        ("/etc/systemd/journald.conf.d/evil.conf", ["systemd-journald.service"]),
        ("/usr/share/cron/readme", []),
        ("/opt/docker", []),
    ],
)
def test_services_whose_configuration_was_restored_are_restarted(
    path: str, restarted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wipe = load(PLAYBOOKS / "library" / "ironyard_wipe.py")
    monkeypatch.setattr(wipe.processes, "outdated", lambda _running: [])
    services: dict[str, list[str]] = {
        "cron.service": [],
        "docker.service": [],
        "systemd-journald.service": [],
    }
    assert wipe.stale(trees.Difference([path], [], {}), {"services": services}) == restarted


def test_processes_with_a_program_or_library_that_is_gone(tmp_path: Path) -> None:
    lines = {
        1: "55d0-55d1 r-xp 0000 08:01 11 /usr/sbin/cron",
        2: "55d0-55d1 r-xp 0000 08:01 11 /usr/sbin/cron (deleted)",
        3: "55d0-55d1 r-xp 0000 08:01 11 /usr/lib/libevil.so (deleted)",
        4: "55d0-55d1 rw-p 0000 08:01 11 /usr/share/zoneinfo (deleted)",
        5: "55d0-55d1 r-xp 0000 00:01 11 /memfd:jit (deleted)",
    }
    running = {}
    for pid, line in lines.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "maps").write_text(f"{line}\n")
        running[pid] = processes.Process(pid, 1, 0, "S", 0, 0, "x", "/usr/sbin/cron", ("cron",), "")
    assert [one.pid for one in processes.outdated(running, tmp_path)] == [2, 3]


def test_a_package_that_cannot_be_downloaded_is_not_reinstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Reinstallation of procps is not possible, it cannot be downloaded.\n"
    monkeypatch.setattr(packages, "_uses_dpkg", lambda: True)
    monkeypatch.setattr(packages, "run", lambda *argv, timeout: steps.Ran(argv, 0, said, ""))
    assert packages.reinstall(["procps"]) == said.strip()
    assert packages.reinstall([]) == "no package owns them"
    monkeypatch.setattr(packages, "run", lambda *argv, timeout: steps.Ran(argv, 0, "Setting up procps\n", ""))
    assert packages.reinstall(["procps"]) == ""


def test_the_owners_of_files_by_either_path(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"/bin/true": "coreutils: /bin/true\n", "/usr/lib/x": "a:amd64, b: /usr/lib/x\n"}

    def ask(*argv: str) -> steps.Ran:
        said = known.get(argv[-1], "")
        return steps.Ran(argv, 0 if said else 1, said, "")

    monkeypatch.setattr(packages, "_uses_dpkg", lambda: True)
    monkeypatch.setattr(packages, "run", ask)
    assert packages.owners(["/usr/bin/true", "/usr/lib/x", "/opt/nobody"]) == ["a:amd64", "b", "coreutils"]


def test_the_report_merges_paths_and_hands_over_the_index() -> None:
    wipe = {"changed": True, "paths": {"files": [f"/evil/{n}" for n in range(150)]}, "paths_dropped": 1}
    more = {"changed": True, "paths": {"files": [f"/more/{n}" for n in range(100)], "homes": ["/home/eve"]}}
    found = report(
        ["wipe", "manifest"], {"wipe": [wipe, more], "manifest": [{"index": "eHo="}]}, "reclaim", "1"
    )
    step = found["steps"][0]
    assert (len(step["paths"]["files"]), step["paths"]["homes"], step["paths_dropped"]) == (
        200,
        ["/home/eve"],
        51,
    )
    assert found["index"] == "eHo="


def test_files_of_passwords_that_are_gone_come_back_locked(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    group = tracked.encode(b"root:x:0:\nsudo:x:27:ops\n")
    manifest = {"passwords": {"root": "locked", "ops": "abc"}, "files": {"/etc/group": {"content": group}}}
    assert accounts.password_findings(manifest, tmp_path) == [
        "password entry of root is gone",
        "password entry of ops is gone",
    ]
    assert accounts.restore_shadow(manifest, tmp_path) == ["root:!:::::::", "ops:!:::::::"]
    assert accounts.restore_gshadow(manifest, tmp_path) == ["root:!::", "sudo:!::ops"]


def test_key_folders_of_now_and_then(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\neve:x:1:1::/opt/eve:/bin/sh\n")
    then = tracked.encode(b"root:x:0:0::/root:/bin/sh\ngames:x:5:60::/usr/games:/usr/sbin/nologin\n")
    manifest = {"files": {"/etc/passwd": {"content": then}}}
    assert accounts.recorded_key_folders(manifest, tmp_path) == [
        "/opt/eve/.ssh",
        "/root/.ssh",
        "/usr/games/.ssh",
    ]


def test_an_unforeseen_error_says_where_it_came_from() -> None:
    def body(_step: steps.Step, _params: dict[str, Any]) -> None:
        list[str]().__getitem__(0)

    succeeded, result = steps.perform(steps.Step("wipe"), {}, body)
    assert not succeeded
    assert result["msg"] == "wipe: IndexError: list index out of range"
    assert Path(__file__).name in result["evidence"][0]


def test_names_that_are_no_text_do_not_break_the_report() -> None:
    step = steps.Step("wipe")
    step.gone("files", os.fsdecode(b"/evil/\xff"))
    assert step.result()["paths"]["files"][0].encode().isascii()
