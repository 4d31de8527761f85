#!/usr/bin/python
"""Makes sshd read its configuration again."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import sshd
from ansible.module_utils.steps import Step, run_module

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


def body(step: Step, _params: dict[str, Any]) -> None:
    if step.check:
        step.did("would reload sshd")
        return
    for unit in sshd.reload():
        step.did(f"reloaded {unit}")


def main() -> None:
    run_module("sshd", {}, body)


if __name__ == "__main__":
    main()
