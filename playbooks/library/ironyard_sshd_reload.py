#!/usr/bin/python
"""Makes sshd read its configuration again."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import sshd
from ansible.module_utils.steps import Step, StepFailed, must, run, run_module

DOCUMENTATION = r"""
module: ironyard_sshd_reload
short_description: Reload sshd
description:
  - Validates the configuration first. The unit is ssh.service or sshd.service, by distribution.
  - A socket-activated sshd that is not running reads its configuration at the next connection anyway.
author: Ironyard
options: {}
"""
EXAMPLES = r"""
- name: Reload sshd
  ironyard_sshd_reload:
"""
RETURN = r"""
evidence:
  description: Which unit was reloaded.
  type: list
  elements: str
  returned: always
"""
UNITS = ("ssh.service", "sshd.service")


def body(step: Step, _params: dict[str, Any]) -> None:
    sshd.validate()
    running = [unit for unit in UNITS if run("systemctl", "is-active", "--quiet", unit).ok]
    sockets = [
        unit for unit in ("ssh.socket", "sshd.socket") if run("systemctl", "is-active", "--quiet", unit).ok
    ]
    if not running and not sockets:
        raise StepFailed("neither ssh.service nor sshd.service nor their socket is active")
    for unit in running[:1]:
        step.did(f"reloaded {unit}")
        if not step.check:
            must("systemctl", "reload", unit)


def main() -> None:
    run_module("sshd", {}, body)


if __name__ == "__main__":
    main()
