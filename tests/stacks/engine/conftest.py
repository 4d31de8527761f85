from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster.engine import Stack
from tests.lab.cluster.fixtures import cluster_lab
from tests.lab.cluster.lab import ClusterLab
from tests.lab.cluster.platform import platform_stack, remove_all

__all__ = ["cluster_lab"]


@pytest.fixture
def platform(cluster_lab: ClusterLab, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """`platform(section={…})`: a new stack of the platform; everything of it is removed at the end."""
    made: list[Stack] = []

    def new(**sections: Any) -> Stack:
        made.append(platform_stack(cluster_lab, tmp_path / f"stack-{len(made)}", **sections))
        return made[-1]

    yield new
    for stack in made:
        remove_all(stack)
