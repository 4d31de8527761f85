#!/usr/bin/python
"""Records what a clean host looks like."""

from __future__ import annotations

import base64
from typing import Any

from ansible.module_utils import baseline, recording, sshd
from ansible.module_utils.steps import Step, require_manifest, run_module

DOCUMENTATION = r"""
module: ironyard_manifest
short_description: Record the clean state of a host
description:
  - Every file of the host's own disks, packages, accounts, units, containers, listening sockets, the
    state of the kernel and GPU settings.
  - Clean copies of the files are kept on the host as well, so that reclaim can put them back.
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
  emptied:
    description: Folders that every reclaim empties.
    type: list
    elements: str
    default: []
  skip:
    description: Paths that belong to nobody's record and are never looked at.
    type: list
    elements: str
    default: []
  store_file_mib:
    description: The largest file that is copied to the host's store.
    type: int
    default: 256
  store_total_mib:
    description: How large the store may become; never more than a fifth of what is free.
    type: int
    default: 16384
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
index:
  description: Every file of the clean host, base64 of an xz file; only when it was recorded now.
  type: str
  returned: when recorded
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
    recorded, raw = baseline.build(
        recording.Options(
            tuple(params["emptied"]),
            tuple(params["skip"]),
            params["store_file_mib"],
            params["store_total_mib"],
        )
    )
    manifest = {**recorded, "install": params["install"]}
    known = manifest["index"]
    step.note(f"recorded {known['entries']} files, {len(manifest['units'])} units")
    return {
        "manifest": manifest,
        "index": base64.b64encode(raw).decode(),
        "findings": [],
        "host_keys": manifest["host_keys"],
    }


def main() -> None:
    texts = {"type": "list", "elements": "str", "default": []}
    spec = {
        "manifest": {"type": "dict"},
        "rebaseline": {"type": "bool", "default": False},
        "install": {"type": "dict", "default": {}},
        "emptied": texts,
        "skip": texts,
        "store_file_mib": {"type": "int", "default": 256},
        "store_total_mib": {"type": "int", "default": 16384},
    }
    run_module("manifest", spec, body)


if __name__ == "__main__":
    main()
