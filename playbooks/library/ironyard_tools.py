#!/usr/bin/python
"""What an action plugin of this name does on the controller; nothing of this file runs on a host."""

DOCUMENTATION = r"""
module: ironyard_tools
short_description: Check the host's own tools by a static one that is brought along
description:
  - Sends a statically linked busybox, lets it hash the programs, libraries and start-up files that reclaim
    relies on, and compares them on the controller with the index of the clean host.
  - What differs is put back from the host's store of clean copies, and looked at again; what cannot be put
    back fails the host.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded.
    type: dict
  tool:
    description: The busybox on the controller.
    type: path
  required:
    description: Whether a missing tool fails the host.
    type: bool
    default: false
  file:
    description: The index as a file on the controller; without it the ledger is asked.
    type: str
  host_id:
    description: The host's id in the ledger.
    type: str
"""
EXAMPLES = r"""
- name: Check the host's own tools
  ironyard_tools:
    manifest: "{{ ironyard_manifest }}"
    tool: /usr/bin/busybox
"""
RETURN = r"""
removed:
  description: What was put back or removed, by kind.
  type: dict
  returned: always
"""
