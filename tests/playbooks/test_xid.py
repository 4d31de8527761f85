"""Xids: our table against the catalog, every form of the kernel's log, and what each error means."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import health, verdicts, xid
from ansible.module_utils.steps import Ran, Step

from tests.playbooks.conftest import PLAYBOOKS, load

module = load(PLAYBOOKS / "library" / "ironyard_health.py")
BUS = "0000:9b:00"
GPU = {"uuid": "GPU-1", "pci_address": "0000:9b:00.0"}
OTHER = {"uuid": "GPU-2", "pci_address": "0000:9c:00.0"}


def events(code: int, at: float | None = 100.0, bus: str = BUS) -> list[xid.Event]:
    return [xid.Event(at, bus, code)]


@pytest.fixture(scope="session")
def catalog(contracts: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((contracts / "alerts" / "xid-catalog.json").read_text())["xids"]
    return found


ACTIONS = {
    "IGNORE": {"none"},
    "RESTART_APP": {"restart-application"},
    "RESET_GPU": {"reset"},
    "RESTART_BM": {"reboot"},
    "RESTART_VM": {"reboot"},
    "CONTACT_SUPPORT": {"service"},
    "CHECK_MECHANICALS": {"service"},
    "UPDATE_SWFW": {"service"},
    "WORKFLOW_XID_45": {"none"},
    "WORKFLOW_XID_48": {"drain"},
    "WORKFLOW_NVLINK_ERR": {"drain"},
    "WORKFLOW_NVLINK5_ERR": {"drain"},
    "XID_154": {"none"},
    "CHECK_UVM": {"restart-application"},
    "": set(verdicts.ACTIONS),
}


def test_our_table_of_xids_has_the_catalog_s_facts(catalog: list[dict[str, Any]]) -> None:
    assert {row["code"] for row in catalog} == set(xid.XIDS)
    for row in catalog:
        ours = xid.XIDS[row["code"]]
        assert ours.mnemonic in row["mnemonic"], ours
        assert ours.action in ACTIONS[row["immediate"]], ours
        assert ours.meaning != row["description"]


def test_every_xid_has_an_action_and_a_meaning() -> None:
    assert {one.action for one in xid.XIDS.values()} == set(verdicts.ACTIONS)
    assert all(len(one.meaning) > 10 for one in xid.XIDS.values())


def test_a_recorded_kernel_log(contracts: Path) -> None:
    found = xid.parse((contracts / "alerts" / "dmesg-with-xid-119.log").read_text())
    assert {(event.bus, event.code) for event in found} == {(BUS, 119)}
    assert len(found) == 5
    first = time.mktime((2025, 2, 23, 16, 24, 18, 0, 0, -1))
    assert found[0].at == first
    (check, _) = xid.judge(found, [GPU, OTHER])
    assert (check["verdict"], check["action"], check["scope"]) == ("CRITICAL", "reset", "GPU-1")
    assert "GSP_RPC_TIMEOUT" in check["detail"]
    assert "5 times" in check["detail"]


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("1740327858.123456 host kernel: NVRM: Xid (PCI:0000:9b:00): 79, pid=1", 1740327858.123456),
        ("[  120.500000] NVRM: Xid (PCI:0000:9b:00): 79, pid=1", 1120.5),
        ("NVRM: Xid (PCI:0000:9B:00): 79, pid=1", None),
        ("NVRM: Xid (0000:9b:00): 79, pid=1", None),
        ("NVRM: Xid (PCI:0000:9b:00 GPU-I:02): 79, pid=1", None),
    ],
)
def test_every_form_of_the_log_s_lines(line: str, at: float | None) -> None:
    assert xid.parse(line, booted=1000.0) == [xid.Event(at, BUS, 79)]


def test_other_lines_are_no_xids() -> None:
    assert xid.parse("NVRM: GPU at PCI:0000:9b:00: GPU-1\nxid 79\n") == []


@pytest.mark.parametrize(
    ("code", "verdict", "action", "scope"),
    [
        (63, "INFO", "none", "GPU-1"),
        (13, "WARNING", "restart-application", "GPU-1"),
        (119, "CRITICAL", "reset", "GPU-1"),
        (48, "CRITICAL", "drain", "GPU-1"),
        (54, "CRITICAL", "service", "GPU-1"),
        (79, "CRITICAL", "reboot", verdicts.HOST),
        (999, "WARNING", "none", "GPU-1"),
    ],
)
def test_xids_are_judged_by_the_table(code: int, verdict: str, action: str, scope: str) -> None:
    found, quiet = xid.judge(events(code), [GPU, OTHER])
    assert (found["verdict"], found["action"], found["scope"]) == (verdict, action, scope)
    assert (quiet["verdict"], quiet["scope"]) == ("PASS", "GPU-2")


def test_an_unknown_xid_says_so() -> None:
    assert "not in our table" in xid.judge(events(999), [GPU])[0]["detail"]


def test_an_xid_of_no_gpu_here_is_the_host_s() -> None:
    assert xid.judge(events(119, bus="0000:aa:00"), [GPU])[0]["scope"] == verdicts.HOST


@pytest.mark.parametrize(
    ("code", "reset_at", "booted", "verdict"),
    [
        (119, 101.0, 0.0, "WARNING"),
        (119, 99.0, 0.0, "CRITICAL"),
        (119, 0.0, 101.0, "WARNING"),
        (74, 101.0, 0.0, "WARNING"),
        (79, 101.0, 0.0, "CRITICAL"),
        (79, 0.0, 101.0, "WARNING"),
        (54, 101.0, 101.0, "CRITICAL"),
    ],
)
def test_what_was_mended_since_is_past(code: int, reset_at: float, booted: float, verdict: str) -> None:
    assert xid.judge(events(code), [GPU], reset_at=reset_at, booted=booted)[0]["verdict"] == verdict
    assert (
        xid.judge(events(code, at=None), [GPU], reset_at=reset_at, booted=booted)[0]["verdict"] == "CRITICAL"
    )


def test_only_what_came_since_the_lease_began_counts_and_once() -> None:
    old, new, twin = xid.Event(50.0, BUS, 119), xid.Event(100.0, BUS, 119), xid.Event(100.6, BUS, 119)
    assert xid.since_then([twin, old, new], 60.0) == [new]
    assert xid.since_then([xid.Event(None, BUS, 119)], 60.0) != []


def test_a_log_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xid, "run", lambda *argv, **_: Ran(argv, 1, "", "no permission"))
    (found,) = health.xids([GPU], 0.0, 0.0, [])
    assert (found["verdict"], found["scope"]) == ("UNKNOWN", verdicts.HOST)
    assert "no permission" in found["detail"]
    assert module.collect(Step("health"), 0.0) == []


def test_what_was_collected_before_the_logs_were_emptied_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"{time.time():.6f} host kernel: NVRM: Xid (PCI:{BUS}): 119, pid=1"
    monkeypatch.setattr(xid, "run", lambda *argv, **_: Ran(argv, 0, line, ""))
    collected = module.body(Step("health"), {"collect": True, "since": 0.0})["xids"]
    monkeypatch.setattr(xid, "run", lambda *argv, **_: Ran(argv, 0, "", ""))
    monkeypatch.setattr(xid, "boot_time", lambda: 0.0)
    assert health.xids([GPU], 0.0, 0.0, json.loads(json.dumps(collected)))[0]["verdict"] == "CRITICAL"


def test_of_a_log_only_xids_are_kept_and_its_last_words() -> None:
    line = f"NVRM: Xid (PCI:{BUS}): 119"
    flood = xid.run("sh", "-c", f"seq 200000; echo '{line}'; seq 9; exit 3", timeout=60)
    assert (flood.code, flood.out.strip()) == (3, line)
    assert "no permission" in xid.run("sh", "-c", "echo no permission >&2; exit 1", timeout=60).tail()
    assert xid.run("no-such-program", timeout=1).code == 127
    assert xid.run("sleep", "60", timeout=0.2).code != 0
