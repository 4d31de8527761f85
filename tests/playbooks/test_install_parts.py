"""The installing steps' shared code as plain Python: versions, repositories, reasons, what is left alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils import installing, machine, platform_account, software, steps
from ansible.module_utils.software import Apt, Dnf, Wanted

from tests.playbooks.conftest import PLAYBOOKS, ROOT, load

DEBIAN = {"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm"}
UBUNTU = {"ID": "ubuntu", "VERSION_ID": "24.04", "VERSION_CODENAME": "noble"}
ROCKY = {"ID": "rocky", "VERSION_ID": "9.4"}
driver = load(PLAYBOOKS / "library/ironyard_driver.py")
toolkit = load(PLAYBOOKS / "library/ironyard_toolkit.py")
reports = load(PLAYBOOKS / "filter_plugins/ironyard.py")


def ran(code: int = 0, out: str = "", err: str = "") -> steps.Ran:
    return steps.Ran(("apt-get",), code, out, err)


@pytest.mark.parametrize(
    ("asked", "version", "well"),
    [
        ("nvidia-driver-cuda", "1-1", True),
        ("nvidia-driver-cuda", None, False),
        ("nvidia-driver-cuda=580.*", "580.95.05-1", True),
        ("nvidia-driver-cuda=580.*", "3:580.95.05-1.el9", True),
        ("nvidia-driver-cuda=580.*", "590.10-1", False),
        ("nvidia-fabricmanager=580.95.05*", "580.95.05-1ubuntu1", True),
        ("docker-ce=5:27.1-1", "5:27.1-1", True),
    ],
)
def test_a_version_will_do_or_not(asked: str, version: str | None, well: bool) -> None:
    assert Wanted.parse(asked).accepts(version) is well


@pytest.mark.parametrize(
    ("release", "built", "expected"),
    [
        (DEBIAN, "x86_64", {"id": "debian", "distro": "debian12", "debarch": "amd64", "arch": "x86_64"}),
        (
            UBUNTU,
            "aarch64",
            {"distro": "ubuntu2404", "codename": "noble", "debarch": "arm64", "arch": "sbsa"},
        ),
        (ROCKY, "x86_64", {"id": "rhel", "distro": "rhel9", "version": "9", "machine": "x86_64"}),
    ],
)
def test_words_stand_for_this_host(release: dict[str, str], built: str, expected: dict[str, str]) -> None:
    said = software.places(release, built)
    assert {word: said[word] for word in expected} == expected


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(steps.StepFailed, match=r"'\{flavour\}/x' cannot be read"):
        software.fill("{flavour}/x", software.places(DEBIAN))


def test_apt_and_dnf_say_what_is_installed_and_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "dpkg-query": ran(1, "docker.io\tinstalled\t20.10\nrunc\tconfig-files\t1.1\n"),
        "apt-cache": ran(
            0, " nvidia-x | 610.1-1 | url\n nvidia-x | 580.9-1 | url\n nvidia-xy | 580.8-1 | url\n"
        ),
        "rpm": ran(1, "docker-ce\t27.1-1.el9\npackage runc is not installed\n"),
        "env": ran(0, "nvidia-xy\t580.9-1.el9\nnvidia-x\t580.10-1.el9\n"),
    }
    monkeypatch.setattr(software, "run", lambda *argv, **_: said[argv[0]])
    assert Apt().installed(["docker.io", "runc"]) == {"docker.io": "20.10"}
    assert Apt().offered(Wanted("nvidia-x", "580.*")) == "580.9-1"
    assert Apt().offered(Wanted("nvidia-x", "570.*")) is None
    assert Dnf().installed(["docker-ce", "runc"]) == {"docker-ce": "27.1-1.el9"}
    assert Dnf().offered(Wanted("nvidia-x", "580.*")) == "580.10-1.el9"


def test_nothing_is_fetched_unless_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def run(*argv: str, **_: Any) -> steps.Ran:
        asked.append(argv)
        return ran(0, "docker.io\tinstalled\t20.10\n")

    monkeypatch.setattr(software, "run", run)
    step = steps.Step("docker")
    assert installing.packages(step, Apt(), [Wanted("docker.io")]) == ({"docker.io": "20.10"}, False)
    assert {argv[0] for argv in asked} == {"dpkg-query"}
    assert not step.changed


def test_a_package_is_fetched_before_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(*argv: str, **_: Any) -> steps.Ran:
        asked.append(" ".join(argv))
        return ran(100, err="E: Failed to fetch http://mirror/x.deb  404  Not Found\n")

    monkeypatch.setattr(software, "run", run)
    with pytest.raises(steps.StepFailed, match="cannot be fetched, nothing was installed: a package repo"):
        Apt(options=("-oX=1",), proxy="http://proxy:3128").install([Wanted("x", "1-1")])
    (command,) = asked
    assert "--download-only x=1-1" in command
    assert "-oX=1" in command
    assert command.startswith("env http_proxy=http://proxy:3128 https_proxy=http://proxy:3128 ")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            ran(100, err="W: GPG error: http://m InRelease: NO_PUBKEY 1234\n"),
            "signature does not fit the key",
        ),
        (ran(100, err="Err:1 http://m InRelease\n  Could not connect to m:80\n"), "cannot be reached"),
        (
            ran(1, err="Error: Failed to download metadata for repo 'x': Curl error (7)\n"),
            "cannot be reached",
        ),
        (ran(1, err="Public key for x.rpm is not installed\n"), "signature does not fit the key"),
        (ran(100, err="E: You don't have enough free space in /var/cache/apt/archives/.\n"), "no space"),
        (ran(124, err="no answer within 1800 s"), "took too long"),
        (ran(100, err="E: Unmet dependencies.\n"), "Unmet dependencies"),
    ],
)
def test_a_failure_is_told_in_words(said: steps.Ran, expected: str) -> None:
    assert expected in software.reason(said)


def test_an_nvswitch_is_a_bridge_of_the_vendor(recordings: Path) -> None:
    listed = (recordings / "gpud/lspci-nn-a100.txt").read_text()
    assert len(machine.parse_lspci(listed, machine.SWITCH_CLASSES)) == 6
    assert len(machine.parse_lspci(listed)) == 8


def test_switches_behind_an_adapter_are_found_by_its_product_data(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    for name, said in (("mlx5_0", b"PN: card"), ("mlx5_1", b"SMDL=SW_MNG")):
        (tmp_path / f"sys/class/infiniband/{name}/device").mkdir(parents=True)
        (tmp_path / f"sys/class/infiniband/{name}/device/vpd").write_bytes(said)
    assert [one["device_id"] for one in machine.pci_switches(tmp_path)] == ["mlx5_1"]


@pytest.mark.parametrize(
    ("answering", "policy", "why"),
    [
        (None, "keep", None),
        ("580.95.05", "keep", "is of the wanted branch 580"),
        ("580.95.05", "replace", "is of the wanted branch 580"),
        ("570.1", "keep", "is kept"),
        ("570.1", "replace", None),
    ],
)
def test_a_driver_is_kept_or_replaced(answering: str | None, policy: str, why: str | None) -> None:
    said = driver.keep(answering, "580", policy)
    assert said is None if why is None else why in said


def test_a_driver_that_does_not_load_needs_a_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "version", lambda: "570.1")
    monkeypatch.setattr(driver, "run", lambda *_, **__: ran())
    assert driver.load(steps.Step("driver"), "580", fresh=True) is None
    with pytest.raises(steps.StepFailed, match="needs a reboot"):
        driver.needs_reboot(steps.Step("driver"), {}, blocked=False, allowed=False)
    said = driver.needs_reboot(steps.Step("driver"), {}, blocked=True, allowed=True)
    assert said["reboot_needed"]
    assert said["install"]["rebooted"] == "nouveau holds the GPUs"


def test_what_fits_the_driver_cannot_be_chosen_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "driver", lambda: None)
    monkeypatch.setattr(machine, "os_release", lambda: DEBIAN)
    table = {"all": ["nvidia-fabricmanager={driver}*"]}
    with pytest.raises(steps.StepFailed, match="nvidia-smi does not say which driver runs"):
        installing.wanted(table)
    assert installing.wanted({"debian": ["docker.io"], "all": ["other"]}) == [Wanted("docker.io")]
    monkeypatch.setattr(installing, "driver", lambda: {"driver_version": "580.9", "cuda_version": "13.0"})
    assert installing.wanted(table) == [Wanted("nvidia-fabricmanager", "580.9*")]
    assert installing.wanted({"all": ["dcgm-cuda{cuda}"]}) == [Wanted("dcgm-cuda13")]


def test_switched_off_means_skipped_with_the_reason() -> None:
    step = steps.Step("docker")
    assert installing.left_out(step, {"enabled": False}) == {"install": {"skipped": installing.OFF}}
    assert installing.left_out(step, {"enabled": True}) is None
    assert step.evidence == ["skipped: installing is switched off"]


def test_a_report_says_which_steps_were_skipped_and_why() -> None:
    skipped = {"install": {"skipped": "no GPU"}, "evidence": ["skipped: no GPU"]}
    done = {"install": {"packages": {"x": "1"}}, "changed": True}
    results = {
        "dcgm": [skipped],
        "driver": [done, {"install": {"skipped": "fits"}}],
        "harden": [{"changed": True}],
    }
    names = [*results, "toolkit"]
    said = reports.report(names, results, "enroll", "1")
    assert [step["status"] for step in said["steps"]] == ["skipped", "ok", "ok", "skipped"]
    assert said["steps"][0]["evidence"] == ["skipped: no GPU"]
    assert reports.installs(results) == {"dcgm": {"skipped": "no GPU"}, "driver": {"packages": {"x": "1"}}}


def test_files_are_written_once(tmp_path: Path) -> None:
    step = steps.Step("dcgm_exporter", check=True)
    assert installing.files(step, {"/etc/a": b"1"}, root=tmp_path)
    assert not (tmp_path / "etc/a").exists()
    step = steps.Step("dcgm_exporter")
    assert installing.files(step, {"/etc/a": b"1"}, root=tmp_path)
    assert not installing.files(steps.Step("dcgm_exporter"), {"/etc/a": b"1"}, root=tmp_path)
    (tmp_path / "etc/a").chmod(0o666)
    assert installing.files(steps.Step("dcgm_exporter"), {"/etc/a": b"1"}, root=tmp_path)


def test_a_runtime_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = tmp_path / "daemon.json"
    monkeypatch.setattr(toolkit, "DAEMON", daemon)
    daemon.write_text('{"runtimes": {"nvidia": {}}}')
    step = steps.Step("toolkit")
    toolkit.runtime(step)
    assert not step.changed
    daemon.write_text("{broken")
    with pytest.raises(steps.StepFailed, match="is no JSON"):
        toolkit.runtime(step)


def test_an_account_without_a_key_is_refused(tmp_path: Path) -> None:
    assert platform_account.keys(["ssh-ed25519 AAAA op\n"], "root") == "ssh-ed25519 AAAA op\n"
    with pytest.raises(steps.StepFailed, match="there is no public key"):
        platform_account.keys([], "nobody")


def test_every_role_names_its_packages_for_every_system() -> None:
    table = yaml.safe_load((PLAYBOOKS / "roles/software/defaults/main.yml").read_text())["software_packages"]
    for role, systems in table.items():
        covered = set(systems)
        assert "all" in covered or covered >= {"debian", "ubuntu"}, role
        if role != "driver_pins":  # the RHEL family follows a module stream instead
            assert "all" in covered or "rhel" in covered, role


def test_no_vendor_is_named_by_address() -> None:
    text = (PLAYBOOKS / "roles/software/defaults/main.yml").read_text()
    assert re.findall(r"https?://", text) == []
    assert (ROOT / "templates/dcgm/counters.csv").is_file()
