#!/usr/bin/python
"""Takes the platform's own files off a host that leaves the fleet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils import platform_account, repositories, sshd, tracked
from ansible.module_utils.steps import Step, must, run, run_module

DOCUMENTATION = r"""
module: ironyard_unmanage
short_description: Take the platform off a host
description:
  - Removes the sshd drop-ins, the fence, staged keys, package repositories, the exporter's settings and the
    platform's account. Packages that enrolment installed stay, and so do their services.
  - The owner's accounts and keys stay, so that the owner is not locked out.
author: Ironyard
options:
  account:
    description: The name of the platform's own account.
    type: str
    default: ""
  login:
    description: The account by which this run came; it is never removed.
    type: str
    default: root
"""
EXAMPLES = r"""
- name: Leave the host to its owner
  ironyard_unmanage:
    account: ironyard
"""
RETURN = r"""
removed:
  description: How many of the platform's files were removed.
  type: dict
  returned: always
"""
# what enrolment wrote beside its packages
CONFIGURATION = (
    "/etc/modprobe.d/ironyard-nouveau.conf",
    "/etc/dcgm-exporter/ironyard.csv",
    "/etc/systemd/system/nvidia-dcgm-exporter.service.d/ironyard.conf",
    "/run/ironyard",
    "/var/lib/ironyard",  # the clean copies
)
EXPORTER = "nvidia-dcgm-exporter.service"


def body(step: Step, params: dict[str, Any]) -> None:
    configuration(step)
    platform_account.withdraw(step, params["account"], params["login"])
    for path in (sshd.DROP_IN, sshd.STAGED):
        if sshd.drop(path, check=step.check):
            step.gone("platform files", str(path))
    for path in sshd.lift_fence(check=step.check):
        step.gone("platform files", path)
    if not step.check:
        sshd.validate()


def configuration(step: Step) -> None:
    """What enrolment wrote, gone; the exporter goes on with its package's own settings."""
    there = [path for path in (*repositories.ours(), *CONFIGURATION) if os.path.lexists(path)]
    for path in there:
        step.gone("platform files", path)
        if not step.check:
            tracked.remove(Path(path))
    if not step.check and any("dcgm-exporter" in path for path in there):
        must("systemctl", "daemon-reload")
        run("systemctl", "try-restart", EXPORTER)


def main() -> None:
    spec = {"account": {"type": "str", "default": ""}, "login": {"type": "str", "default": "root"}}
    run_module("unmanage", spec, body)


if __name__ == "__main__":
    main()
