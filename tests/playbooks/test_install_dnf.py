"""Installing by dnf: the real one, with a folder as its root and a signed repository of stand-ins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import installing, repositories, software, steps
from ansible.module_utils.software import Dnf, Wanted

from tests.lab.packages import catalog, rpm
from tests.lab.packages.catalog import Package
from tests.lab.packages.keys import Key
from tests.lab.packages.serving import Served, served

pytestmark = [
    pytest.mark.skipif(bool(rpm.missing()), reason=f"not installed: {', '.join(rpm.missing())}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can install into a folder"),
]
NAME = "nvidia-driver-cuda"
OFFERED = [Package(NAME, version) for version in ("580.9.1", "580.10.2", "610.43.02")]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Key, Key]]:
    folder = tmp_path_factory.mktemp("keys")
    made = (Key(folder / "signer"), Key(folder / "stranger"))
    yield made
    for key in made:
        key.close()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Key, Key]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("mirror")
    rpm.publish(folder / "rpms", [*OFFERED, *catalog.toolkit()], keys[0])
    with served(folder / "rpms", "127.0.0.1") as server:
        yield server


class Host:
    """A folder that dnf takes for a host."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        original = software.run

        def run(*argv: str, **more: Any) -> steps.Ran:
            rooted = (argv[0], f"--root={root}", *argv[1:]) if argv[0] == "rpm" else argv
            return original(*rooted, **more)

        monkeypatch.setattr(software, "run", run)
        folder = (
            f"--installroot={root}", f"--setopt=cachedir={root}/cache", "--releasever=9",
            "--setopt=module_platform_id=platform:el9",
        )  # fmt: skip
        self.unconfigured = Dnf(options=folder)
        self.manager = Dnf(options=(*folder, f"--setopt=reposdir={root}/etc/yum.repos.d"))

    def configure(self, url: str, key: Key) -> dict[str, bytes]:
        repository = repositories.Repository("driver", url, key=key.public)
        files = repositories.wanted_files(self.manager, repository, repositories.fetch_key(repository, ""))
        # the key lies below the folder, which dnf is not told
        rooted = {
            path: raw.replace(b"file:///etc", f"file://{self.root}/etc".encode())
            for path, raw in files.items()
        }
        repositories.write(rooted, list(rooted), self.root)
        return files


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_a_package_of_the_branch_is_installed_once(host: Host, mirror: Served, keys: tuple[Key, Key]) -> None:
    host.configure(mirror.address, keys[0])
    wanted = [Wanted.parse(f"{NAME}=580.*"), Wanted("nvidia-container-toolkit")]
    present, changed = installing.packages(steps.Step("driver"), host.manager, wanted)
    assert changed
    assert present == {NAME: "580.10.2-1", "nvidia-container-toolkit": f"{catalog.TOOLKIT}-1"}
    assert (host.root / "usr/bin/nvidia-ctk").stat().st_mode & 0o777 == 0o755
    asked = len(mirror.asked)
    again = steps.Step("driver")
    assert installing.packages(again, host.manager, wanted) == (present, False)
    assert (again.changed, len(mirror.asked)) == (False, asked)


def test_a_package_that_another_key_signed_is_not_installed(
    host: Host, mirror: Served, keys: tuple[Key, Key]
) -> None:
    host.configure(mirror.address, keys[1])
    with pytest.raises(steps.StepFailed, match="signature does not fit the key"):
        installing.packages(steps.Step("driver"), host.manager, [Wanted(NAME)])
    assert host.manager.installed([NAME]) == {}


def test_a_repository_that_does_not_answer_is_said_before_anything_is_written(
    host: Host, keys: tuple[Key, Key]
) -> None:
    repository = repositories.Repository("driver", "http://127.0.0.1:9", key=keys[0].public)
    files = repositories.wanted_files(host.manager, repository, keys[0].public.encode())
    with pytest.raises(steps.StepFailed, match="nothing was changed: a package repository cannot be reached"):
        repositories.prove(host.unconfigured, files)
    assert not list(host.root.glob("etc/**/*ironyard*"))


def test_a_repository_that_answers_is_proven(host: Host, mirror: Served, keys: tuple[Key, Key]) -> None:
    repository = repositories.Repository("driver", mirror.address, key=keys[0].public)
    files = repositories.wanted_files(host.manager, repository, keys[0].public.encode())
    repositories.prove(host.unconfigured, files)
    assert "/repodata/repomd.xml" in mirror.asked


def test_what_nobody_offers_is_named(host: Host, mirror: Served, keys: tuple[Key, Key]) -> None:
    host.configure(mirror.address, keys[0])
    with pytest.raises(
        steps.StepFailed, match=r"no package repository of this host offers nvidia-driver-cuda=570\.\*"
    ):
        installing.packages(steps.Step("driver"), host.manager, [Wanted.parse(f"{NAME}=570.*")])
