"""The callback plugin in real ansible-playbook runs against a ledger that keeps what it was told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks import ledger as ledgers
from tests.playbooks.conftest import ROOT

# named like one of ours, so that the plugin takes notice; one host of the two fails
PLAY = """
- name: Verify
  hosts: all
  gather_facts: false
  connection: local
  serial: 1
  tasks:
    - name: Wait
      ansible.builtin.command: sleep {seconds}
      changed_when: false
    - name: Change something
      ansible.builtin.debug:
        msg: hello
      changed_when: true
    - name: Keep a secret
      ansible.builtin.debug:
        msg: hunter2
      no_log: true
    - name: Announce
      ansible.builtin.set_stats:
        per_host: true
        data:
          ironyard_report:
            ok: "{{{{ inventory_hostname == 'one' }}}}"
            failed_step: kill
            failed_reason: stuck
    - name: Fail
      ansible.builtin.fail:
        msg: it is broken
      when: inventory_hostname == 'two'
"""


@pytest.fixture
def ledger() -> Iterator[ledgers.Ledger]:
    with ledgers.serve() as running:
        yield running


class Controller:
    def __init__(self, folder: Path, ledger: ledgers.Ledger) -> None:
        self.folder, self.ledger = folder, ledger
        self.ids = {"one": "id-one", "two": "id-two"}

    def start(self, *extra: str, seconds: float = 0, **env: str) -> subprocess.Popen[str]:
        hosts = {
            name: {"ironyard_host_id": host_id, "ansible_python_interpreter": sys.executable}
            for name, host_id in self.ids.items()
        }
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
        (self.folder / "verify.yml").write_text(PLAY.format(seconds=seconds))
        program = str(Path(sys.executable).parent / "ansible-playbook")
        clean = {
            key: said for key, said in os.environ.items() if not key.startswith(("IRONYARD_", "ANSIBLE_"))
        }
        settings = {
            "IRONYARD_URL": self.ledger.url,
            "IRONYARD_TOKEN": ledgers.TOKEN,
            "HOME": str(self.folder),
        }
        return subprocess.Popen(
            [program, "-i", str(self.folder / "hosts.json"), str(self.folder / "verify.yml"), *extra],
            cwd=ROOT,
            env={**clean, **settings, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def play(self, *extra: str, seconds: float = 0, **env: str) -> tuple[int, str, str]:
        process = self.start(*extra, seconds=seconds, **env)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def controller(tmp_path: Path, ledger: ledgers.Ledger) -> Controller:
    return Controller(tmp_path, ledger)


def test_a_run_is_begun_told_and_finished(controller: Controller, ledger: ledgers.Ledger) -> None:
    code, out, err = controller.play()
    assert code == 2, out + err
    assert [run["playbook"] for run in ledger.runs] == ["verify"]
    assert ledger.runs[0]["hosts"] == ["id-one", "id-two"]  # both batches at once
    assert "@" in ledger.runs[0]["controller"]
    one, two = (ledger.finished[f"op-id-{name}"] for name in ("one", "two"))
    assert (one["status"], one["reason"], one["report"]["ok"]) == ("succeeded", None, True)
    assert one["stats"] == {"ok": 4, "changed": 1, "failures": 0, "unreachable": 0, "skipped": 1}
    assert (two["status"], two["reason"]) == ("failed", "kill: stuck")
    assert two["stats"]["failures"] == 1
    events = ledger.events["op-id-two"]
    assert [(event["task"], event["status"]) for event in events] == [
        ("Wait", "ok"),
        ("Change something", "changed"),
        ("Keep a secret", "ok"),
        ("Announce", "ok"),
        ("Fail", "failed"),
    ]
    assert events[-1]["message"] == "it is broken"
    assert events[0]["seconds"] >= 0
    assert "hunter2" not in json.dumps(ledger.events)


def test_a_refused_run_starts_nothing(controller: Controller, ledger: ledgers.Ledger) -> None:
    ledger.refusal = {"title": "Host is not idle", "detail": "two is allocated to vision"}
    code, out, err = controller.play()
    assert code == 5
    assert "Host is not idle: two is allocated to vision" in " ".join((out + err).split())
    assert "TASK" not in out
    assert not ledger.finished


def test_an_unreachable_ledger_at_the_start_starts_nothing(controller: Controller) -> None:
    code, out, err = controller.play(IRONYARD_URL="http://127.0.0.1:9")
    assert code == 5
    assert "did not begin this run" in out + err
    assert "TASK" not in out


def test_an_outage_in_mid_run_delays_and_loses_nothing(
    controller: Controller, ledger: ledgers.Ledger
) -> None:
    ledger.outage = 2
    code, _, err = controller.play(seconds=1)
    assert code == 2
    assert "could not be delivered" not in err
    assert set(ledger.finished) == {"op-id-one", "op-id-two"}
    assert len(ledger.events["op-id-two"]) == 5


@pytest.mark.parametrize(
    ("extra", "env", "said"),
    [
        (("--check",), {}, "check mode: nothing is reported"),
        ((), {"IRONYARD_TOKEN": ""}, "no address or token is set"),
        ((), {"IRONYARD_OPERATION": "op-1"}, ""),
    ],
)
def test_when_it_stays_silent(
    controller: Controller, ledger: ledgers.Ledger, extra: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    code, out, _ = controller.play(*extra, **env)
    assert code == 2  # the play itself went on
    assert said in out
    assert not ledger.runs


def test_hosts_of_others_are_not_reported(controller: Controller, ledger: ledgers.Ledger) -> None:
    controller.ids["one"] = ""
    _, out, _ = controller.play()
    assert "1 of 2 hosts have no ironyard_host_id" in out
    assert not ledger.runs


def test_an_interrupted_run_is_cancelled(controller: Controller, ledger: ledgers.Ledger) -> None:
    process = controller.start(seconds=30)
    until = time.monotonic() + 30
    while not ledger.runs and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    ends: list[Any] = [end["status"] for end in ledger.finished.values()]
    assert ends == ["cancelled", "cancelled"]


def test_heartbeats_without_events(ledger: ledgers.Ledger) -> None:
    from tests.playbooks.conftest import PLAYBOOKS, load

    client = load(PLAYBOOKS / "callback_support" / "ironyard_client.py")
    sender = client.Sender(client.Client(ledger.url, ledgers.TOKEN), ["op-1"], heartbeat=0.2)
    sender.start()
    time.sleep(1.8)
    assert sender.close() == []
    assert ledger.beats["op-1"] >= 2
    assert ledger.events["op-1"] == []
