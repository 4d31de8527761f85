"""The steps' shared code as plain Python: records and restores, judges processes, puts reports together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import accounts, machine, processes, sshd, steps, tracked, units
from ansible.module_utils.processes import Process

from tests.playbooks.conftest import PLAYBOOKS, load

MANIFEST: dict[str, Any] = {
    "format": 2,
    "services": {"ssh.service": ["/usr/sbin/sshd"], "cron.service": ["/usr/sbin/cron"]},
    "units": {"apt-daily.service": "static", "getty@.service": "enabled", "ssh.service": "enabled"},
    "active_units": ["ssh.service"],
    "homes": {"root": "/root"},
}


def process(pid: int, ppid: int, program: str, group: str, **more: Any) -> Process:
    known: dict[str, Any] = {
        "uid": 0,
        "state": "S",
        "flags": 0,
        "started": pid,
        "command": program.rsplit("/", 1)[-1],
        "argv": (program,),
    }
    return Process(pid=pid, ppid=ppid, program=program, group=group, **{**known, **more})


SSH = "/system.slice/ssh.service"
# an hour ahead: whenever this runs, such a process is young
YOUNG = int((float(Path("/proc/uptime").read_text().split()[0]) + 3600) * os.sysconf("SC_CLK_TCK"))
HOST = [
    process(1, 0, "/usr/lib/systemd/systemd", "/init.scope"),
    process(2, 0, "", "", flags=processes.KERNEL_THREAD),
    process(10, 1, "/usr/sbin/sshd", SSH),
    process(20, 10, "/usr/sbin/sshd", "/user.slice/user-0.slice/session-5.scope"),
    process(21, 20, "/bin/sh", "/user.slice/user-0.slice/session-5.scope"),
    process(22, 21, "/usr/bin/python3", "/user.slice/user-0.slice/session-5.scope"),
    process(23, 22, "/usr/bin/systemctl", "/user.slice/user-0.slice/session-5.scope"),
    process(30, 1, "/usr/sbin/cron", "/system.slice/cron.service"),
]


@pytest.mark.parametrize(
    ("one", "is_foreign"),
    [
        (process(90, 1, "/usr/bin/sleep", "/system.slice/rogue.service"), True),
        (process(90, 30, "/usr/bin/sleep", "/system.slice/cron.service"), True),
        (process(90, 1, "/usr/bin/sleep", "/user.slice/user-1000.slice/session-9.scope", uid=1000), True),
        (process(90, 1, "/usr/bin/sleep", "/user.slice/user-0.slice/session-9.scope"), True),
        (process(90, 1, "/usr/bin/sleep", "/docker/0123abcd"), True),
        (process(90, 1, "/usr/bin/sleep", ""), True),
        (process(90, 10, "/usr/sbin/sshd", SSH), True),  # somebody else's connection
        (
            process(
                90,
                1,
                "/usr/lib/systemd/systemd",
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                uid=1000,
            ),
            True,
        ),
        (
            process(90, 1, "/usr/lib/systemd/systemd", "/user.slice/user-0.slice/user@0.service/init.scope"),
            False,
        ),
        (process(90, 1, "/usr/bin/apt-get", "/system.slice/apt-daily.service"), False),
        (process(90, 1, "/sbin/agetty", "/system.slice/system-getty.slice/getty@tty1.service"), False),
        (process(90, 1, "/usr/lib/systemd/systemd", "/system.slice/cron.service", started=YOUNG), False),
        (
            process(90, 1, "/usr/lib/systemd/systemd", "/system.slice/cron.service"),
            True,
        ),  # not before its exec
        (process(90, 2, "", "", flags=processes.KERNEL_THREAD), False),
        (process(90, 1, "/usr/bin/sleep", "", state="Z"), False),
    ],
)
def test_which_processes_are_the_platforms(one: Process, is_foreign: bool) -> None:
    running = {item.pid: item for item in [*HOST, one]}
    mine = processes.own(running, 22)
    assert mine == {1, 10, 20, 21, 22, 23}
    found = [item.pid for item in processes.foreign(running, MANIFEST, mine)]
    assert found == ([90] if is_foreign else [])


@pytest.mark.parametrize(("mains", "is_foreign"), [({80}, False), ({90}, False), (set(), True), ({70}, True)])
def test_a_service_that_did_not_run_at_enrolment_is_what_systemd_started(
    mains: set[int], is_foreign: bool
) -> None:
    group = "/system.slice/apt-daily.service"
    late = [process(80, 1, "/usr/bin/apt", group), process(90, 80, "/usr/bin/dpkg", group)]
    running = {item.pid: item for item in [*HOST, *late]}
    found = processes.foreign(running, MANIFEST, processes.own(running, 22), mains)
    assert (90 in [item.pid for item in found]) is is_foreign


CRON = "/system.slice/cron.service"
IPTABLES = process(90, 30, "/usr/sbin/iptables", CRON)
OF_A_HELPER = process(91, 90, "/usr/sbin/modprobe", CRON)
GENERATOR = process(95, 1, "/usr/lib/systemd/system-generators/systemd-fstab-generator", "/init.scope")
ENDING = process(96, 30, "", "/", flags=processes.EXITING, command="nvidia-smi", argv=(), state="R")
ROGUE = process(92, 1, "/usr/bin/sleep", "/docker/0123abcd")


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([[IPTABLES], []], []),  # it ended by itself
        ([[IPTABLES], [process(93, 30, "/usr/sbin/iptables", CRON)], []], []),  # a row of them
        ([[ENDING], []], []),
        ([[ENDING]] * 1000, [96]),
        ([[GENERATOR], []], []),
        ([[GENERATOR]] * 1000, [95]),
        ([[IPTABLES, ROGUE], []], [92]),  # the other one does not wait
        ([[OF_A_HELPER], []], [91]),
        ([[process(94, 30, "/usr/sbin/sshd", CRON, command="sshd")], []], [94]),
        ([[IPTABLES]] * 1000, [90]),  # it stays
        ([[process(pid, 30, "/usr/sbin/iptables", CRON)] for pid in range(1000, 2000)], None),  # no end
    ],
)
def test_a_helper_that_a_service_has_just_begun_may_end_by_itself(
    monkeypatch: pytest.MonkeyPatch, seen: list[list[Process]], found: list[int] | None
) -> None:
    now = iter(range(10**6))
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(now) * 0.25)
    monkeypatch.setattr(processes.time, "sleep", lambda _seconds: None)
    own = processes.own
    monkeypatch.setattr(processes, "own", lambda running: own(running, 22))
    rows = iter(seen)
    monkeypatch.setattr(processes, "scan", lambda: {one.pid: one for one in [*HOST, *next(rows)]})
    answer = [one.pid for one in processes.find(MANIFEST)]
    if found is None:
        assert len(answer) == 1
    else:
        assert answer == found


def test_people_are_not_part_of_the_services_record() -> None:
    running = {
        item.pid: item
        for item in [*HOST, process(40, 10, "/usr/sbin/sshd", SSH), process(41, 40, "/bin/bash", SSH)]
    }
    assert processes.services(running) == {
        "cron.service": ["/usr/sbin/cron"],
        "ssh.service": ["/usr/sbin/sshd"],
    }


def test_an_interpreter_is_known_by_its_script() -> None:
    one = process(5, 1, "/usr/bin/python3.11", SSH, argv=("python3", "-u", "/opt/agent.py", "--flag"))
    assert one.signature == "/usr/bin/python3.11 /opt/agent.py"


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        one = processes.look(child.pid)
        began = time.monotonic()
        assert processes.end([one], grace=0.3) == []
        assert time.monotonic() - began < 5
        assert child.wait() == -9


LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=lambda: (print(1, flush=True), time.sleep(60))).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_is_alive_and_can_be_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", LEADERLESS], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        stat = Path(f"/proc/{child.pid}/stat")
        while stat.read_text().rpartition(") ")[2][0] != "Z":
            time.sleep(0.01)
        one = processes.look(child.pid)
        assert one
        assert one.state not in "ZX"
        assert processes.alive(one)
        assert one.argv[1:] == ("-c", LEADERLESS)
        assert one.program == str(Path(sys.executable).resolve())
        assert processes.end([one], grace=0.3) == []
        assert child.wait() < 0


def test_a_recycled_process_number_is_left_alone() -> None:
    now = processes.look(os.getpid())
    earlier = Process(**{**now.__dict__, "started": now.started - 1})
    assert processes.alive(now)
    assert processes.alive(earlier) is None


def test_templates_and_instances() -> None:
    assert processes.known("getty@tty1.service", MANIFEST["units"])
    assert not processes.known("evil@tty1.service", MANIFEST["units"])
    findings = units.enabled_since(
        MANIFEST, {"ssh.service": "masked", "evil.timer": "enabled", "getty@.service": "enabled"}
    )
    assert findings == [
        "unit evil.timer is not in the manifest (enabled)",
        "unit apt-daily.service is gone",
        "unit ssh.service is masked, was enabled",
    ]


def shadow(root: Path, *lines: str) -> None:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/shadow").write_text("".join(f"{line}\n" for line in lines))


def test_passwords_may_stay_or_be_locked(tmp_path: Path) -> None:
    shadow(tmp_path, "root:*:1::::::", "ops:$y$one:1::::::", "svc:!:1::::::")
    manifest = {"passwords": accounts.passwords(tmp_path)}
    assert "$y$" not in str(manifest)
    assert accounts.password_findings(manifest, tmp_path) == []
    shadow(tmp_path, "root:$y$new:1::::::", "ops:!:1::::::", "svc::1::::::", "eve:$y$x:1::::::")
    assert accounts.password_findings(manifest, tmp_path) == [
        "password of root was changed since enrolment",
        "password of svc was changed since enrolment",
        "password entry of eve is not in the manifest",
    ]
    assert accounts.restore_shadow(manifest, tmp_path) == ["root:!:1::::::", "ops:!:1::::::", "svc:!:1::::::"]


def test_a_record_without_the_accounts_is_never_taken_for_no_accounts(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    without_content = {"files": {"/etc/passwd": {"sha256": "0" * 32}}}
    with pytest.raises(steps.StepFailed, match="does not hold the content of /etc/passwd"):
        accounts.recorded(without_content, "passwd")


def test_group_passwords_and_members_are_the_recorded_ones(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\nsudo:x:27:ops\n")
    (tmp_path / "etc/gshadow").write_text("root:*::\nsudo:*::ops\n")
    content = tracked.encode((tmp_path / "etc/group").read_bytes())
    manifest = {"files": {"/etc/group": {"content": content}}}
    assert accounts.group_password_findings(manifest, tmp_path) == []
    (tmp_path / "etc/gshadow").write_text("root:$y$x:eve:\nsudo:*::ops,eve\neve:!::\n")
    assert accounts.group_password_findings(manifest, tmp_path)
    assert accounts.restore_gshadow(manifest, tmp_path) == ["root:!::", "sudo:*::ops"]


@pytest.mark.parametrize(
    ("name", "version", "supported"),
    [
        ("debian", "12", True),
        ("debian", "11", False),
        ("ubuntu", "22.04", True),
        ("ubuntu", "24.04", True),
        ("ubuntu", "20.04", False),
        ("rocky", "9.4", True),
        ("rhel", "8.9", False),
        ("arch", "", False),
        ("", "", False),
    ],
)
def test_supported_systems(tmp_path: Path, name: str, version: str, supported: bool) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(f'ID={name}\nVERSION_ID="{version}"\n')
    assert machine.supported(machine.os_release(tmp_path)) is supported


def test_a_machine_without_firmware_tables(tmp_path: Path) -> None:
    assert machine.firmware(tmp_path) == {"vendor": None, "product": None, "serial": None, "uuid": None}
    assert machine.numa(tmp_path) == []
    assert machine.memory_mib(tmp_path) is None


def test_numa_and_gpus_from_sysfs(tmp_path: Path) -> None:
    node = tmp_path / "sys/devices/system/node/node0"
    node.mkdir(parents=True)
    (node / "cpulist").write_text("0-31\n")
    (node / "meminfo").write_text("Node 0 MemTotal:       1048576 kB\n")
    assert machine.numa(tmp_path) == [{"node": 0, "cpus": "0-31", "memory_mib": 1024}]
    device = tmp_path / "sys/bus/pci/devices/0000:1b:00.0"
    device.mkdir(parents=True)
    for key, said in {"class": "0x030200", "vendor": "0x10de", "device": "0x2330", "numa_node": "1"}.items():
        (device / key).write_text(said)
    assert machine.pci_gpus(tmp_path) == [
        {"address": "0000:1b:00.0", "vendor_id": "10de", "device_id": "2330"}
    ]
    assert machine.numa_node("0000:1b:00.0", tmp_path) == 1


def test_drop_ins_have_to_be_included(tmp_path: Path) -> None:
    config = tmp_path / "sshd_config"
    config.write_text("# Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n")
    assert not sshd.includes_drop_ins(config)
    config.write_text("Include /etc/ssh/sshd_config.d/*.conf\n")
    assert sshd.includes_drop_ins(config)


def body_that(fails: Exception) -> Any:
    def body(step: steps.Step, _params: dict[str, Any]) -> None:
        step.gone("files", "/tmp/one")
        raise fails

    return body


def test_a_failing_step_says_what_was_done_and_why_it_stopped() -> None:
    failed = steps.StepFailed("it is stuck", ["pid 5 state D"], findings=["x"])
    succeeded, result = steps.perform(steps.Step("kill"), {}, body_that(failed))
    assert not succeeded
    assert result["msg"] == "it is stuck"
    assert result["evidence"] == ["pid 5 state D", "files: /tmp/one"]
    assert result["removed"] == {"files": 1}
    assert result["findings"] == ["x"]
    succeeded, result = steps.perform(steps.Step("kill"), {}, body_that(OSError("disk is gone")))
    assert not succeeded
    assert result["msg"] == "kill: OSError: disk is gone"


def test_evidence_is_capped() -> None:
    step = steps.Step("wipe")
    for number in range(500):
        step.gone("files", str(number))
    assert len(step.result()["evidence"]) == 100
    assert step.result()["removed"] == {"files": 500}


@pytest.mark.parametrize("manifest", [None, {}])
def test_no_manifest_is_a_failure(manifest: Any) -> None:
    with pytest.raises(steps.StepFailed, match="never enrolled"):
        steps.require_manifest(manifest)
    with pytest.raises(steps.StepFailed, match="format 7"):
        steps.require_manifest({"format": 7})


def test_commands_that_are_missing_or_slow() -> None:
    assert steps.run("no-such-program").code == 127
    assert steps.run("sleep", "5", timeout=0.1).code == 124
    with pytest.raises(steps.StepFailed, match="'false' failed"):
        steps.must("false")


report = load(PLAYBOOKS / "filter_plugins" / "ironyard.py").report


def test_a_report_of_success() -> None:
    results = {
        "preflight": [{"changed": False, "seconds": 0.5, "evidence": ["a"]}],
        "manifest": [{"changed": True, "seconds": 1, "manifest": {"format": 2}, "host_keys": ["k"]}],
    }
    found = report(["preflight", "manifest"], results, "enroll", "1")
    assert (found["ok"], found["failed_step"], found["failed_reason"]) == (True, None, None)
    assert [step["status"] for step in found["steps"]] == ["ok", "ok"]
    assert (found["manifest"], found["host_keys"], found["facts"]) == ({"format": 2}, ["k"], None)


def test_a_report_of_failure_names_the_step_and_skips_the_rest() -> None:
    results = {
        "fence": [{"changed": True, "removed": {"sessions": 1}}],
        "kill": [{"failed": True, "msg": "stuck", "findings": ["f"]}],
        "wipe": [{}],
        "identity": [{}, {}],
    }
    found = report(["fence", "kill", "wipe", "identity"], results, "reclaim", "1")
    assert (found["ok"], found["failed_step"], found["failed_reason"]) == (False, "kill", "stuck")
    assert [step["status"] for step in found["steps"]] == ["ok", "failed", "skipped", "skipped"]
    assert found["steps"][1]["evidence"] == ["stuck"]
    assert found["findings"] == ["f"]


def test_a_step_that_its_time_out_ended_is_named_with_the_time() -> None:
    ended = {"failed": True, "msg": "Timed out after 1800 second(s).", "timedout": {"period": 1800}}
    found = report(["kill", "wipe"], {"kill": [{"changed": False}], "wipe": [ended]}, "reclaim", "1")
    assert found["failed_step"] == "wipe"
    assert found["failed_reason"] == "the step wipe was ended after 1800 s (wipe_timeout)"
    assert found["steps"][1]["evidence"] == [found["failed_reason"]]


def test_a_failure_outside_the_steps_modules_is_never_a_success() -> None:
    found = report(
        ["fence"], {"fence": [{"changed": False}]}, "reclaim", "1", {"step": None, "reason": "handler broke"}
    )
    assert (found["ok"], found["failed_step"], found["failed_reason"]) == (False, None, "handler broke")


def test_two_results_of_one_step_are_added_up() -> None:
    results = {
        "identity": [
            {"removed": {"a": 1}, "seconds": 1},
            {"removed": {"a": 2}, "seconds": 2, "changed": True},
        ]
    }
    step = report(["identity"], results, "reclaim", "1")["steps"][0]
    assert (step["removed"], step["seconds"], step["changed"]) == ({"a": 3}, 3.0, True)
