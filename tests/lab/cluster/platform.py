"""The platform's own stack on a lab."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.cli.platform_destroy import divided
from stacks.components.base import ComponentSettings, section_types
from tests.lab.cluster.engine import ROOT, Stack
from tests.lab.cluster.lab import ClusterLab

PROJECT = "ironyard-platform"
PLACE = ROOT / "stacks" / "platform"
POLICIES = ROOT / "stacks" / "policy"
_NUMBERS = itertools.count(1)


def configuration(lab: ClusterLab, sections: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults everywhere but in `sections`, on the lab's cluster with the lab's charts."""
    cluster = {
        "kubeconfig": str(lab.control_plane.kubeconfig),
        "charts": lab.registry.charts,
        "release_timeout": 120,
        **sections.get("cluster", {}),
    }
    return {f"{PROJECT}:{name}": value for name, value in {**sections, "cluster": cluster}.items()}


def only(*names: str) -> dict[str, Any]:
    """Every component switched off but these: for what is about runs, not about the whole platform."""
    parts = (name for name, model in section_types().items() if issubclass(model, ComponentSettings))
    return {name: {"mode": "off"} for name in parts if name not in names}


def platform_stack(lab: ClusterLab, folder: Path, **sections: Any) -> Stack:
    """A new stack of the platform; `folder` takes its state."""
    return Stack(PLACE, folder, lab.environment, f"lab{next(_NUMBERS)}", configuration(lab, sections))


def left_over(stack: Stack) -> list[str]:
    """URNs of what a destroy should have removed and did not: neither protected nor needed by what is."""
    _, going = divided(stack.resources(), with_data=False)
    return [change.urn for change in going]


def remove_all(stack: Stack) -> None:
    """The protected too: the cluster is empty after."""
    stack.unprotect()
    stack.destroy()
