"""The platform's page, followed as its reader would on an empty cluster API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings import ROOT
from stacks.components.base import Component
from tests.docs import pages
from tests.docs.shell import Shell
from tests.docs.test_docs import environment
from tests.lab.cluster.fixtures import cluster_lab
from tests.lab.cluster.lab import ClusterLab

__all__ = ["cluster_lab"]
STACK = "docs"
FILE = ROOT / "stacks" / "platform" / f"Pulumi.{STACK}.yaml"


@pytest.fixture
def stack_file() -> Iterator[Path]:
    FILE.unlink(missing_ok=True)
    yield FILE
    FILE.unlink(missing_ok=True)


@pytest.mark.platform
@pytest.mark.timeout(3600)
def test_the_platform_s_page(cluster_lab: ClusterLab, stack_file: Path, tmp_path: Path) -> None:
    names = {
        ".ironyard/cluster/env.sh": str(cluster_lab.env_file),
        "--stack lab": f"--stack {STACK}",
        "--confirm lab": f"--confirm {STACK}",
        "Stack lab": f"Stack {STACK}",
        "stack lab": f"stack {STACK}",
    }
    own = environment(
        IRONYARD_DATA_DIR=str(tmp_path / "data"),
        PULUMI_HOME=str(tmp_path / "pulumi"),
        PULUMI_BACKEND_URL=f"file://{tmp_path}",
    )
    shell = Shell(tmp_path, own, names)
    for command in pages.to_run(pages.PLATFORM):
        shell.follow(command)
    assert cluster_lab.control_plane.kubectl("get", "namespaces", "-o", "name").count("ironyard-") == 0


def test_every_section_is_in_the_table() -> None:
    assert [row[0] for row in pages.table(pages.PLATFORM, "Section")] == [
        name for name in ORDER if name in Component.known
    ]
    assert set(ORDER) == set(Component.known)


ORDER = (
    *("monitoring", "gateway", "certificates", "storage", "database", "cache", "registry"),
    *("gpu", "queueing", "access", "experiments", "facade"),
)
