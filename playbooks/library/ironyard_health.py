#!/usr/bin/python
"""Says how well a host and each of its GPUs are."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import health, verdicts, xid
from ansible.module_utils.steps import Step, StepFailed, require_manifest, run_module

DOCUMENTATION = r"""
module: ironyard_health
short_description: Check the health of a host and its GPUs
description:
  - Changes nothing. Each check has a verdict, the GPU or the host that it is about, and what to do.
  - UNKNOWN and CRITICAL are failures. Those of single GPUs are reported; those of the host, or of all
    its GPUs, fail the task as well.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded.
    type: dict
  level:
    description: 0 only looks; 1 to 3 run DCGM's diagnostics of that level too, where DCGM is installed.
    type: int
    choices: [0, 1, 2, 3]
    default: 1
  since:
    description: Xid errors from then on count, in seconds since 1970.
    type: float
    default: 0
  reset_at:
    description: When the GPUs were reset last, in seconds since 1970; null when they were not.
    type: float
  held:
    description: UUIDs of GPUs that tenants hold now. Their processes and memory are left alone.
    type: list
    elements: str
    default: []
  xids:
    description: Xid errors that were collected earlier.
    type: list
    elements: dict
    default: []
  thresholds:
    description: Limits other than the ones in module_utils/thresholds.py, by name.
    type: dict
    default: {}
  enforce:
    description: Whether a host that cannot be lent fails the task.
    type: bool
    default: true
  collect:
    description: Only collect the Xid errors since then, before the logs are cleaned.
    type: bool
    default: false
"""
EXAMPLES = r"""
- name: Check the GPUs
  ironyard_health:
    manifest: "{{ ironyard_manifest }}"
    level: 2
"""
RETURN = r"""
health:
  description: The level, the worst verdict, and each check with its verdict, scope, action and detail.
  type: dict
  returned: when not collecting
xids:
  description: The Xid errors that were found.
  type: list
  elements: dict
  returned: when collecting
"""


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    if params["collect"]:
        return {"xids": collect(step, params["since"])}
    manifest = require_manifest(params["manifest"])
    checks = health.examine(
        manifest,
        params["level"],
        since=params["since"],
        reset_at=params["reset_at"] or 0.0,
        held=params["held"],
        earlier=params["xids"],
        overrides=params["thresholds"],
    )
    document = health.document(params["level"], checks, reset_at=params["reset_at"])
    loud = [one for one in document["checks"] if one["verdict"] != verdicts.PASS]
    step.note(f"level {params['level']}: {len(checks)} checks, {document['verdict']}")
    for one in loud:
        step.note(verdicts.sentence(one))
    faults = verdicts.host_faults(checks, [gpu["uuid"] for gpu in manifest["gpu"]["gpus"]])
    if faults and params["enforce"]:
        shown = "; ".join(verdicts.sentence(one) for one in faults[:3])
        raise StepFailed(f"{len(faults)} health checks failed: {shown}", health=document)
    return {"health": document}


def collect(step: Step, since: float) -> list[dict[str, Any]]:
    try:
        events = xid.read(since)
    except StepFailed as failed:
        step.note(f"{failed.message}: {'; '.join(failed.evidence)}")
        return []
    for event in events:
        step.note(f"Xid {event.code} on {event.bus}")
    return [{"at": event.at, "bus": event.bus, "code": event.code} for event in events]


def main() -> None:
    spec = {
        "manifest": {"type": "dict"},
        "level": {"type": "int", "choices": [0, 1, 2, 3], "default": 1},
        "since": {"type": "float", "default": 0.0},
        "reset_at": {"type": "float"},
        "held": {"type": "list", "elements": "str", "default": []},
        "xids": {"type": "list", "elements": "dict", "default": []},
        "thresholds": {"type": "dict", "default": {}},
        "enforce": {"type": "bool", "default": True},
        "collect": {"type": "bool", "default": False},
    }
    run_module("health", spec, body)


if __name__ == "__main__":
    main()
