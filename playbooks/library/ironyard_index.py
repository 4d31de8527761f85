#!/usr/bin/python
"""Documents the action plugin of the same name, which does it all."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ironyard_index
short_description: Bring the index of a clean host to the host
description:
  - Takes the index from a file on the controller or from the ledger, checks it against the manifest's digest
    and writes it to /run/ironyard/index.xz, readable by root only.
  - Uses the host's shell only; no Python runs there. Never counts as a change.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded; without one nothing is done.
    type: dict
  file:
    description: The index as a file on the controller.
    type: path
  host_id:
    description: The host's id in the ledger, which is asked when there is no file.
    type: str
"""
EXAMPLES = r"""
- name: Bring the index
  ironyard_index:
    manifest: "{{ ironyard_manifest }}"
    host_id: "{{ ironyard_host_id }}"
"""
RETURN = r"""
evidence:
  description: How large the index is, or that there is none.
  type: list
  elements: str
  returned: always
"""
