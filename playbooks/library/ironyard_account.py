#!/usr/bin/python
"""Makes the account that the platform logs in as: a key, no password, the right to become root."""

from __future__ import annotations

import os
from pwd import getpwnam
from typing import Any

from ansible.module_utils import installing, platform_account, software
from ansible.module_utils.steps import Step, StepFailed, must, run_module

DOCUMENTATION = r"""
module: ironyard_account
short_description: Make the platform's account
description:
  - An account without a password, with the platform's public keys and passwordless sudo.
  - Without keys of its own it gets those that open the account by which the host is enrolled.
author: Ironyard
options:
  name:
    description: The account's name; empty for none.
    type: str
    default: ""
  login:
    description: The account by which the host is enrolled.
    type: str
    required: true
  keys:
    description: Public keys that open the account.
    type: list
    elements: str
    default: []
  packages:
    description: What has to be installed for it, by system.
    type: dict
    default: {}
  enabled:
    description: Off means that the step is skipped.
    type: bool
    default: true
  options:
    description: More arguments for apt or dnf, by that name.
    type: dict
    default: {}
  proxy:
    description: The proxy's address for this run.
    type: str
    default: ""
"""
EXAMPLES = r"""
- name: Make the platform's account
  ironyard_account:
    name: ironyard
    login: root
"""
RETURN = r"""
install:
  description: The account, or why the step was skipped.
  type: dict
  returned: success
"""


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    without = installing.left_out(step, params)
    if without:
        return without
    name = params["name"]
    if name in ("", "root"):
        return installing.skipped(step, "no account of the platform is asked for")
    manager = software.manager(params["options"], params["proxy"])
    installing.packages(step, manager, installing.wanted(params["packages"], check=step.check))
    wanted = platform_account.keys(params["keys"], params["login"])
    account = platform_account.find(name)
    if account is None:
        step.did(f"{'would make' if step.check else 'made'} the account {name}")
        if step.check:
            return {"install": {"account": name}}
        must("useradd", "--create-home", "--user-group", "--shell", "/bin/bash", name)
        account = getpwnam(name)
    if account.pw_uid == 0:
        raise StepFailed(f"{name} is root by another name: the platform needs an account of its own")
    platform_account.open_to(step, account, wanted)
    platform_account.grant(step, name)
    return {"install": {"account": name}}


def main() -> None:
    os.umask(0o022)
    spec = {
        "name": {"type": "str", "default": ""},
        "login": {"type": "str", "required": True},
        "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "packages": {"type": "dict", "default": {}},
        **installing.COMMON,
    }
    run_module("account", spec, body)


if __name__ == "__main__":
    main()
