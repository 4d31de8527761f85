"""`ironyard platform mirror` from one real registry into another, by Helm and skopeo."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.exits import Exit
from api.cli.main import app as ironyard
from api.cli.platform_copying import by_digest, by_tag, is_plain
from stacks.versions import IMAGES
from tests.lab.cluster import tools
from tests.lab.cluster.registry import Registry as Server
from tests.support.oci import Registry

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1800)]
PROGRAM = """
import pulumi, pulumi_kubernetes as kubernetes
cluster = pulumi.Config("ironyard-platform").get_object("cluster") or {}
mirror = cluster.get("images")
def image(name): return f"{mirror}/{name}" if mirror else f"quay.io/{name}"
for name in ("web", "cache"):
    kubernetes.helm.v3.Release(name, name=name, namespace="shop", chart=name, version="1.2.3",
        repository_opts={"repo": "https://charts.example.org"}, values={"registry": mirror or "quay.io"})
def pod(name, image): kubernetes.core.v1.Pod(name, spec={"containers": [{"name": "a", "image": image}]})
pod("own", image("team/own:7"))
if cluster.get("domain") == "stray.example":
    pod("stray", "quay.io/team/stray:1")
"""
TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: main, image: "{{ .Values.registry }}/team/{{ .Chart.Name }}:{{ .Chart.Version }}"}
"""


@pytest.fixture(scope="module")
def programs() -> tools.Tools:
    if shutil.which("skopeo") is None:
        pytest.skip("Not installed: skopeo; `make setup` as root on Debian installs it.")
    try:
        return tools.ensure()
    except tools.ToolsMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def registries(programs: tools.Tools, tmp_path: Path) -> Iterator[tuple[Registry, Registry]]:
    """The internet's, and the site's."""
    servers = [Server(tmp_path / name, programs) for name in ("far", "near")]
    try:
        for server in servers:
            server.start()
        yield Registry(servers[0].address), Registry(servers[1].address)
    finally:
        for server in servers:
            server.stop()


class Mirror:
    """The command, from the first registry into a folder of the second."""

    def __init__(self, far: Registry, near: Registry, project: Path) -> None:
        self.far, self.near, self.project = far, near, project
        self.to = f"{near.address}/gpu"
        self.stderr = ""

    def __call__(self, *options: str, code: int = 0) -> str:
        sources = [
            "--charts-from",
            f"oci://{self.far.address}/charts",
            "--images-from",
            f"{self.far.address}/up",
        ]
        arguments = [
            "platform",
            "mirror",
            "--to",
            self.to,
            *sources,
            "--project",
            str(self.project),
            *options,
        ]
        result = CliRunner().invoke(ironyard, arguments)
        self.stderr = result.stderr
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return result.stdout

    def states(self, *options: str, code: int = 0) -> dict[str, str]:
        found = json.loads(self(*options, "--json", code=code))
        return {
            item["target"].removeprefix("oci://"): item["state"] for item in found["charts"] + found["images"]
        }


