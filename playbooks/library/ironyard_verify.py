#!/usr/bin/python
"""Compares a host with its manifest, reading everything anew."""

from __future__ import annotations

from typing import Any

from ansible.module_utils import accounts, baseline, gpus, sshd, verdicts
from ansible.module_utils.steps import Step, StepFailed, require_manifest, run_module

DOCUMENTATION = r"""
module: ironyard_verify
short_description: Prove that a host is clean
description:
  - Reads the host from scratch and compares it with what enrolment recorded; a health check of its own
    comes before and its faults of the host are findings too.
  - A check that could not run is a finding, and a finding fails the host.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded.
    type: dict
  enforce:
    description: Whether findings fail the task.
    type: bool
    default: true
  paths:
    description: Folders that have to be empty.
    type: list
    elements: str
    default: []
  keep:
    description: Folders that may be in these, empty.
    type: list
    elements: str
    default: []
  health:
    description: What the health check before this one handed over; absent when it handed over nothing.
    type: dict
"""
EXAMPLES = r"""
- name: Verify
  ironyard_verify:
    manifest: "{{ ironyard_manifest }}"
"""
RETURN = r"""
findings:
  description: What is wrong.
  type: list
  elements: str
  returned: always
"""


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    manifest = require_manifest(params["manifest"])
    findings = baseline.differences(manifest)
    findings += baseline.leftovers(manifest, params["paths"], params["keep"])
    findings += gpus.findings(manifest)
    findings += access_findings()
    findings += health_findings(params["health"], manifest)
    for finding in findings:
        step.note(finding)
    if findings and params["enforce"]:
        shown = "; ".join(findings[:3])
        raise StepFailed(f"{len(findings)} findings: {shown}", findings=findings)
    return {"findings": findings}


def health_findings(document: dict[str, Any] | None, manifest: dict[str, Any]) -> list[str]:
    """What keeps the whole host from being lent; a single sick GPU leaves the pool by itself."""
    if document is None:
        return ["the health of host and GPUs was not checked"]
    enrolled = [gpu["uuid"] for gpu in manifest["gpu"]["gpus"]]
    return [verdicts.sentence(one) for one in verdicts.host_faults(document["checks"], enrolled)]


def access_findings() -> list[str]:
    """Sshd's configuration is sound and the host has keys that only root reads."""
    findings = []
    try:
        sshd.validate()
    except StepFailed as failed:
        findings += [failed.message, *failed.evidence]
    private = sorted(sshd.SSH.glob("ssh_host_*_key"))
    if not private:
        findings.append("the host has no SSH host keys")
    for path in private:
        if path.stat().st_mode & 0o077 and path.stat().st_gid == 0:
            findings.append(f"{path} can be read by others")
    empty = [name for name, state in accounts.passwords().items() if state == "empty"]
    return findings + [f"{name} has an empty password" for name in empty]


def main() -> None:
    texts = {"type": "list", "elements": "str", "default": []}
    spec = {
        "manifest": {"type": "dict"},
        "enforce": {"type": "bool", "default": True},
        "paths": texts,
        "keep": texts,
        "health": {"type": "dict"},
    }
    run_module("verify", spec, body)


if __name__ == "__main__":
    main()
