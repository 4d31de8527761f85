"""Lab hosts behave like bare-metal hosts, and `up` and `down` keep their word. Needs a Docker engine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import Host, Lab, LabError, fleet, network
from tests.lab.run import run

pytestmark = pytest.mark.lab

FLEET = [
    fleet.Described("here", {"rack": "r1"}, "a100-sxm", 2, nvlink=True, uuids=()),
    fleet.Described(
        "there", {}, "l40s", 1, nvlink=False, uuids=("GPU-00000000-0000-4000-8000-000000000001",)
    ),
]
# a container image from the host's own files: there is no registry to pull from
TINY = r"""
set -e
mkdir -p /tmp/tiny && cd /tmp/tiny
cp -L --parents /bin/sh $(ldd /bin/sh | grep -o "/lib[^ ]*" | sort -u) .
tar c . | docker import - tiny >/dev/null
docker run --rm --memory 64m tiny /bin/sh -c "echo from inside"
"""
USER_UNIT = r"""
set -e
useradd --create-home tenant
loginctl enable-linger tenant
until test -S /run/user/$(id -u tenant)/bus; do sleep 0.1; done
runuser -u tenant -- env XDG_RUNTIME_DIR=/run/user/$(id -u tenant) systemd-run --user --unit=job sleep 60
runuser -u tenant -- env XDG_RUNTIME_DIR=/run/user/$(id -u tenant) systemctl --user is-active job
loginctl disable-linger tenant
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    lab = Lab(tmp_path_factory.mktemp("lab"), f"labtest{worker}")
    try:
        lab.ensure_image()
    except LabError as error:
        pytest.skip(str(error))
    lab.down()
    yield lab
    lab.down()
    network.remove(lab.prefix)
    if not run("docker", "ps", "-q").strip():
        lab.engine.stop()


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> list[Host]:
    return lab.up(FLEET)


def ssh(lab: Lab, host: Host, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*lab.ssh(host.address), *argv], capture_output=True, text=True, timeout=60, check=False
    )


def test_hosts_are_new_and_let_their_key_in(lab: Lab, hosts: list[Host], tmp_path: Path) -> None:
    assert [(h.name, h.fresh, h.region, h.user) for h in hosts] == [
        (f"{lab.prefix}-1", True, "here", "root"),
        (f"{lab.prefix}-2", True, "there", "root"),
    ]
    assert lab.key_file.stat().st_mode & 0o777 == 0o600
    for host in hosts:
        known = tmp_path / host.name
        known.write_text(f"{host.address} {host.host_key}\n")
        checks = [
            "-oStrictHostKeyChecking=yes",
            f"-oUserKnownHostsFile={known}",
            "-oHostKeyAlgorithms=ssh-ed25519",
        ]
        argv = ["ssh", "-oBatchMode=yes", *checks, "-i", host.key_file, f"root@{host.address}", "hostname"]
        assert run(*argv).strip() == host.name


def test_each_host_has_an_identity_of_its_own(lab: Lab, hosts: list[Host]) -> None:
    assert len({h.host_key for h in hosts}) == len(hosts)
    assert len({lab.exec(h.name, "cat", "/etc/machine-id") for h in hosts}) == len(hosts)


def test_a_host_has_booted_with_its_services(lab: Lab, hosts: list[Host]) -> None:
    for host in hosts:
        assert lab.exec(host.name, "systemctl", "is-system-running", check=False).strip() == "running"
        units = ("ssh", "cron", "atd", "docker", "dbus")
        assert lab.exec(host.name, "systemctl", "is-active", *units).split() == ["active"] * len(units)


def test_a_host_runs_containers_of_its_own(lab: Lab, hosts: list[Host]) -> None:
    assert lab.exec(hosts[0].name, "bash", "-c", TINY) == "from inside\n"


def test_a_host_runs_units_of_its_users(lab: Lab, hosts: list[Host]) -> None:
    assert lab.exec(hosts[0].name, "bash", "-c", USER_UNIT).strip().endswith("active")


