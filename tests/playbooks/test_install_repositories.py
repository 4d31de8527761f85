"""Package repositories as files: what is written, which key is taken, for whom."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible.module_utils import installing, machine, repositories, software, steps
from ansible.module_utils.software import Apt, Dnf

from tests.playbooks.conftest import PLAYBOOKS, load

DEBIAN = {"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm"}
ARMOURED = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
configure = load(PLAYBOOKS / "library/ironyard_repositories.py")
SOURCE = {"url": "https://mirror/cuda/{distro}/{arch}", "key_url": "../../key.pub", "needs": "gpu"}


def test_a_repository_is_written_for_apt_and_for_dnf() -> None:
    words = software.places(DEBIAN, "x86_64")
    one = repositories.Repository.read("driver", SOURCE, words)
    assert (one.url, one.key_url) == ("https://mirror/cuda/debian12/x86_64", "https://mirror/cuda/key.pub")
    files = repositories.wanted_files(Apt(), one, ARMOURED)
    assert list(files) == [
        "/etc/apt/keyrings/ironyard-driver.asc",
        "/etc/apt/sources.list.d/ironyard-driver.sources",
    ]
    text = files["/etc/apt/sources.list.d/ironyard-driver.sources"].decode()
    assert "URIs: https://mirror/cuda/debian12/x86_64/\nSuites: /\nSigned-By: /etc/apt/keyrings/" in text
    files = repositories.wanted_files(Dnf(), one, b"\x99binary")
    text = files["/etc/yum.repos.d/ironyard-driver.repo"].decode()
    assert "gpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/ironyard-driver.gpg\n" in text


def test_a_key_that_is_not_the_expected_one_is_refused() -> None:
    right = hashlib.sha256(b"key").hexdigest()
    one = repositories.Repository("driver", "https://mirror", key="key", key_sha256=right)
    assert repositories.fetch_key(one, "") == b"key"
    other = repositories.Repository("driver", "https://mirror", key="other", key_sha256=right)
    with pytest.raises(steps.StepFailed, match="is not the expected one"):
        repositories.fetch_key(other, "")
    with pytest.raises(steps.StepFailed, match="neither a key nor an address"):
        repositories.fetch_key(repositories.Repository("driver", "https://mirror"), "")


def test_a_known_key_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "etc/apt/keyrings").mkdir(parents=True)
    (tmp_path / "etc/apt/keyrings/ironyard-driver.asc").write_bytes(b"key")
    one = repositories.Repository("driver", "https://mirror", key_url="https://mirror/key")
    assert repositories.known_key(Apt(), one, tmp_path) == b"key"
    renewed = repositories.Repository("driver", "https://mirror", key_url="x", key_sha256="0" * 64)
    assert repositories.known_key(Apt(), renewed, tmp_path) is None


def test_repositories_are_for_a_system_and_for_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "os_release", lambda: DEBIAN)
    monkeypatch.setitem(installing.NEEDS, "gpu", (list, "no GPU"))
    table = {
        "a": SOURCE,
        "b": {"url": "https://m", "systems": ["rhel"]},
        "c": {"url": ""},
        "d": {"url": "https://m"},
    }
    assert [one.name for one in configure.applying(table)] == ["d"]
    monkeypatch.setitem(installing.NEEDS, "gpu", (lambda: ["one"], "no GPU"))
    assert [one.name for one in configure.applying(table)] == ["a", "d"]
    with pytest.raises(steps.StepFailed, match="needs 'tpu'"):
        configure.applying({"a": {"url": "https://m", "needs": "tpu"}})
