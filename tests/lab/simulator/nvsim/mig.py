"""MIG: profiles, GPU instances and compute instances (one compute instance per GPU instance)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from .models import MigProfile
from .state import Gpu

COMPUTE_SLICES = 7
MEMORY_SLICES = 8


@dataclass(frozen=True)
class Device:
    index: int
    instance: int
    compute: int
    profile: MigProfile
    uuid: str
    used: int


def profile(gpu: Gpu, wanted: str) -> MigProfile | None:
    return next((p for p in gpu.model.mig if wanted in (str(p.id), p.name)), None)


def devices(gpu: Gpu) -> list[Device]:
    """The usable MIG devices in the order nvidia-smi lists them: those with a compute instance."""
    ready = [i for i in sorted(gpu.state["instances"], key=lambda i: i["id"]) if i["compute"]]
    result = []
    for index, instance in enumerate(ready):
        found = profile(gpu, instance["profile"])
        assert found is not None
        name = uuid.uuid5(uuid.UUID(gpu.uuid.removeprefix("GPU-")), f"{found.name}/{instance['id']}")
        result.append(Device(index, instance["id"], 0, found, f"MIG-{name}", max(9, found.memory // 1500)))
    return result


def room(gpu: Gpu, wanted: MigProfile) -> int:
    """How many more GPU instances of this profile fit."""
    taken = [profile(gpu, i["profile"]) for i in gpu.state["instances"]]
    compute = COMPUTE_SLICES - sum(p.compute_slices for p in taken if p)
    memory = MEMORY_SLICES - sum(p.memory_slices for p in taken if p)
    limit = 1 if wanted.name.endswith("+me") else COMPUTE_SLICES
    return max(0, min(limit, compute // wanted.compute_slices, memory // wanted.memory_slices))


def create(gpu: Gpu, wanted: MigProfile, *, compute: bool) -> int:
    """A new GPU instance's id.

    Raises ValueError when the profile does not fit.
    """
    if not room(gpu, wanted):
        raise ValueError("Insufficient Resources")
    used = {i["id"] for i in gpu.state["instances"]}
    number = next(n for n in range(wanted.first_instance, 32) if n not in used)
    instance: dict[str, Any] = {
        "id": number,
        "profile": wanted.name,
        "memory": wanted.memory,
        "compute": compute,
    }
    gpu.state["instances"].append(instance)
    return number
