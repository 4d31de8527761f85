#!/usr/bin/python
"""Makes the platform's package repositories known to the host's package manager."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils import installing, machine, repositories, software, tracked
from ansible.module_utils.steps import Step, StepFailed, run_module

DOCUMENTATION = r"""
module: ironyard_repositories
short_description: Configure package repositories with their keys
description:
  - A repository is written only after it answered and its signature fitted the key, all of them or none.
  - A second run asks nobody. Those that an earlier run wrote and that are no longer wanted are removed.
author: Ironyard
options:
  sources:
    description: By name the url, suite, components, key, key_url, key_sha256, systems and needs of each.
    type: dict
    default: {}
  enabled:
    description: Off means that the host's repositories are left alone.
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
- name: Configure the driver's repository
  ironyard_repositories:
    sources:
      driver: {url: "https://mirror.example/cuda/{distro}/{arch}", key_url: key.pub, needs: gpu}
"""
RETURN = r"""
install:
  description: The repositories in force by name, or why the step was skipped.
  type: dict
  returned: success
"""


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    without = installing.left_out(step, params)
    if without:
        return without
    manager = software.manager(params["options"], params["proxy"])
    chosen = applying(params["sources"])
    files: dict[str, bytes] = {}
    for repository in chosen:
        raw = repositories.known_key(manager, repository)
        if raw is None:
            raw = repositories.fetch_key(repository, params["proxy"])
        files.update(repositories.wanted_files(manager, repository, raw))
    changed = repositories.differing(files)
    if changed and not step.check:
        repositories.prove(manager, files)
        repositories.write(files, changed)
    for path in changed:
        step.did(f"{'would write' if step.check else 'wrote'} {path}")
    for path in repositories.stale(manager, files):
        step.gone("repository files", path)
        if not step.check:
            tracked.remove(repositories.ROOT / path.lstrip("/"))
    if not chosen:
        return installing.skipped(step, "no repository of the platform is configured")
    return {"install": {repository.name: repository.url for repository in chosen}}


def applying(sources: dict[str, Any]) -> list[repositories.Repository]:
    """Those with an address that are for this system and this hardware."""
    words = software.places(machine.os_release())
    found = []
    for name, said in sorted(sources.items()):
        needs = said.get("needs")
        if needs and needs not in installing.NEEDS:
            raise StepFailed(f"the repository {name} needs '{needs}', which nobody can look for")
        if not said.get("url") or words["id"] not in said.get("systems", [words["id"]]):
            continue
        if needs and not installing.NEEDS[needs][0]():
            continue
        found.append(repositories.Repository.read(name, said, words))
    return found


def main() -> None:
    os.umask(0o022)
    run_module("repositories", {"sources": {"type": "dict", "default": {}}, **installing.COMMON}, body)


if __name__ == "__main__":
    main()
