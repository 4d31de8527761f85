"""The playbooks on lab hosts.

What is left on a host is looked for with the host's own tools, not with our modules.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.playbooks import ledger as ledgers
from tests.playbooks.conftest import ROOT
from tests.playbooks.fleet import Fleet

pytestmark = pytest.mark.lab

DIRTY = Path(__file__).with_name("dirty.sh")
# every regular file and link of the places that a tenant with root writes to; host keys change on purpose
FILES = r"""
find /etc /root /home /opt /srv /usr/local /usr/lib/systemd /usr/games /var/spool /var/lib/systemd/linger \
  /scratch /tmp /var/tmp /dev/shm /var/mail -xdev \
  \( -name 'ssh_host_*' -o -name 'systemd-private-*' -o -path /etc/.pwd.lock \
  -o -path '/etc/*shadow*' -o -path '/etc/*[pd]-' -o -path '*/.SEQ' \) -prune \
  -o \( -type f -o -type l \) -printf '%M %u:%g %l %p\n' -type f -exec sha256sum {} \; 2>/dev/null | sort
"""
GPUS = (
    "nvidia-smi --format=csv,noheader --query-gpu=index,uuid,compute_mode,persistence_mode,power.limit,"
    "mig.mode.current,ecc.mode.current,ecc.mode.pending; nvidia-smi -L"
)
MANAGED = "/etc/ssh/sshd_config.d/00-ironyard.conf"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    from tests.lab import Lab, LabError
    from tests.lab import fleet as described

    lab = Lab(ROOT / ".ironyard" / "playbook-tests", prefix="play")
    try:
        lab.ensure_engine()
        lab.down()
        hosts = lab.up(described.load()[:2])
    except LabError as error:
        pytest.skip(f"no lab: {error}")
    with ledgers.serve() as ledger:
        yield Fleet(lab, hosts, ledger, tmp_path_factory.mktemp("home"))
    lab.down()


@pytest.fixture
def enrolled(fleet: Fleet) -> Fleet:
    """Both hosts enrolled, healthy and clean."""
    for name in fleet.ids:
        fleet.lab.tell(name, "heal", "--processes")
    if not all(host["manifest"] for host in fleet.ledger.hosts):
        fleet.play("enroll", "play-*")
    return fleet


def test_enrolment_records_the_hosts_and_changes_nothing_the_second_time(fleet: Fleet) -> None:
    first = fleet.play("enroll", "play-*")
    for name, played in first.items():
        assert played.code == 0, played.output
        assert played.report["ok"]
        skipped = {step["name"] for step in played.report["steps"] if step["status"] == "skipped"}
        # there is no mirror, the simulated driver is newer, and only the first host has NVSwitches
        assert skipped == {"repositories", "driver"} | ({"fabric_manager"} if name == "play-2" else set())
        assert {step["status"] for step in played.report["steps"]} == {"ok", "skipped"}
        assert played.report["findings"] == []
        assert len(json.dumps(played.report["manifest"])) < 256 * 1024
        facts = played.report["facts"]
        listed = fleet.sh(name, "nvidia-smi --query-gpu=uuid --format=csv,noheader").split()
        assert [gpu["uuid"] for gpu in facts["gpus"]] == listed
        assert len(facts["pci_gpus"]) == len(listed)
        assert {gpu["health"] for gpu in facts["gpus"]} == {"ok"}
        assert facts["os"]["id"] == "debian"
        keys = fleet.sh(name, "cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2").splitlines()
        assert played.report["host_keys"] == keys
    fleet.play("enroll", "play-*")
    again = fleet.play("enroll", "play-*")
    assert {name: played.stats["changed"] for name, played in again.items()} == {"play-1": 0, "play-2": 0}
    assert again["play-1"].report["manifest"] == first["play-1"].report["manifest"]


def test_hardened_sshd_takes_keys_only(enrolled: Fleet) -> None:
    effective = enrolled.sh("play-1", "sshd -T").splitlines()
    assert "passwordauthentication no" in effective
    assert "permitrootlogin without-password" in effective
    assert "allowagentforwarding no" in effective


def test_check_mode_touches_nothing_and_reports_nothing(enrolled: Fleet) -> None:
    before = enrolled.sh("play-2", FILES)
    runs = len(enrolled.ledger.runs)
    enrolled.sh("play-2", "touch /tmp/here")
    played = enrolled.play("reclaim", "play-2", "--check")["play-2"]
    assert played.code == 0, played.output
    assert enrolled.sh("play-2", "ls /tmp/here; rm /tmp/here") == "/tmp/here"
    assert enrolled.sh("play-2", FILES) == before
    assert len(enrolled.ledger.runs) == runs


def test_a_host_left_dirty_by_a_tenant_with_root_is_clean_after_reclaim(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-1"
    files, gpus = fleet.sh(name, FILES), fleet.sh(name, GPUS)
    old_keys = fleet.row(name)["host_keys"]
    fleet.as_tenant(name, DIRTY)
    fleet.lab.tell(name, "stuck", "--gpu", "2")
    assert fleet.sh(name, "pgrep -fc 'sleep 7000'") != "0"
    assert fleet.sh(name, FILES) != files
    assert fleet.sh(name, GPUS) != gpus

    played = fleet.play("reclaim", name)[name]
    assert played.code == 0, played.output
    assert played.report["ok"]
    assert played.report["findings"] == []
    assert played.step("kill")["removed"]["processes"] >= 5
    assert played.step("wipe")["removed"]["containers"] == 2
    assert played.step("identity")["removed"]["accounts"] == 1
    assert played.step("gpu")["removed"]["MIG instances"] == 2

    assert fleet.sh(name, FILES) == files
    assert fleet.sh(name, GPUS) == gpus
    assert_nothing_runs(fleet, name)
    assert_no_identity_left(fleet, name)
    assert fleet.sh(name, "docker ps -aq; docker images -aq; docker volume ls -q") == ""
    assert fleet.sh(name, "docker network ls --format '{{.Name}}' | sort").split() == [
        "bridge",
        "host",
        "none",
    ]
    keys = fleet.sh(name, "cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2").splitlines()
    assert played.report["host_keys"] == keys
    assert not set(keys) & set(old_keys)
    assert fleet.sh(name, "ls /etc/nologin /etc/ssh/sshd_config.d/00-ironyard-fence.conf", check=False) == ""


def assert_nothing_runs(fleet: Fleet, name: str) -> None:
    assert fleet.sh(name, "pgrep -f 'sleep 7000|evil|nvidia-sim use'", check=False) == ""
    services = {"daemon", "messagebus", "prometheus", "root"}
    assert set(fleet.sh(name, "ps -eo user:20= | sort -u").split()) <= services
    assert ":1A0A " not in fleet.sh(name, "cat /proc/net/tcp /proc/net/tcp6")
    units = fleet.sh(
        name, "systemctl list-units --all --plain --no-legend; systemctl list-unit-files --no-legend"
    )
    assert "evil" not in units
    assert "rogue" not in units
    assert fleet.sh(name, "systemctl is-active atd cron docker ssh").split() == ["active"] * 4
    assert "EVIL" not in fleet.sh(name, "tr '\\0' '\\n' </proc/$(pidof -s cron)/environ")
    assert fleet.sh(name, "atq; crontab -l 2>/dev/null", check=False) == ""
    assert fleet.sh(name, "loginctl list-users --no-legend | grep -v root", check=False) == ""
    assert fleet.sh(name, "ipcs | grep -c 0x", check=False) == "0"
    assert fleet.sh(name, "ls /dev/mqueue /dev/shm | grep -v :", check=False) == ""
    assert fleet.sh(name, "findmnt -n /tmp/bind", check=False) == ""
    assert fleet.sh(name, "nvidia-smi --query-compute-apps=pid --format=csv,noheader") == ""


def assert_no_identity_left(fleet: Fleet, name: str) -> None:
    assert fleet.sh(name, "grep -rEl 'mallory|diggers' /etc /var/spool /var/lib/systemd", check=False) == ""
    assert fleet.sh(name, "getent passwd mallory; getent group diggers", check=False) == ""
    assert fleet.sh(name, "getent passwd games | cut -d: -f7") == "/usr/sbin/nologin"
    assert fleet.sh(name, "getent shadow root | cut -d: -f2")[:1] in "!*"
    assert fleet.sh(name, "cat /root/.ssh/authorized_keys") == fleet.lab.ensure_key()
    assert (
        fleet.sh(name, "find / -xdev -nouser -not -path '/var/lib/docker/*' -not -path '/proc/*' | head")
        == ""
    )


def test_reclaim_of_a_clean_host_is_well(enrolled: Fleet) -> None:
    played = enrolled.play("reclaim", "play-2")["play-2"]
    assert played.code == 0, played.output
    removed = {step["name"]: step["paths"] for step in played.report["steps"] if step["removed"]}
    removed.pop("fence", None)
    paths = [path for kinds in removed.values() for listed in kinds.values() for path in listed]
    # what Python compiles of the simulator is nobody's residue
    assert [
        path for path in paths if "/nvidia-sim/" not in path
    ] == []  # what Python compiles of the simulator


LEFT_BEHIND = {
    "touch /tmp/left": "left behind: /tmp/left",
    "mkdir /home/eve": "not in the manifest: /home/eve",
    "useradd eve": "account eve is not in the manifest",
    "groupadd crew": "group crew is not in the manifest",
    "echo ssh-rsa >>/root/.ssh/authorized_keys": "altered since enrolment: /root/.ssh/authorized_keys",
    "touch /etc/sudoers.d/eve": "not in the manifest: /etc/sudoers.d/eve",
    "echo 'root:changed' | chpasswd": "password of root was changed since enrolment",
    "echo '* * * * * root true' >/etc/cron.d/eve": "not in the manifest: /etc/cron.d/eve",
    "systemd-run -q --unit=eve-unit sleep 71000": "unit eve-unit.service is active and not in the manifest",
    "systemctl -q disable --now atd": "unit atd.service ran at enrolment and does not run",
    "setsid sleep 71001 >/dev/null 2>&1 &": "sleep 71001",
    "docker volume create eve-data": "docker volumes not in the manifest: eve-data",
    "ipcmk -M 64": "IPC shm",
    "nvidia-smi -i 1 -c PROHIBITED": "compute_mode is Prohibited, enrolment recorded Default",
    'setsid python3 -c \'import socket,time; s=socket.socket(); s.bind(("",7777)); s.listen(); '
    "time.sleep(99)' >/dev/null 2>&1 &": "something listens on tcp 7777",
    "touch /root/.bash_history": "not in the manifest: /root/.bash_history",
    "nvidia-sim lost --mode gone --gpu 3": "of the manifest is missing",
}


def test_verify_finds_everything_that_is_left_on_purpose(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-2"
    for command in LEFT_BEHIND:
        fleet.sh(name, command)
    played = fleet.play("verify", name)[name]
    assert played.code == 2
    assert played.report["failed_step"] == "verify"
    missed = [
        said for said in LEFT_BEHIND.values() if not any(said in found for found in played.report["findings"])
    ]
    assert missed == []
    fleet.lab.tell(name, "heal", "--processes")
    healed = fleet.play("reclaim", name)[name]
    assert healed.report["ok"], healed.report["failed_reason"]


def test_verify_does_not_pass_what_it_cannot_read(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-2"
    fleet.lab.tell(name, "no-driver")
    fleet.sh(name, "systemctl stop docker.socket docker.service")
    played = fleet.play("verify", name)[name]
    fleet.lab.tell(name, "heal")
    fleet.sh(name, "systemctl start docker.socket docker.service")
    assert played.code == 2
    text = "\n".join(played.report["findings"])
    assert "GPUs could not be checked" in text
    assert "containers could not be checked" in text


def test_a_lost_gpu_fails_reclaim_and_leaves_the_host_fenced(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-2"
    fleet.lab.tell(name, "lost", "--mode", "gone", "--gpu", "3")
    played = fleet.play("reclaim", name)[name]
    assert (played.code, played.report["failed_step"]) == (2, "gpu")
    assert "lost" in played.report["failed_reason"]
    assert [step["status"] for step in played.report["steps"][-2:]] == ["failed", "skipped"]
    assert fleet.sh(name, "ls /etc/nologin") == "/etc/nologin"
    fleet.lab.tell(name, "heal")
    assert fleet.play("reclaim", name)[name].report["ok"]
    assert fleet.sh(name, "ls /etc/nologin", check=False) == ""


def test_malformed_nvidia_smi_is_a_clear_failure(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-2"
    fleet.lab.tell(name, "malformed")
    played = fleet.play("enroll", name, "-e", "ironyard_install=false")[name]
    fleet.lab.tell(name, "heal")
    assert (played.code, played.report["failed_step"]) == (2, "discover")
    assert "did not print valid XML" in played.report["failed_reason"]
    assert played.step("discover")["evidence"][0].startswith("output began: ")
    statuses = {step["name"]: step["status"] for step in played.report["steps"]}
    assert (statuses["preflight"], statuses["discover"], statuses["harden"]) == ("ok", "failed", "skipped")
    assert "Traceback" not in played.output


def test_reclaim_of_a_host_that_was_never_enrolled_fails_with_that_reason(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-2"
    manifest, fleet.row(name)["manifest"] = fleet.row(name)["manifest"], None
    played = fleet.play("reclaim", name)[name]
    fleet.row(name)["manifest"] = manifest
    assert (played.code, played.report["failed_step"]) == (2, "kill")
    assert "never enrolled" in played.report["failed_reason"]
    assert fleet.play("reclaim", name)[name].report["ok"]


def test_a_used_host_does_not_become_the_record_of_a_clean_one(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-2"
    before, rows = fleet.row(name)["manifest"], fleet.ledger.indexes[fleet.ids[name]]
    fleet.sh(name, "touch /etc/cron.d/eve")
    played = fleet.play("enroll", name)[name]
    assert played.code == 0
    assert played.report["manifest"] == before
    assert "not in the manifest: /etc/cron.d/eve" in played.report["findings"]
    anew = fleet.play("enroll", name, "-e", "manifest_rebaseline=true")[name]
    assert "/etc/cron.d/eve" in anew.report["manifest"]["files"]
    fleet.sh(name, "rm /etc/cron.d/eve")
    fleet.row(name)["manifest"], fleet.ledger.indexes[fleet.ids[name]] = before, rows


@pytest.mark.parametrize("moment", ["Remove what a tenant left", "Put the new SSH host keys into force"])
def test_a_reclaim_killed_in_the_middle_can_be_run_again(enrolled: Fleet, moment: str) -> None:
    fleet, name = enrolled, "play-2"
    files = fleet.sh(name, FILES)
    fleet.sh(name, "useradd -m eve; touch /tmp/eve; setsid sleep 71002 >/dev/null 2>&1 &")
    operation = fleet.ledger.operation(fleet.ids[name])
    fleet.ledger.events.clear()
    process = fleet.start("reclaim", name)
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        if any(event["task"] == moment for event in fleet.ledger.events.get(operation, [])):
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    command = psutil.Process(process.pid).cmdline()
    process.kill()
    for worker in psutil.process_iter(["cmdline"]):  # they have sessions of their own and would wait for ever
        if worker.info["cmdline"] == command:
            worker.kill()
    process.communicate()
    # a connection that is still open would hide whether the new host keys are known
    played = fleet.play("reclaim", name, ANSIBLE_SSH_ARGS="-o ControlMaster=no -o StrictHostKeyChecking=yes")[
        name
    ]
    assert played.report.get("ok"), played.output
    assert fleet.sh(name, FILES) == files


def test_retire_takes_the_platform_off_the_host(enrolled: Fleet) -> None:
    fleet, name = enrolled, "play-2"
    played = fleet.play("retire", name)[name]
    assert played.code == 0, played.output
    assert fleet.sh(name, f"ls {MANAGED} /etc/nologin /etc/ssh/ironyard-fence", check=False) == ""
    assert fleet.sh(name, "systemctl is-active ssh") == "active"
    fleet.row(name)["manifest"] = None
    assert fleet.play("enroll", name)[name].report["ok"]
