"""The changeable state of the simulated GPUs: one JSON file under a lock, plus the host's description.

Paths: NVIDIA_SIM_STATE and NVIDIA_SIM_GPUS override where the state and the description lie.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .models import MODELS, Model

STATE = Path(os.environ.get("NVIDIA_SIM_STATE", "/var/lib/nvidia-sim/state.json"))
GPUS = Path(os.environ.get("NVIDIA_SIM_GPUS", "/etc/nvidia-sim/gpus.json"))

ECC_KINDS = (
    "sram_correctable",
    "sram_uncorrectable_parity",
    "sram_uncorrectable_secded",
    "dram_correctable",
    "dram_uncorrectable",
)


@dataclass
class Gpu:
    index: int
    uuid: str
    serial: str
    bus: str  # 0000:1b:00.0
    numa_node: int
    nvlink_domain: str | None
    model: Model
    state: dict[str, Any]

    @property
    def smi_bus(self) -> str:
        """The bus id as nvidia-smi writes it: eight digits of domain, capitals."""
        return f"0000{self.bus}".upper()

    @property
    def mig_enabled(self) -> bool:
        return bool(self.state["mig_current"])


@dataclass
class Machine:
    gpus: list[Gpu]
    data: dict[str, Any]
    switches: int = 0  # NVSwitches on the PCI bus

    @property
    def faults(self) -> dict[str, Any]:
        faults: dict[str, Any] = self.data["faults"]
        return faults

    def processes(self, gpu: Gpu) -> list[dict[str, Any]]:
        return [p for p in self.data["processes"] if p["gpu"] == gpu.uuid]

    def used(self, gpu: Gpu) -> int:
        """MiB in use: live processes, memory left behind, and what MIG itself takes."""
        held: int = sum(p["memory"] for p in self.processes(gpu)) + gpu.state["ghost"]
        overhead: int = sum(instance["memory"] // 1000 for instance in gpu.state["instances"])
        return min(held + overhead, gpu.model.memory - gpu.model.reserved)


def fresh(model: Model) -> dict[str, Any]:
    return {
        "persistence": True,
        "compute_mode": "Default",
        "power_limit": float(model.power),
        "ecc_current": True,
        "ecc_pending": True,
        "mig_current": False,
        "mig_pending": False,
        "instances": [],
        "gpu_clocks": None,
        "memory_clocks": None,
        "application_clocks": None,
        "accounting": False,
        "volatile": dict.fromkeys(ECC_KINDS, 0),
        "aggregate": dict.fromkeys(ECC_KINDS, 0),
        "remap": {"correctable": 0, "uncorrectable": 0, "pending": False, "failure": False},
        "ghost": 0,
        "lost": None,
        "recovery": "None",
        "throttle": [],
        "temperature": 34,
        "pcie_width": 16,
        "nvlinks_down": 0,
        "fabric": None,
        "vbios": None,
        "diag": {},
    }


def started(pid: int) -> int | None:
    """The start time of a living process in clock ticks since boot; None for the dead and for zombies."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _load(text: str) -> Machine:
    described = json.loads(GPUS.read_text(encoding="utf-8"))
    data = json.loads(text) if text.strip() else {"gpus": {}, "processes": [], "faults": {}}
    gpus = []
    for index, d in enumerate(described["gpus"]):
        model = MODELS[d["model"]]
        state = {**fresh(model), **data["gpus"].get(d["uuid"], {})}
        data["gpus"][d["uuid"]] = state
        gpus.append(
            Gpu(index, d["uuid"], d["serial"], d["bus"], d["numa_node"], d["nvlink_domain"], model, state)
        )
    data["processes"] = [p for p in data["processes"] if started(p["pid"]) == p["started"]]
    return Machine(gpus, data, described.get("switches", 0))


def read() -> Machine:
    try:
        with STATE.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return _load(file.read())
    except FileNotFoundError:
        return _load("")


@contextlib.contextmanager
def change() -> Iterator[Machine]:
    """The machine for change, written back when the block ends without an error.

    Written in place: the file keeps its owner even when a tenant's process registers itself.
    """
    STATE.parent.mkdir(parents=True, exist_ok=True)
    with STATE.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(PermissionError):
            STATE.chmod(0o666)
        file.seek(0)
        machine = _load(file.read())
        yield machine
        file.seek(0)
        file.truncate()
        json.dump(machine.data, file, indent=1)
