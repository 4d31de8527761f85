"""Fixtures of tests that use the cluster lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stacks.versions import CHARTS
from tests.lab.cluster.lab import ClusterLab
from tests.lab.cluster.tools import ToolsMissing


@pytest.fixture(scope="session")
def cluster_lab(contracts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterLab]:
    """An empty cluster API, a registry with every pinned chart, and the programs; skips where impossible."""
    try:
        lab = ClusterLab.at(tmp_path_factory.mktemp("cluster"), tied=True)
    except ToolsMissing as missing:
        pytest.skip(str(missing))
    try:
        lab.up(CHARTS, contracts)
        yield lab
    finally:
        lab.down()
