#!/usr/bin/python
"""Runs another module of ours, so that the code for all of them is put together once a play."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ansible.module_utils import steps
from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:  # never true, but it is from here that Ansible knows what to send along
    from ansible.module_utils import (  # noqa: F401
        ironyard_account,
        ironyard_discover,
        ironyard_driver,
        ironyard_fence,
        ironyard_gpu,
        ironyard_harden,
        ironyard_health,
        ironyard_identity,
        ironyard_install,
        ironyard_kill,
        ironyard_manifest,
        ironyard_preflight,
        ironyard_repositories,
        ironyard_sshd_reload,
        ironyard_toolkit,
        ironyard_unmanage,
        ironyard_verify,
        ironyard_wipe,
    )

DOCUMENTATION = r"""
module: ironyard_step
short_description: Run one of Ironyard's modules
description:
  - Putting the code for a module together takes the controller a quarter of a second for each module
    of a play. Called through this one, all of them are put together once.
  - The result, check mode and errors are those of the module that is run.
author: Ironyard
options:
  module:
    description: The module's name.
    type: str
    required: true
  arguments:
    description: Its arguments, which it checks itself.
    type: dict
    default: {}
"""
EXAMPLES = r"""
- name: End tenants' processes
  ironyard_step:
    module: ironyard_kill
    arguments:
      manifest: "{{ ironyard_manifest }}"
"""
RETURN = r"""
step:
  description: The step, as the module that is run names it, beside whatever else that module returns.
  type: str
  returned: always
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "module": {"type": "str", "required": True},
            "arguments": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
        no_log=True,
    )
    name = module.params["module"]
    try:
        chosen = importlib.import_module(f"ansible.module_utils.{name}")
    except ImportError:
        chosen = None
    if not name.startswith("ironyard_") or not hasattr(chosen, "main"):
        module.fail_json(msg=f"{name} is no module of Ironyard's")
    steps.call(chosen.main, module, module.params["arguments"])


if __name__ == "__main__":
    main()
