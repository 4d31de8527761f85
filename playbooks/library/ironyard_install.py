#!/usr/bin/python
"""Installs one service of the platform: its packages, its files, its units."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils import installing, machine, software
from ansible.module_utils.steps import SEARCH_PATH, Step, run_module

DOCUMENTATION = r"""
module: ironyard_install
short_description: Install a service and have it running
description:
  - Installs what is missing and asks no repository when nothing is. Files are written where they differ,
    and only then are the units restarted.
  - On a host without the hardware it is for, it says so and does nothing.
author: Ironyard
options:
  name:
    description: The step's name.
    type: str
    required: true
  needs:
    description: The hardware without which the step is skipped, gpu or nvswitch.
    type: str
    choices: [gpu, nvswitch]
  packages:
    description: Package names by system (debian, ubuntu, rhel, all); name=pattern asks for a version.
    type: dict
    default: {}
  instead:
    description: Programs of which one is enough for the packages to count as installed.
    type: list
    elements: str
    default: []
  files:
    description: Contents by path.
    type: dict
    default: {}
  units:
    description: Units by system that have to be enabled and running.
    type: dict
    default: {}
  probe:
    description: An address on the host itself, and words that it has to show after a change.
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
- name: Install Docker
  ironyard_install:
    name: docker
    packages: {debian: [docker.io], rhel: [docker-ce]}
    units: {all: [docker.service]}
"""
RETURN = r"""
install:
  description: The packages' versions and the units, or why the step was skipped.
  type: dict
  returned: success
"""
SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "needs": {"type": "str", "choices": ["gpu", "nvswitch"]},
    "packages": {"type": "dict", "default": {}},
    "instead": {"type": "list", "elements": "str", "default": []},
    "files": {"type": "dict", "default": {}},
    "units": {"type": "dict", "default": {}},
    "probe": {"type": "dict", "default": {}},
    **installing.COMMON,
}


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    step.name = params["name"]
    without = installing.left_out(step, params, params["needs"])
    if without:
        return without
    manager = software.manager(params["options"], params["proxy"])
    present = already(params["instead"])
    versions, fresh = {}, False
    if present:
        step.note(f"{present} is there already")
    else:
        versions, fresh = installing.packages(
            step, manager, installing.wanted(params["packages"], check=step.check)
        )
    contents = {path: str(text).encode() for path, text in params["files"].items()}
    fresh = installing.files(step, contents) or fresh
    units = installing.for_family(params["units"], software.family(machine.os_release()))
    installing.units(step, units, restart=fresh)
    if params["probe"] and step.changed and not step.check:
        installing.probe(params["probe"]["url"], params["probe"]["contains"])
    return {"install": {"packages": versions, "units": units, **({"instead": present} if present else {})}}


def already(programs: list[str]) -> str | None:
    paths = (f"{folder}/{program}" for program in programs for folder in SEARCH_PATH.split(":"))
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def main() -> None:
    os.umask(0o022)
    run_module("install", SPEC, body)


if __name__ == "__main__":
    main()
