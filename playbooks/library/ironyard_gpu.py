#!/usr/bin/python
"""Brings the GPUs back to what enrolment recorded."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import gpus
from ansible.module_utils.steps import Step, require_manifest, run_module

DOCUMENTATION = r"""
module: ironyard_gpu
short_description: Restore and reset GPUs
description:
  - Ends GPU processes, destroys MIG instances, restores MIG and ECC mode, resets, then restores the
    other settings.
  - A reset that the hardware does not offer is recorded; one refused because of processes fails the step.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded.
    type: dict
  reset:
    description: Whether to reset the GPUs.
    type: bool
    default: true
  pause:
    description: Platform services that hold the devices open and are stopped during the reset.
    type: list
    elements: str
    default: []
"""
EXAMPLES = r"""
- name: Restore the GPUs
  ironyard_gpu:
    manifest: "{{ ironyard_manifest }}"
"""
RETURN = r"""
evidence:
  description: What was changed and what the hardware refused.
  type: list
  elements: str
  returned: always
reset_at:
  description: When the GPUs were reset, in seconds since 1970; null when they were not.
  type: float
  returned: success
"""


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    manifest = require_manifest(params["manifest"])
    return {"reset_at": gpus.restore(step, manifest, reset=params["reset"], pause=params["pause"])}


def main() -> None:
    spec = {
        "manifest": {"type": "dict"},
        "reset": {"type": "bool", "default": True},
        "pause": {"type": "list", "elements": "str", "default": []},
    }
    run_module("gpu", spec, body)


if __name__ == "__main__":
    main()
