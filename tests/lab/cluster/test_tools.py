"""Which programs are taken from PATH and which are built."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.cluster import tools
from tests.lab.cluster.tools import MODULES, ToolsMissing, ensure

EVERYTHING = {"etcd", "docker-registry", *(name for module in MODULES for name in module.programs)}


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with nothing in it; nothing is built yet either."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def install(folder: Path, *names: str, says: str = "") -> None:
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {says}\n")
        (folder / name).chmod(0o755)


def test_official_programs_are_all_that_is_needed(on_path: Path, tmp_path: Path) -> None:
    install(on_path, *EVERYTHING)
    found = ensure()
    assert found.built == frozenset()
    assert {place.parent for place in found.programs.values()} == {on_path}
    assert list(found.link(tmp_path / "links").iterdir()) == []


def test_what_debian_lacks_is_named(on_path: Path) -> None:
    install(on_path, *(EVERYTHING - {"etcd"}))
    with pytest.raises(ToolsMissing, match="etcd-server"):
        ensure()


@pytest.mark.parametrize("go", [None, "go version go1.25.9 linux/amd64"])
def test_a_go_that_is_missing_or_too_old_is_one_sentence(on_path: Path, go: str | None) -> None:
    install(on_path, *(EVERYTHING - {"kwok"}))
    if go:
        install(on_path, "go", says=go)
    with pytest.raises(ToolsMissing) as missing:
        ensure()
    assert str(missing.value) == "Go 1.26.0 or newer is not installed, so kwok cannot be built."


def test_pulumi_without_its_language_host_is_not_used(on_path: Path) -> None:
    install(on_path, *(EVERYTHING - {"pulumi-language-python"}))
    with pytest.raises(ToolsMissing, match="so pulumi, pulumi-language-python cannot be built"):
        ensure()


def test_a_changed_module_is_built_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = MODULES[0]
    before = tools._fingerprint(module, "go1.26.0")
    assert tools._fingerprint(module, "go1.26.1") != before
    copy = tmp_path / module.name
    copy.mkdir()
    for path in (tools.SOURCES / module.name).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(tools, "SOURCES", tmp_path)
    assert tools._fingerprint(module, "go1.26.0") == before
    (copy / "go.mod").write_text("module other\n")
    assert tools._fingerprint(module, "go1.26.0") != before
