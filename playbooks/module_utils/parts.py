"""The parts of a running system that are no file tree: each records, compares and cleans one kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ansible.module_utils import (
    accounts,
    cgroups,
    disks,
    firewall,
    kernel,
    keyrings,
    logs,
    mounts,
    network,
    runtime,
    storage,
    sysctl,
    tools,
)
from ansible.module_utils.steps import Step, StepFailed


class Part(Protocol):
    """A module of functions. What ``record`` returns is JSON and comes back as ``before``."""

    def record(self) -> Any: ...

    def findings(self, before: Any) -> list[str]: ...

    def clean(self, step: Step, before: Any) -> None: ...


PARTS: dict[str, Part] = {
    "mounts": mounts,
    "disks": disks,
    "kernel": kernel,
    "keyrings": keyrings,
    "cgroups": cgroups,
    "network": network,
    "firewall": firewall,
    "runtime": runtime,
    "storage": storage,
    "logs": logs,
    "sysctl": sysctl,
}
# Before anybody looks at files: what is mounted over a path hides it. `wipe` does disks after these.
FIRST = ("mounts",)
LAST = ("storage", "kernel", "keyrings", "cgroups", "network", "firewall", "runtime", "sysctl", "logs")


def record() -> dict[str, Any]:
    """Every part's record by name, and the host's tools. Raises StepFailed when one cannot be read."""
    return {**{name: part.record() for name, part in PARTS.items()}, "tools": tools.record(accounts.homes())}


def check(name: str, manifest: dict[str, Any]) -> list[str]:
    """One part's findings. Raises StepFailed for a part that enrolment did not record."""
    return PARTS[name].findings(recorded(name, manifest))


def recorded(name: str, manifest: dict[str, Any]) -> Any:
    if name not in manifest["parts"]:
        raise StepFailed(f"the manifest holds nothing of {name}: enroll the host again")
    return manifest["parts"][name]


def clean(step: Step, manifest: dict[str, Any], names: Iterable[str]) -> None:
    """Clean these parts in order, also when one before failed; raises StepFailed with all that failed."""
    messages: list[str] = []
    evidence: list[str] = []
    for name in names:
        try:
            PARTS[name].clean(step, recorded(name, manifest))
        except StepFailed as failed:
            messages.append(failed.message)
            evidence += failed.evidence or [failed.message]
        except (OSError, ValueError, KeyError, TypeError) as error:
            messages.append(f"{name} could not be cleaned: {type(error).__name__}: {error}")
            evidence.append(messages[-1])
    if messages:
        raise StepFailed("; ".join(messages), evidence)
