"""The lab without an engine: what goes into the image, which subnet, what is said when all is missing."""

from __future__ import annotations

import io
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.lab import LabError, fleet, images, network
from tests.lab.engine import Engine
from tests.lab.packages import catalog, deb
from tests.lab.run import run

ROOT = Path(__file__).parents[2]


def test_the_thin_layer_is_the_same_for_the_same_files() -> None:
    assert images.overlay() == images.overlay()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")
def test_a_stand_in_package_is_one_for_dpkg(tmp_path: Path) -> None:
    for package in catalog.vendor():
        path = tmp_path / f"{package.name}.deb"
        path.write_bytes(deb.build(package))
        fields = run("dpkg-deb", "--show", "--showformat=${Package} ${Version} ${Depends}", str(path))
        assert fields.split(" ", 2)[:2] == [package.name, package.debian_version]
        listed = run("dpkg-deb", "--contents", str(path))
        assert all(f".{name}" in listed for name in (*package.files, *package.links))


def test_the_thin_layer_holds_programs_and_links() -> None:
    with tarfile.open(fileobj=io.BytesIO(images.overlay())) as tar:
        members = {m.name: m for m in tar.getmembers()}
    assert members["usr/bin/lspci"].linkname == "/usr/lib/nvidia-sim/lspci.py"
    assert "var/cache/stand-ins/nvidia-driver-cuda.deb" in members
    assert members["usr/lib/nvidia-sim/nvidia_smi.py"].mode == 0o755
    assert members["usr/lib/nvidia-sim/nvsim/state.py"].mode == 0o644
    assert not [name for name in members if "__pycache__" in name]
    assert {m.uid for m in members.values()} == {0}


def test_a_changed_simulator_keeps_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(images.HERE, tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    before = images.base_tag(), images.overlay()
    monkeypatch.setattr(images, "HERE", tmp_path / "lab")
    assert (images.base_tag(), images.overlay()) == before
    (tmp_path / "lab" / "simulator" / "lspci.py").write_text("#!/usr/bin/python3\n")
    assert images.base_tag() == before[0]
    assert images.overlay() != before[1]
    (tmp_path / "lab" / "image" / "packages.txt").write_text("systemd\n")
    assert images.base_tag() != before[0]


def test_the_default_fleet() -> None:
    described = fleet.load()
    assert [(d.model, d.count, d.nvlink) for d in described] == [
        ("h100-sxm", 8, True),
        ("a100-sxm", 4, True),
        ("l40s", 2, False),
    ]
    gpus = [gpu for n, d in enumerate(described) for gpu in d.gpus(f"lab-{n}")["gpus"]]
    for name in ("uuid", "serial"):
        assert len({gpu[name] for gpu in gpus}) == len(gpus)
    assert len({g["bus"] for g in gpus[:8]}) == 8
    assert len({g["nvlink_domain"] for g in gpus[:8]}) == 1
    assert {g["nvlink_domain"] for g in gpus[12:]} == {None}


def test_gpus_belong_to_their_host() -> None:
    (one, *_) = fleet.load()
    assert one.gpus("lab-1") == one.gpus("lab-1")
    assert one.gpus("lab-1") != one.gpus("other-1")


@pytest.mark.parametrize("name", ["lab", "labtest", "pb"])
def test_a_subnet_in_use_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made: list[ipaddress.IPv4Network] = []

    def run(*argv: str, check: bool = True) -> str:
        if argv[0] == "ip":
            return json.dumps([{"dst": "default"}, *({"dst": str(subnet)} for subnet in made)])
        if argv[:3] == ("docker", "network", "create"):
            made.append(ipaddress.IPv4Network(argv[argv.index("--subnet") + 1]))
        return ""

    monkeypatch.setattr(network, "run", run)
    first, second = network.ensure(name), network.ensure(name)
    assert made == [first, second]
    assert not first.overlaps(second)
    assert network.address(first, 1) == str(first.network_address + 11)


def test_without_an_engine_and_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "answers", lambda self: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="only root can start one"):
        Engine(tmp_path).ensure()


def test_a_pid_file_left_behind_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "dockerd.pid").write_text(str(os.getpid()))
    assert Engine(tmp_path).stop() is False
    (tmp_path / "dockerd.pid").write_text("no number")
    assert Engine(tmp_path).started_here() is None


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.lab", "--state-dir", str(tmp_path), "up"]
    environment = {"PATH": "/nonexistent"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("No Docker engine answers")
    assert len(done.stderr.strip().splitlines()) == 1
