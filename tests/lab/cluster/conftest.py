from __future__ import annotations

from tests.lab.cluster.fixtures import cluster_lab

__all__ = ["cluster_lab"]
