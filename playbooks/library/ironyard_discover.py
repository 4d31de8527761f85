#!/usr/bin/python
"""Reads the machine and its GPUs."""

from __future__ import annotations

import socket
from typing import Any

from ansible.module_utils import health_gpu, machine, nvidia_smi
from ansible.module_utils.steps import Step, StepFailed, run_module

DOCUMENTATION = r"""
module: ironyard_discover
short_description: Read a host's hardware
description: Firmware names, CPU, memory, NUMA, PCI GPUs and what nvidia-smi says of each GPU with its first
  health.
author: Ironyard
options:
  timeout:
    description: Seconds that nvidia-smi may take.
    type: float
    default: 60.0
"""
EXAMPLES = r"""
- name: Read the hardware
  ironyard_discover:
    timeout: 90
"""
RETURN = r"""
facts:
  description: The host's facts.
  type: dict
  returned: success
findings:
  description: GPUs that are lost, sick or of unknown health.
  type: list
  elements: str
  returned: success
"""
GPU_FACTS = (
    "index",
    "uuid",
    "model",
    "architecture",
    "memory_mib",
    "pci_address",
    "serial",
    "vbios",
    "numa_node",
    "nvlink_domain",
    "mig_mode",
    "ecc_mode",
    "persistence_mode",
    "compute_mode",
    "power_limit_watts",
    "health",
    "health_reasons",
)


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    on_bus = machine.pci_gpus()
    seen = nvidia_smi.query(params["timeout"])
    if seen is None and on_bus and step.check:
        step.note(f"{len(on_bus)} NVIDIA GPUs are on the PCI bus; they are read once the driver is installed")
    elif seen is None and on_bus:
        raise StepFailed(f"{len(on_bus)} NVIDIA GPUs are on the PCI bus but nvidia-smi is missing")
    gpus = [
        {
            **gpu,
            **dict(zip(("health", "health_reasons"), health_gpu.glance(gpu))),
            "numa_node": machine.numa_node(gpu["pci_address"]),
        }
        for gpu in (seen or {}).get("gpus", [])
    ]
    findings = machine.lost_gpus(on_bus, gpus)
    for gpu in gpus:
        if gpu["health"] != "ok":
            findings.append(
                f"GPU {gpu['index']} ({gpu['uuid']}) health {gpu['health']}: "
                + ", ".join(gpu["health_reasons"])
            )
    facts = {
        "hostname": socket.gethostname(),
        "os": machine.operating_system(),
        "machine": machine.firmware(),
        "cpu": machine.cpu(),
        "memory_mib": machine.memory_mib(),
        "numa": machine.numa(),
        "pci_gpus": on_bus,
        "driver_version": (seen or {}).get("driver_version"),
        "cuda_version": (seen or {}).get("cuda_version"),
        "gpus": [{key: gpu[key] for key in GPU_FACTS} for gpu in gpus],
    }
    step.note(f"{len(gpus)} GPUs: {', '.join(sorted({str(gpu['model']) for gpu in gpus})) or 'none'}")
    for finding in findings:
        step.note(finding)
    return {"facts": facts, "findings": findings}


def main() -> None:
    run_module("discover", {"timeout": {"type": "float", "default": 60.0}}, body)


if __name__ == "__main__":
    main()
