#!/usr/bin/python
"""Ends everything on a host that the platform did not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils import cleaning, containers, processes
from ansible.module_utils.steps import Step, require_manifest, run, run_module

DOCUMENTATION = r"""
module: ironyard_kill
short_description: End what the platform did not start
description:
  - Containers, units and timers, user managers, and every process outside the manifest's services.
  - SIGTERM first, SIGKILL after the grace, and looked at again; a survivor fails the step with what
    it waits for.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded.
    type: dict
  grace:
    description: Seconds between SIGTERM and SIGKILL.
    type: float
    default: 5.0
"""
EXAMPLES = r"""
- name: End tenants' processes
  ironyard_kill:
    manifest: "{{ ironyard_manifest }}"
"""
RETURN = r"""
removed:
  description: What was ended, by kind.
  type: dict
  returned: always
"""


def body(step: Step, params: dict[str, Any]) -> None:
    manifest = require_manifest(params["manifest"])
    wake_engines(step, manifest)
    containers.stop(step, manifest)
    cleaning.end_units(step, manifest)
    end_user_managers(step)
    cleaning.end_processes(step, manifest, params["grace"])


def wake_engines(step: Step, manifest: dict[str, Any]) -> None:
    """A tenant may have stopped the engine whose containers have to be listed."""
    for engine, held in manifest["engines"].items():
        unit = f"{engine}.service"
        if held is not None and unit in manifest["services"] and not containers.answers(engine):
            step.did(f"started {unit}")
            if not step.check:
                run("systemctl", "start", unit, timeout=90)


def end_user_managers(step: Step) -> None:
    """Stop every user's own systemd and its lingering, but the one that our connection belongs to."""
    running = processes.scan()
    mine = {running[pid].uid for pid in processes.own(running) if pid in running}
    uids = {one.uid for one in running.values() if f"user@{one.uid}.service" in one.group} - mine
    for uid in sorted(uids):
        step.gone("user managers", f"user@{uid}.service")
        if not step.check:
            run("systemctl", "stop", f"user@{uid}.service", f"user-{uid}.slice", timeout=60)
    for entry in sorted(Path("/var/lib/systemd/linger").glob("*")):
        if not step.check:
            run("loginctl", "disable-linger", entry.name, timeout=20)


def main() -> None:
    spec = {"manifest": {"type": "dict"}, "grace": {"type": "float", "default": 5.0}}
    run_module("kill", spec, body)


if __name__ == "__main__":
    main()
