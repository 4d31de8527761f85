#!/usr/bin/python
"""Installs the container toolkit and makes the GPUs known to Docker, by runtime and by CDI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils import installing, software
from ansible.module_utils.steps import Step, StepFailed, must, run, run_module

DOCUMENTATION = r"""
module: ironyard_toolkit
short_description: Install the NVIDIA container toolkit
description:
  - Has nvidia-ctk enter its runtime in Docker's configuration where it is not yet.
  - Writes the CDI description of the GPUs where the toolkit does not keep it by a unit of its own.
author: Ironyard
options:
  packages:
    description: The toolkit's packages by system.
    type: dict
    default: {}
  cdi:
    description: Where the CDI description is written; empty for none.
    type: str
    default: /etc/cdi/nvidia.yaml
  enabled:
    description: Off means that the step is skipped.
    type: bool
    default: true
  options:
    description: More arguments for apt or dnf, by that name.
    type: dict
    default: {}
  proxy:
    description: The proxy's address for this run.
    type: str
    default: ""
"""
EXAMPLES = r"""
- name: Install the container toolkit
  ironyard_toolkit:
    packages: {all: [nvidia-container-toolkit]}
"""
RETURN = r"""
install:
  description: The packages' versions, or why the step was skipped.
  type: dict
  returned: success
"""
DAEMON = Path("/etc/docker/daemon.json")
KEEPS_CDI = "nvidia-cdi-refresh.path"


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    without = installing.left_out(step, params, "gpu")
    if without:
        return without
    manager = software.manager(params["options"], params["proxy"])
    asked = installing.wanted(params["packages"], check=step.check)
    versions, _ = installing.packages(step, manager, asked)
    runtime(step)
    if params["cdi"]:
        describe(step, params["cdi"])
    return {"install": {"packages": versions}}


def runtime(step: Step) -> None:
    """Docker's runtime `nvidia`, entered by the toolkit's own program."""
    if "nvidia" in installing.json_file(DAEMON).get("runtimes", {}):
        return
    step.did(f"{'would enter' if step.check else 'entered'} the runtime nvidia in {DAEMON}")
    if step.check:
        return
    must("nvidia-ctk", "runtime", "configure", "--runtime=docker", f"--config={DAEMON}")
    if "nvidia" not in installing.json_file(DAEMON).get("runtimes", {}):
        raise StepFailed(f"nvidia-ctk ended well and {DAEMON} has no runtime nvidia")
    if run("systemctl", "cat", "docker.service").ok:
        must("systemctl", "restart", "docker.service", timeout=180)


def describe(step: Step, path: str) -> None:
    """The CDI description of the GPUs as they are now."""
    if run("systemctl", "is-enabled", "--quiet", KEEPS_CDI).ok:
        step.note(f"{KEEPS_CDI} keeps the CDI description")
        return
    if step.check and not Path(path).exists():
        step.did(f"would write {path}")
        return
    said = run("nvidia-ctk", "cdi", "generate", "--format=yaml", timeout=120)
    if not said.ok or "kind:" not in said.out:
        raise StepFailed("nvidia-ctk cannot describe the GPUs for CDI", [said.tail()])
    installing.files(step, {path: said.out.encode()})


def main() -> None:
    os.umask(0o022)
    spec = {
        "packages": {"type": "dict", "default": {}},
        "cdi": {"type": "str", "default": "/etc/cdi/nvidia.yaml"},
        **installing.COMMON,
    }
    run_module("toolkit", spec, body)


if __name__ == "__main__":
    main()
