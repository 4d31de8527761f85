#!/usr/bin/python
"""Takes the platform's own files off a host that leaves the fleet."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import sshd
from ansible.module_utils.steps import Step, run_module

DOCUMENTATION = r"""
module: ironyard_unmanage
short_description: Take the platform off a host
description:
  - Removes the sshd drop-ins, the fence and staged keys.
  - The owner's accounts and keys stay, so that the owner is not locked out.
author: Ironyard
options: {}
"""
EXAMPLES = r"""
- name: Leave the host to its owner
  ironyard_unmanage:
"""
RETURN = r"""
removed:
  description: How many of the platform's files were removed.
  type: dict
  returned: always
"""


def body(step: Step, _params: dict[str, Any]) -> None:
    for path in (sshd.DROP_IN, sshd.STAGED):
        if sshd.drop(path, check=step.check):
            step.gone("platform files", str(path))
    for path in sshd.lift_fence(check=step.check):
        step.gone("platform files", path)
    if not step.check:
        sshd.validate()


def main() -> None:
    run_module("unmanage", {}, body)


if __name__ == "__main__":
    main()