def test_a_host_shows_its_described_gpus(lab: Lab, hosts: list[Host]) -> None:
    one, two = (ssh(lab, host, "nvidia-smi", "-L").stdout.splitlines() for host in hosts)
    assert len(one) == 2
    assert "A100-SXM4-80GB" in one[0]
    assert two == ["GPU 0: NVIDIA L40S (UUID: GPU-00000000-0000-4000-8000-000000000001)"]
    assert len(ssh(lab, hosts[0], "lspci", "-Dnmm").stdout.splitlines()) == 2


def test_a_second_up_leaves_everything_as_it_is(lab: Lab, hosts: list[Host]) -> None:
    ids = run("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", *lab.names())
    assert lab.up(FLEET) == [replace(host, fresh=False) for host in hosts]
    assert run("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", *lab.names()) == ids


def test_a_stopped_host_starts_again_as_it_was(lab: Lab, hosts: list[Host]) -> None:
    lab.exec(hosts[1].name, "touch", "/root/kept")
    lab.exec(hosts[1].name, "nvidia-smi", "-pl", "200")
    run("docker", "stop", hosts[1].name)
    assert lab.up(FLEET)[1] == replace(hosts[1], fresh=False)
    assert lab.exec(hosts[1].name, "ls", "/root").strip() == "kept"
    limit = lab.exec(hosts[1].name, "nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader")
    assert limit == "200.00 W\n"


def test_a_stuck_process_is_a_real_one(lab: Lab, hosts: list[Host]) -> None:
    pid = lab.tell(hosts[0].name, "stuck", "--user", "nobody").strip()
    query = ("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader")
    assert ssh(lab, hosts[0], "ps", "-o", "user=", "-p", pid).stdout.strip() == "nobody"
    ssh(lab, hosts[0], "kill", pid)
    assert ssh(lab, hosts[0], *query).stdout.split() == [pid]
    assert ssh(lab, hosts[0], "nvidia-smi", "-r").returncode == 19
    ssh(lab, hosts[0], "kill", "-9", pid)
    assert ssh(lab, hosts[0], *query).stdout.split() == []


def test_a_tenant_can_use_a_gpu_but_not_change_it(lab: Lab, hosts: list[Host]) -> None:
    user = ("runuser", "-u", "nobody", "--")
    lab.exec(hosts[0].name, *user, "nvidia-sim", "use", "--memory", "64", "--", "true")
    with pytest.raises(LabError, match="Insufficient Permissions"):
        lab.exec(hosts[0].name, *user, "nvidia-smi", "-pl", "300")


def test_faults_show_over_ssh_and_heal(lab: Lab, hosts: list[Host]) -> None:
    name = hosts[0].name
    for fault, code in ((("mismatch",), 18), (("lost", "--gpu", "1"), 255)):
        lab.tell(name, *fault)
        assert ssh(lab, hosts[0], "nvidia-smi", "-q", "-x").returncode == code
        lab.tell(name, "heal")
        assert ssh(lab, hosts[0], "nvidia-smi", "-q", "-x").returncode == 0
    lab.tell(name, "xid", "94")
    assert "Xid (PCI:0000:1b:00): 94" in lab.exec(name, "journalctl", "-t", "kernel", "--no-pager")


def test_what_is_not_known_is_refused(lab: Lab, hosts: list[Host]) -> None:
    with pytest.raises(LabError, match="invalid choice"):
        lab.tell(hosts[0].name, "explode")


def test_the_fleet_of_another_lab_is_apart(lab: Lab, hosts: list[Host], tmp_path: Path) -> None:
    other = Lab(tmp_path, f"{lab.prefix}-other")
    try:
        (host,) = other.up(FLEET[1:])
        assert host.name == f"{other.prefix}-1"
        assert host.address not in {h.address for h in hosts}
        assert lab.names() == [h.name for h in hosts]
        refused = subprocess.run([*lab.ssh(host.address), "true"], capture_output=True, check=False)
        assert refused.returncode == 255
    finally:
        other.down()
        network.remove(other.prefix)


def test_down_removes_hosts_and_up_makes_the_same_anew(lab: Lab, hosts: list[Host]) -> None:
    lab.down()
    assert lab.names() == []
    assert not run("docker", "volume", "ls", "-q", "--filter", f"name={hosts[0].name}-docker").strip()
    (again,) = lab.up(FLEET[:1])
    assert (again.fresh, again.address) == (True, hosts[0].address)
    assert again.host_key != hosts[0].host_key