@pytest.fixture
def mirror(
    registries: tuple[Registry, Registry],
    programs: tools.Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Mirror:
    far, near = registries
    project = tmp_path / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: ironyard-platform\nruntime: python\n")
    (project / "__main__.py").write_text(PROGRAM)
    bin_ = programs.link(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IRONYARD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("web", "cache"):
        archive = pack(tmp_path, name)
        tools.run(programs["helm"], "push", str(archive), f"oci://{far.address}/charts", "--plain-http")
    for name in ("team/web", "team/cache", "team/own"):
        far.put_image(f"up/{name}", "7" if name == "team/own" else "1.2.3", platforms=("amd64", "arm64"))
    for pin in IMAGES:
        far.put_image(f"up/{pin.name.partition('/')[2]}", pin.tag)
    return Mirror(far, near, project)


def pack(folder: Path, name: str) -> Path:
    path = folder / f"{name}-1.2.3.tgz"
    files = {
        "Chart.yaml": f"apiVersion: v2\nname: {name}\nversion: 1.2.3\n",
        "values.yaml": "registry: quay.io\n",
        "templates/pod.yaml": TEMPLATE,
    }
    with tarfile.open(path, "w:gz") as archive:
        for inner, text in files.items():
            entry = tarfile.TarInfo(f"{name}/{inner}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_everything_is_copied_once_with_its_digest(mirror: Mirror) -> None:
    assert set(mirror.states("--dry-run").values()) == {"would copy"}
    assert mirror.near.digest("gpu/team/own", "7") is None
    first = mirror.states()
    assert set(first.values()) == {"copied"}
    assert {f"{mirror.to}/charts/web:1.2.3", f"{mirror.to}/team/web:1.2.3", f"{mirror.to}/team/own:7"} <= set(
        first
    )
    assert {f"{mirror.to}/{pin.reference.partition('/')[2]}" for pin in IMAGES} <= set(first)
    for name, tag in (("team/web", "1.2.3"), ("team/own", "7")):
        assert mirror.near.digest(f"gpu/{name}", tag) == mirror.far.digest(f"up/{name}", tag) is not None
    second = mirror.states()
    assert second == dict.fromkeys(first, "present")


def test_it_says_how_the_stack_uses_the_mirror(mirror: Mirror) -> None:
    assert mirror().splitlines() == [
        f"pulumi config set --path ironyard-platform:cluster.charts oci://{mirror.to}/charts",
        f"pulumi config set --path ironyard-platform:cluster.images {mirror.to}",
    ]
    assert f"copied {mirror.to}/team/own:7" in mirror.stderr
    assert "images, copied by skopeo" in mirror.stderr


def test_a_tag_that_was_moved_is_copied_again(mirror: Mirror) -> None:
    mirror()
    mirror.far.put_image("up/team/own", "7", content="another")
    states = mirror.states()
    assert states.pop(f"{mirror.to}/team/own:7") == "copied"
    assert set(states.values()) == {"present"}
    assert mirror.near.digest("gpu/team/own", "7") == mirror.far.digest("up/team/own", "7")


def test_what_is_missing_is_told_and_the_rest_is_copied(mirror: Mirror) -> None:
    text = (mirror.project / "__main__.py").read_text()
    (mirror.project / "__main__.py").write_text(text.replace("team/own:7", "team/own:8"))
    states = mirror.states(code=Exit.FAILED)
    assert states.pop(f"{mirror.to}/team/own:8") == "failed"
    assert set(states.values()) == {"copied"}
    assert "1 could not be copied" in mirror.stderr
    mirror.far.put_image("up/team/own", "8")
    again = mirror.states()
    assert [target for target, state in again.items() if state == "copied"] == [f"{mirror.to}/team/own:8"]


def test_an_image_that_the_stack_takes_from_elsewhere_is_told(mirror: Mirror) -> None:
    (mirror.project / "Pulumi.local.yaml").write_text(
        "config: {ironyard-platform:cluster: {domain: stray.example}}\n"
    )
    mirror(code=Exit.FAILED)
    assert "Not taken from the mirror by the stack: quay.io/team/stray:1" in mirror.stderr


def test_pairs_for_those_who_copy_by_other_means(mirror: Mirror) -> None:
    pairs = [line.split(" ") for line in mirror("--list").splitlines()]
    assert [f"oci://{mirror.far.address}/charts/web:1.2.3", f"oci://{mirror.to}/charts/web:1.2.3"] in pairs
    assert [f"{mirror.far.address}/up/team/web:1.2.3", f"{mirror.to}/team/web:1.2.3"] in pairs
    assert mirror.near.digest("gpu/team/web", "1.2.3") is None
    document: Any = json.loads(mirror("--list", "--json"))
    assert len(document["charts"]) + len(document["images"]) == len(pairs)


def test_programs_must_be_there(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helm = shutil.which("helm")
    assert helm
    alone = tmp_path / "alone"
    alone.mkdir()
    monkeypatch.setenv("PATH", str(alone))
    mirror(code=Exit.FAILED)
    assert "helm is not on PATH" in mirror.stderr
    (alone / "helm").symlink_to(helm)
    mirror(code=Exit.FAILED)
    assert "No program that copies images is on PATH: install skopeo" in mirror.stderr
    assert mirror("--list")


def test_a_chart_that_cannot_be_fetched_is_named(mirror: Mirror) -> None:
    text = (mirror.project / "__main__.py").read_text()
    (mirror.project / "__main__.py").write_text(text.replace("1.2.3", "9.9.9"))
    mirror(code=Exit.FAILED)
    assert f"The chart oci://{mirror.far.address}/charts/web 9.9.9 cannot be read: " in mirror.stderr


def test_names_of_images() -> None:
    both = "quay.io/a/b:1@sha256:0"
    assert by_digest(both) == "quay.io/a/b@sha256:0"
    assert by_tag(both) == "quay.io/a/b:1"
    assert by_digest("localhost:5000/b:1") == by_tag("localhost:5000/b:1") == "localhost:5000/b:1"
    assert by_tag("quay.io/b@sha256:0") == by_digest("quay.io/b@sha256:0") == "quay.io/b@sha256:0"
    assert is_plain("localhost:5000/b:1", ())
    assert is_plain("mirror.example/b", ("mirror.example",))
    assert not is_plain("quay.io/b", ("mirror.example",))
