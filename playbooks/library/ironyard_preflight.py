#!/usr/bin/python
"""Says whether a host can be managed at all, before anything is changed."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils import machine, sshd
from ansible.module_utils.steps import Step, StepFailed, run, run_module

DOCUMENTATION = r"""
module: ironyard_preflight
short_description: Check that a host can be enrolled
description: Operating system, Python, root or passwordless sudo, systemd, sshd, and nvidia-smi where the bus
  has a GPU.
author: Ironyard
options:
  driver_required:
    description: Whether a GPU without nvidia-smi is a problem; not where the driver is installed next.
    type: bool
    default: true
"""
EXAMPLES = r"""
- name: Check the host
  ironyard_preflight:
"""
RETURN = r"""
evidence:
  description: What was seen.
  type: list
  elements: str
  returned: always
"""


def problems(step: Step, *, driver_required: bool) -> list[str]:
    found = []
    release = machine.os_release()
    step.note(f"OS: {release.get('PRETTY_NAME', 'unknown')}; Python {platform.python_version()}")
    if not machine.supported(release):
        found.append(
            f"{release.get('PRETTY_NAME') or 'an unknown system'} is not supported "
            "(Debian 12, Ubuntu 22.04 and 24.04, the RHEL 9 family)"
        )
    if sys.version_info < (3, 9):  # noqa: UP036 - the host's Python, not ours
        found.append(f"Python {platform.python_version()} is too old: 3.9 is the oldest that works")
    if os.geteuid() != 0:
        allowed = run("sudo", "-n", "true", timeout=15)
        if not allowed.ok:
            step.note(allowed.tail())
            found.append("the user is not root and has no passwordless sudo")
    if not Path("/run/systemd/system").is_dir():
        found.append("systemd is not the running init")
    if not sshd.have_sshd():
        found.append("no sshd is installed")
    return found + gpu_problems(step, driver_required=driver_required)


def gpu_problems(step: Step, *, driver_required: bool) -> list[str]:
    on_bus = machine.pci_gpus()
    step.note(f"NVIDIA GPUs on the PCI bus: {len(on_bus)}")
    if on_bus and driver_required and run("nvidia-smi", "-L", timeout=60).code == 127:
        return [f"{len(on_bus)} NVIDIA GPUs are on the PCI bus but nvidia-smi is missing: install the driver"]
    return []


def body(step: Step, params: dict[str, Any]) -> None:
    found = problems(step, driver_required=params["driver_required"])
    if found:
        raise StepFailed("the host cannot be managed: " + "; ".join(found))


def main() -> None:
    run_module("preflight", {"driver_required": {"type": "bool", "default": True}}, body)


if __name__ == "__main__":
    main()
