"""Enrolment of bare hosts, which get everything from a repository of stand-in packages that is made here."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import Host, Lab, LabError, network
from tests.lab.fleet import Described
from tests.lab.packages import catalog, deb
from tests.lab.packages.keys import Key
from tests.lab.packages.serving import Served, served
from tests.lab.run import run
from tests.playbooks import ledger as ledgers
from tests.playbooks.conftest import ROOT
from tests.playbooks.fleet import Fleet, Played

pytestmark = pytest.mark.lab

BARE, PLAIN = "inst-1", "inst-2"
FLEET = [
    Described("lab", {}, "h100-sxm", 2, nvlink=True, uuids=(), switches=2),
    Described("lab", {}, "l40s", 0, nvlink=False, uuids=()),
]
INSTALLING = (
    "repositories", "account", "docker", "driver", "fabric_manager", "toolkit", "dcgm", "dcgm_exporter",
    "node_exporter",
)  # fmt: skip
STEPS = ",".join(("preflight", *INSTALLING, "discover"))  # without the record, which takes the longest
UNITS = (
    "docker", "nvidia-fabricmanager", "nvidia-dcgm", "nvidia-dcgm-exporter", "prometheus-node-exporter",
)  # fmt: skip
FILES = r"""
find /etc /usr/bin /usr/sbin /usr/lib/systemd /home /root -xdev -path /root/.ansible -prune \
  -o \( -type f -o -type l \) -printf '%M %u %l %p\n' -type f -exec sha256sum {} + | sort | sha256sum
"""
NEWER = "610.43.02"
CUDA = "compute/cuda/repos/debian12/x86_64"
TOOLKIT = "libnvidia-container"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(ROOT / ".ironyard" / "install-tests", prefix="inst")
    try:
        lab.ensure_engine()
    except LabError as error:
        pytest.skip(f"no lab: {error}")
    lab.down()
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> list[Host]:
    """One without anything that enrolment installs, and one of the lab's own without a GPU."""
    found = lab.up(FLEET)
    script = Path(__file__).with_name("bare.sh").read_bytes()
    made = subprocess.run(
        ["docker", "exec", "-i", BARE, "bash", "-s"], input=script, capture_output=True, check=False
    )
    assert made.returncode == 0, made.stderr.decode()
    return found


