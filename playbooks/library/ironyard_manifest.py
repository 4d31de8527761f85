#!/usr/bin/python
"""Records what a clean host looks like."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import baseline, sshd
from ansible.module_utils.steps import Step, require_manifest, run_module

DOCUMENTATION = r"""
module: ironyard_manifest
short_description: Record the clean state of a host
description:
  - Accounts, keys, sudoers, units, timers, cron, homes, containers, listening sockets and GPU settings.
  - A given manifest is kept and compared, so that a used host is never recorded as the clean one;
    rebaseline records anew.
author: Ironyard
options:
  manifest:
    description: What an earlier enrolment recorded.
    type: dict
  rebaseline:
    description: Record anew although a manifest exists.
    type: bool
    default: false
  install:
    description: By step what was installed or why not; part of a new record.
    type: dict
    default: {}
"""
EXAMPLES = r"""
- name: Record the clean host
  ironyard_manifest:
    manifest: "{{ ironyard_manifest | default(none) }}"
"""
RETURN = r"""
manifest:
  description: The record in force.
  type: dict
  returned: success
findings:
  description: What differs from a kept record.
  type: list
  elements: str
  returned: success
"""


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    given = params["manifest"]
    if baseline.kept(given, rebaseline=params["rebaseline"]):
        findings = baseline.differences(require_manifest(given))
        step.note(f"kept the manifest of an earlier enrolment; {len(findings)} differences")
        for finding in findings:
            step.note(finding)
        return {"manifest": given, "findings": findings, "host_keys": sshd.host_keys()}
    manifest = {**baseline.build(), "install": params["install"]}
    step.note(f"recorded {len(manifest['files'])} files, {len(manifest['units'])} units")
    return {"manifest": manifest, "findings": [], "host_keys": manifest["host_keys"]}


def main() -> None:
    spec = {
        "manifest": {"type": "dict"},
        "rebaseline": {"type": "bool", "default": False},
        "install": {"type": "dict", "default": {}},
    }
    run_module("manifest", spec, body)


if __name__ == "__main__":
    main()
