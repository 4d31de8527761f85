#!/usr/bin/python
"""Installs the GPU driver of a branch and has it loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils import installing, machine, nvidia_smi, software
from ansible.module_utils.steps import Step, StepFailed, must, run, run_module

DOCUMENTATION = r"""
module: ironyard_driver
short_description: Install the NVIDIA driver
description:
  - Keeps nouveau from loading, installs the packages of the branch and loads the kernel module.
  - A driver that answers and is of the branch is left alone.
  - One of another branch is kept or replaced by policy.
  - Where the running kernel module cannot be exchanged the host needs a reboot, which is reported.
author: Ironyard
options:
  branch:
    description: The driver's branch, for example 580.
    type: str
    required: true
  policy:
    description: What happens to a working driver of another branch.
    type: str
    choices: [keep, replace]
    default: keep
  packages:
    description: The driver's packages by system.
    type: dict
    default: {}
  pins:
    description: Packages that hold the branch, by system; installed before the driver.
    type: dict
    default: {}
  streams:
    description: Module streams that dnf has to follow, by system.
    type: dict
    default: {}
  units:
    description: Units by system that have to be enabled and running once the driver is loaded.
    type: dict
    default: {}
  reboot:
    description: Whether the caller reboots a host that needs it; otherwise the step fails and says so.
    type: bool
    default: false
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
- name: Install the driver
  ironyard_driver:
    branch: "580"
    packages: {debian: [nvidia-driver-cuda, nvidia-kernel-open-dkms]}
"""
RETURN = r"""
install:
  description: The driver's version and packages, or why the step was skipped.
  type: dict
  returned: success
reboot_needed:
  description: Whether the driver works only after a reboot.
  type: bool
  returned: success
"""
SPEC: dict[str, Any] = {
    "branch": {"type": "str", "required": True},
    "policy": {"type": "str", "choices": ["keep", "replace"], "default": "keep"},
    "packages": {"type": "dict", "default": {}},
    "pins": {"type": "dict", "default": {}},
    "streams": {"type": "dict", "default": {}},
    "units": {"type": "dict", "default": {}},
    "reboot": {"type": "bool", "default": False},
    **installing.COMMON,
}
NOUVEAU = {"/etc/modprobe.d/ironyard-nouveau.conf": b"blacklist nouveau\noptions nouveau modeset=0\n"}
MODULES = ("nvidia_drm", "nvidia_modeset", "nvidia_uvm", "nvidia")
HOLDERS = ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-dcgm-exporter", "nvidia-dcgm")


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    without = installing.left_out(step, params, "gpu")
    if without:
        return {**without, "reboot_needed": False}
    branch = params["branch"]
    answering = version()
    kept = keep(answering, branch, params["policy"])
    blocked = block_nouveau(step)
    if kept:
        installing.units(step, units(params), restart=False)
        return {**installing.skipped(step, kept), "reboot_needed": False}
    versions, fresh = install(step, params)
    if step.check:
        return {"install": {"packages": versions}, "reboot_needed": False}
    now = load(step, branch, fresh=fresh)
    if now is None:
        return needs_reboot(step, versions, blocked=blocked, allowed=params["reboot"])
    installing.units(step, units(params), restart=fresh)
    return {"install": {"packages": versions, "driver": now}, "reboot_needed": False}


def units(params: dict[str, Any]) -> list[str]:
    """Those of the units that the driver's packages brought."""
    names = installing.for_family(params["units"], software.family(machine.os_release()))
    return [name for name in names if run("systemctl", "cat", name).ok]


def version() -> str | None:
    """The driver that answers; None when there is none or it does not work."""
    asked = run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", timeout=60)
    lines = asked.out.split() if asked.ok else []
    return nvidia_smi.value(lines[0]) if lines else None


def keep(answering: str | None, branch: str, policy: str) -> str | None:
    """Why nothing is installed; None when something has to be."""
    if answering is None:
        return None
    if answering.split(".")[0] == branch:
        return f"driver {answering} is of the wanted branch {branch}"
    return f"driver {answering} is of another branch than {branch} and is kept" if policy == "keep" else None


def block_nouveau(step: Step) -> bool:
    """Keep the kernel's own driver from taking the GPUs; whether it holds them now."""
    loaded = Path("/sys/module/nouveau").is_dir()
    if installing.files(step, NOUVEAU) and loaded and not step.check:
        renew = ("update-initramfs", "-u") if run("update-initramfs", "-V").code != 127 else ("dracut", "-f")
        must(*renew, timeout=600)
        step.did("nouveau is kept out of the initial RAM disk")
    return loaded


def install(step: Step, params: dict[str, Any]) -> tuple[dict[str, str], bool]:
    manager = software.manager(params["options"], params["proxy"])
    words = {**software.places(machine.os_release()), "branch": params["branch"]}
    streams = installing.for_family(params["streams"], words["id"])
    if isinstance(manager, software.Dnf) and not step.check:
        for stream in streams:
            if manager.stream(software.fill(stream, words)):
                step.did(f"follows {software.fill(stream, words)}")
    versions: dict[str, str] = {}
    changed = False
    for table in (params["pins"], params["packages"]):
        names = installing.for_family(table, words["id"])
        asked = [software.Wanted.parse(software.fill(name, words)) for name in names]
        present, fresh = installing.packages(step, manager, asked)
        versions, changed = {**versions, **present}, changed or fresh
    return versions, changed


def load(step: Step, branch: str, *, fresh: bool) -> str | None:
    """Have the branch's module answer; None when that takes a reboot."""
    now = version()
    if now and now.split(".")[0] == branch:
        return now
    held = [unit for unit in HOLDERS if fresh and run("systemctl", "is-active", "--quiet", unit).ok]
    if fresh:
        for unit in held:
            run("systemctl", "stop", unit)
        run("modprobe", "-r", *MODULES)
    loaded = run("modprobe", "nvidia", timeout=120)
    for unit in reversed(held):
        run("systemctl", "start", unit)
    now = version()
    step.note(f"nvidia-smi answers {now or 'nothing'} after modprobe (exit {loaded.code})")
    if loaded.code not in (0, 127):
        step.note(loaded.tail())
    return now if now and now.split(".")[0] == branch else None


def needs_reboot(step: Step, versions: dict[str, str], *, blocked: bool, allowed: bool) -> dict[str, Any]:
    why = "nouveau holds the GPUs" if blocked else "the running kernel module cannot be exchanged"
    if not allowed:
        raise StepFailed(
            f"the driver is installed and needs a reboot ({why}): reboot the host and enroll it again, "
            "or set driver_reboot",
            reboot_needed=True,
        )
    step.did(f"needs a reboot: {why}")
    return {"install": {"packages": versions, "rebooted": why}, "reboot_needed": True}


def main() -> None:
    os.umask(0o022)
    run_module("driver", SPEC, body)


if __name__ == "__main__":
    main()
