"""Every residue of the set is planted by a tenant with root on one host; one reclaim leaves none of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.playbooks import ledger as ledgers
from tests.playbooks import residues
from tests.playbooks.conftest import ROOT
from tests.playbooks.fleet import Fleet, Played

pytestmark = pytest.mark.lab

RESIDUES = residues.every()
NAME = "residue-1"
SERVICES = ("atd", "cron", "docker", "ssh", "prometheus-node-exporter", "systemd-journald", "systemd-logind")


@dataclass(frozen=True)
class Reclaimed:
    """What the probes printed on the clean host, after planting and after reclaim, and the plays since."""

    fleet: Fleet
    clean: dict[int, str]
    planted: dict[int, str]
    left: dict[int, str]
    reclaim: Played
    verify: Played
    enroll: Played


def look(fleet: Fleet) -> dict[int, str]:
    """By number what each probe prints, run from outside and past sshd."""
    done = subprocess.run(
        ["docker", "exec", "-i", NAME, "bash"],
        input=residues.looking(RESIDUES).encode(),
        capture_output=True,
        check=True,
    )
    return residues.seen(done.stdout.decode(errors="replace"))


@pytest.fixture(scope="module")
def reclaimed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reclaimed]:
    from tests.lab import Lab, LabError
    from tests.lab import fleet as described

    lab = Lab(ROOT / ".ironyard" / "residue-tests", prefix="residue")
    try:
        lab.ensure_engine()
        lab.down()
        hosts = lab.up(described.load()[2:])
    except LabError as error:
        pytest.skip(f"no lab: {error}")
    folder: Path = tmp_path_factory.mktemp("residues")
    script = folder / "plant.sh"
    script.write_text(residues.planting(RESIDUES))
    with ledgers.serve() as ledger:
        fleet = Fleet(lab, hosts, ledger, folder)
        enrolled = fleet.play("enroll", NAME, "-e", "ironyard_install=false")[NAME]
        assert enrolled.code == 0, enrolled.output
        clean = look(fleet)
        fleet.as_tenant(NAME, script)
        planted = look(fleet)
        reclaim = fleet.play("reclaim", NAME)[NAME]
        left = look(fleet)
        verify = fleet.play("verify", NAME)[NAME]
        enroll = fleet.play("enroll", NAME, "-e", "ironyard_install=false")[NAME]
        yield Reclaimed(fleet, clean, planted, left, reclaim, verify, enroll)
    lab.down()


@pytest.mark.parametrize("number", range(len(RESIDUES)), ids=[one.name for one in RESIDUES])
def test_nothing_is_left_of(reclaimed: Reclaimed, number: int) -> None:
    assert reclaimed.clean[number] == "", "the probe sees something on a clean host"
    assert reclaimed.planted[number] != "", "the residue was not planted or the probe does not see it"
    assert reclaimed.left[number] == ""


def test_the_set_is_large_and_its_names_tell_them_apart() -> None:
    assert len(RESIDUES) >= 80
    assert len({one.name for one in RESIDUES}) == len(RESIDUES)


def test_reclaim_says_what_it_removed(reclaimed: Reclaimed) -> None:
    assert reclaimed.reclaim.code == 0, reclaimed.reclaim.output
    wipe = reclaimed.reclaim.step("wipe")
    assert "/etc/cron.d/evil" in wipe["paths"]["cron and at jobs"]
    assert "/usr/bin/free (gone)" in wipe["paths"]["restored files"]
    assert all(len(paths) <= 200 for paths in wipe["paths"].values())


def test_the_host_matches_its_manifest(reclaimed: Reclaimed) -> None:
    assert reclaimed.verify.code == 0, reclaimed.verify.output
    assert reclaimed.verify.report["findings"] == []


def test_enroll_again_changes_nothing(reclaimed: Reclaimed) -> None:
    assert (reclaimed.enroll.code, reclaimed.enroll.stats["changed"]) == (0, 0), reclaimed.enroll.output
    assert reclaimed.enroll.report["findings"] == []


def test_the_platforms_services_are_up(reclaimed: Reclaimed) -> None:
    states = reclaimed.fleet.sh(NAME, f"systemctl is-active {' '.join(SERVICES)}", check=False).split()
    assert dict(zip(SERVICES, states, strict=True)) == dict.fromkeys(SERVICES, "active")
    assert reclaimed.fleet.sh(NAME, "systemctl --failed --plain --no-legend") == ""


def test_what_cannot_be_restored_fails_reclaim_with_its_path(reclaimed: Reclaimed) -> None:
    """The clean copy is gone, no package repository can be reached, and the ledger keeps no programs."""
    fleet, program = reclaimed.fleet, "/usr/bin/vmstat"
    digest = fleet.sh(NAME, f"sha256sum {program}")[:32]
    fleet.sh(NAME, f"rm /var/lib/ironyard/pristine/{digest[:2]}/{digest}")
    fleet.sh(NAME, f"cp /bin/true {program}")
    played = fleet.play("reclaim", NAME)[NAME]
    assert (played.code, played.report["failed_step"]) == (2, "wipe")
    assert program in played.report["failed_reason"]
    assert f"cannot be restored: {program}" in played.step("wipe")["evidence"]
    assert (
        fleet.play("verify", NAME)[NAME]
        .report["findings"][0]
        .startswith(f"altered since enrolment: {program}")
    )