@pytest.fixture(scope="module")
def mirror(lab: Lab, hosts: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    folder = tmp_path_factory.mktemp("mirror")
    keys = [Key(folder / name) for name in ("signer", "stranger")]
    with served(folder / "served", str(network.ensure(lab.prefix)[1])) as server:
        yield Mirror(folder / "served", server, *keys, kernel=os.uname().release)
    for key in keys:
        key.close()


class Mirror:
    """The vendors' repositories under the vendors' own paths; `stranger` is a key that signed nothing."""

    def __init__(self, folder: Path, server: Served, signer: Key, stranger: Key, *, kernel: str) -> None:
        self.folder, self.server, self.signer, self.stranger = folder, server, signer, stranger
        cuda = [*catalog.driver(), *catalog.driver(NEWER), *catalog.dcgm()]
        offered = [*cuda, *catalog.distribution(kernel), *catalog.engine("/opt/engine")]
        deb.publish(folder / CUDA, offered, signer)
        deb.publish(folder / TOOLKIT / "stable/deb/amd64", catalog.toolkit(), signer)
        self.show(signer)

    def show(self, key: Key) -> None:
        for name in (f"{CUDA}/3bf863cc.pub", f"{TOOLKIT}/gpgkey"):
            (self.folder / name).write_text(key.public)


@pytest.fixture(scope="module")
def fleet(
    lab: Lab, hosts: list[Host], mirror: Mirror, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    with ledgers.serve() as ledger:
        yield Fleet(lab, hosts, ledger, tmp_path_factory.mktemp("home"))


def enroll(fleet: Fleet, name: str, url: str, *extra: str, **more: str) -> Played:
    said = {"ironyard_packages_url": url, "driver_branch": "595", **more}
    return fleet.play("enroll", name, "-e", json.dumps(said), *extra)[name]


def test_a_repository_that_cannot_be_reached_changes_nothing(fleet: Fleet) -> None:
    before = fleet.sh(BARE, FILES)
    played = enroll(fleet, BARE, "http://127.0.0.1:9")
    assert played.report["failed_step"] == "repositories"
    assert "the repository driver cannot be reached" in played.report["failed_reason"]
    assert fleet.sh(BARE, FILES) == before


def test_a_repository_that_another_key_signed_changes_nothing(fleet: Fleet, mirror: Mirror) -> None:
    before = fleet.sh(BARE, FILES)
    mirror.show(mirror.stranger)
    try:
        played = enroll(fleet, BARE, mirror.server.address)
    finally:
        mirror.show(mirror.signer)
    assert played.report["failed_step"] == "repositories"
    assert "signature does not fit the key" in played.report["failed_reason"]
    assert fleet.sh(BARE, FILES) == before


def test_a_package_that_nobody_offers_is_named(fleet: Fleet) -> None:
    played = enroll(fleet, BARE, "", "--tags", "preflight,docker")
    assert played.report["failed_step"] == "docker"
    assert "no package repository of this host offers docker.io" in played.report["failed_reason"]


def test_check_mode_says_what_it_would_do_and_does_nothing(fleet: Fleet, mirror: Mirror) -> None:
    before = fleet.sh(BARE, FILES)
    played = enroll(fleet, BARE, mirror.server.address, "--check", "-v", "--tags", STEPS)
    assert played.code == 0, played.output
    for said in (
        "would write /etc/apt/sources.list.d/ironyard-driver.sources",
        "would make the account ironyard",
        "would install docker.io",
        "would install nvidia-driver-pinning-595",
        "would install nvidia-fabricmanager",
        "would start nvidia-dcgm-exporter.service",
    ):
        assert said in played.output, said
    assert fleet.sh(BARE, FILES) == before


@pytest.fixture(scope="module")
def enrolled(fleet: Fleet, mirror: Mirror) -> Played:
    return enroll(fleet, BARE, mirror.server.address)


def test_a_bare_host_gets_everything(fleet: Fleet, enrolled: Played) -> None:
    assert enrolled.code == 0, enrolled.output
    assert enrolled.report["findings"] == []
    assert {enrolled.step(name)["status"] for name in INSTALLING} == {"ok"}
    assert fleet.sh(BARE, f"systemctl is-active {' '.join(UNITS)}").split() == ["active"] * len(UNITS)
    assert fleet.sh(BARE, f"systemctl is-enabled {' '.join(UNITS)}").split() == ["enabled"] * len(UNITS)
    assert len(fleet.sh(BARE, "nvidia-smi -L").splitlines()) == 2
    assert "nvidia" in fleet.sh(BARE, "docker info --format '{{json .Runtimes}}'")
    assert fleet.sh(BARE, "cat /etc/cdi/nvidia.yaml").count("/dev/nvidia") == 2
    assert fleet.sh(BARE, "cat /etc/modprobe.d/ironyard-nouveau.conf").startswith("blacklist nouveau")


def test_driver_and_fabric_manager_are_of_the_branch_and_equal(fleet: Fleet, enrolled: Played) -> None:
    script = "dpkg-query -W -f '${Version}\n' nvidia-driver-cuda nvidia-kernel-open-dkms nvidia-fabricmanager"
    assert set(fleet.sh(BARE, script).split()) == {"595.80-1"}
    assert fleet.sh(BARE, "apt-cache madison nvidia-fabricmanager").count(NEWER) == 1


def test_the_exporter_serves_the_counters_of_the_platform(fleet: Fleet, enrolled: Played) -> None:
    ask = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:9400/metrics\").read().decode())'"
    served_now = fleet.sh(BARE, ask)
    listed = [
        line for line in (ROOT / "templates/dcgm/counters.csv").read_text().splitlines() if "DCGM_" in line
    ]
    names = [line.split(",")[0] for line in listed if not line.startswith("#") and ", label," not in line]
    assert len(names) > 25
    assert [name for name in names if f"{name}{{" not in served_now] == []


def test_the_platform_can_log_in_by_its_own_account(fleet: Fleet, enrolled: Played) -> None:
    command = [word.replace("root@", "ironyard@") for word in fleet.lab.ssh(fleet.row(BARE)["address"])]
    who = subprocess.run([*command, "sudo -n id -un"], capture_output=True, text=True, check=True)
    assert who.stdout == "root\n"
    assert fleet.sh(BARE, "getent shadow ironyard | cut -d: -f2")[:1] == "!"


def test_the_manifest_says_what_was_installed(fleet: Fleet, enrolled: Played) -> None:
    install = enrolled.report["manifest"]["install"]
    assert sorted(install) == sorted(INSTALLING)
    assert install["driver"]["driver"] == "595.80"
    assert install["fabric_manager"]["packages"] == {"nvidia-fabricmanager": "595.80-1"}
    assert sorted(install["repositories"]) == ["driver", "toolkit"]


def test_a_second_run_changes_nothing_and_asks_no_repository(
    fleet: Fleet, mirror: Mirror, enrolled: Played
) -> None:
    asked = len(mirror.server.asked)
    again = enroll(fleet, BARE, mirror.server.address, "--tags", f"{STEPS},harden")
    assert again.code == 0, again.output
    assert again.stats["changed"] == 0
    assert [name for name in INSTALLING if again.step(name)["changed"]] == []
    assert len(mirror.server.asked) == asked


def test_a_host_without_a_gpu_skips_what_is_for_gpus_and_says_why(fleet: Fleet, mirror: Mirror) -> None:
    played = enroll(fleet, PLAIN, mirror.server.address, "--tags", STEPS)
    assert played.code == 0, played.output
    for name in ("driver", "toolkit", "dcgm", "dcgm_exporter"):
        assert played.step(name)["status"] == "skipped"
        assert played.step(name)["evidence"] == ["skipped: no NVIDIA GPU is on the PCI bus"]
    assert played.step("fabric_manager")["evidence"] == ["skipped: there is no NVSwitch"]
    assert played.step("repositories")["evidence"] == ["skipped: no repository of the platform is configured"]
    assert played.report["facts"]["gpus"] == []


@contextmanager
def powered(name: str) -> Iterator[None]:
    """A container that reboots ends; a machine that reboots comes back."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if run("docker", "inspect", "--format", "{{.State.Running}}", name).strip() == "false":
                run("docker", "start", name)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_another_branch_is_kept_or_replaced_by_policy(fleet: Fleet, mirror: Mirror, enrolled: Played) -> None:
    more = {"driver_branch": NEWER.partition(".")[0]}
    kept = enroll(fleet, BARE, mirror.server.address, "--tags", "driver", **more)
    assert "driver 595.80 is of another branch than 610 and is kept" in kept.step("driver")["evidence"][-1]
    replaced = enroll(fleet, BARE, mirror.server.address, "--tags", "driver", **more, driver_policy="replace")
    assert replaced.report["failed_step"] == "driver"
    assert "needs a reboot" in replaced.report["failed_reason"]
    assert fleet.sh(BARE, "dpkg-query -W -f '${Version}' nvidia-driver-cuda") == f"{NEWER}-1"
    assert "version mismatch" in fleet.sh(BARE, "nvidia-smi -L", check=False)

    with powered(BARE):
        renewed = enroll(fleet, BARE, mirror.server.address, "--tags", "driver", **more, driver_reboot="true")
    assert renewed.code == 0, renewed.output
    assert (
        "needs a reboot: the running kernel module cannot be exchanged" in renewed.step("driver")["evidence"]
    )
    assert (
        fleet.sh(BARE, "nvidia-smi --query-gpu=driver_version --format=csv,noheader").split() == [NEWER] * 2
    )


def test_retire_takes_the_platforms_files_and_leaves_the_packages(
    fleet: Fleet, mirror: Mirror, enrolled: Played
) -> None:
    played = fleet.play("retire", BARE)[BARE]
    assert played.code == 0, played.output
    assert fleet.sh(BARE, "find /etc /home -name '*ironyard*' -not -path '*/apt/lists/*'") == ""
    assert fleet.sh(BARE, "getent passwd ironyard", check=False) == ""
    assert fleet.sh(BARE, f"systemctl is-active {' '.join(UNITS)}").split() == ["active"] * len(UNITS)
