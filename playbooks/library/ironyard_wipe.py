#!/usr/bin/python
"""Removes what a tenant left on disk, in memory and in the container engines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils import (
    accounts,
    baseline,
    cleaning,
    containers,
    disks,
    index,
    packages,
    parts,
    pristine,
    processes,
    restoring,
    tracked,
    trees,
    units,
)
from ansible.module_utils.steps import Step, StepFailed, require_manifest, run, run_module

DOCUMENTATION = r"""
module: ironyard_wipe
short_description: Remove what a tenant left
description:
  - Homes, temporary folders, shared memory, spools, scratch disks, containers, images, volumes,
    IPC, units and timers.
  - Files of the manifest that were altered are put back; one that cannot be put back fails the step.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded.
    type: dict
  paths:
    description: Folders that are emptied.
    type: list
    elements: str
    required: true
  keep:
    description: Folders in these that stay themselves but are emptied.
    type: list
    elements: str
    default: []
  owner_paths:
    description: Trees in which files of unknown owners are removed.
    type: list
    elements: str
    default: []
  owner_skip:
    description: Trees left out of that search.
    type: list
    elements: str
    default: []
  disk_policy:
    description: How data disks are wiped.
    type: str
    choices: [quick, full, crypto]
    default: quick
  disk_mounts:
    description: Mount points whose disks are data disks, wiped and made anew.
    type: list
    elements: str
    default: []
  disk_keep:
    description: Disks that are left alone, by kernel name, serial number or WWN.
    type: list
    elements: str
    default: []
"""
EXAMPLES = r"""
- name: Wipe
  ironyard_wipe:
    manifest: "{{ ironyard_manifest }}"
    paths: [/tmp, /var/tmp, /dev/shm]
"""
RETURN = r"""
removed:
  description: What was removed, by kind.
  type: dict
  returned: always
"""


def body(step: Step, params: dict[str, Any]) -> None:
    manifest = require_manifest(params["manifest"])
    here = restoring.Trees(manifest)
    parts.clean(step, manifest, parts.FIRST)
    disks.clean(
        step,
        parts.recorded("disks", manifest),
        params["disk_policy"],
        params["disk_mounts"],
        params["disk_keep"],
    )
    cleaning.unmount_below(step, [*params["paths"], "/home", "/root", "/run/user"], own_runtime())
    say_packages(step, manifest)
    # first what starts by itself: a cron job that fires meanwhile would write into folders emptied before
    restored, stuck = here.mend(step, not_identity(manifest))
    settle(step, manifest, restored)
    for folder in params["paths"]:
        for path in cleaning.leftovers(folder, manifest, params["keep"]):
            take(step, "temporary files", path)
    wipe_runtime(step)
    wipe_owned(step, manifest, params["owner_paths"], params["owner_skip"])
    containers.clean(step, manifest)
    wipe_ipc(step, manifest)
    pristine.clean(step, here.contents)
    parts.clean(step, manifest, parts.LAST)
    if stuck:
        shown = [f"cannot be restored: {index.shown(path)}" for path in stuck]
        raise StepFailed(
            f"{len(stuck)} files cannot be restored, the first is {index.shown(stuck[0])}", shown
        )


def say_packages(step: Step, manifest: dict[str, Any]) -> None:
    """Packages go with their files and the package database; none of their own scripts is run."""
    try:
        differences = packages.findings(manifest["packages"], packages.record())
    except StepFailed as failed:  # the database is one of the files that are restored
        differences = [failed.message]
    for difference in differences:
        step.note(difference)


def not_identity(manifest: dict[str, Any]) -> Callable[[str], bool]:
    identity = restoring.of_identity(accounts.recorded_key_folders(manifest))
    return lambda path: not identity(path)


def take(step: Step, word: str, path: str) -> None:
    step.gone(word, path)
    if not step.check:
        tracked.remove(Path(path))


def own_runtime() -> list[str]:
    running = processes.scan()
    return sorted({f"/run/user/{running[pid].uid}" for pid in processes.own(running) if pid in running})


def wipe_runtime(step: Step) -> None:
    """Runtime folders of users: whole ones go, of our own connection's user the manager's sockets stay."""
    mine = own_runtime()
    for real in sorted(Path("/run/user").glob("*")):
        if str(real) in mine:
            for path in sorted(set(os.listdir(real)) - {"systemd", "bus", "dbus-1"}):
                take(step, "runtime files", f"{real}/{path}")
        else:
            take(step, "runtime folders", str(real))


def wipe_owned(step: Step, manifest: dict[str, Any], tops: list[str], skip: list[str]) -> None:
    """Files whose owner is no account of the manifest, wherever a tenant may have put them."""
    known = {int(row[2]) for row in accounts.recorded(manifest, "passwd").values()}
    for path in foreign_owned(tops, set(skip), known):
        take(step, "files of unknown owners", path)


def foreign_owned(tops: list[str], skip: set[str], known: set[int]) -> Iterator[str]:
    pending = [top for top in tops if os.path.isdir(top) and not os.path.islink(top)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in list(entries):
                if entry.path in skip:
                    continue
                try:
                    owner = entry.stat(follow_symlinks=False).st_uid
                except FileNotFoundError:
                    continue
                if owner not in known:
                    yield entry.path
                elif entry.is_dir(follow_symlinks=False) and not os.path.ismount(entry.path):
                    pending.append(entry.path)


def wipe_ipc(step: Step, manifest: dict[str, Any]) -> None:
    flags = {"shm": "-m", "sem": "-s", "msg": "-q"}
    for kind, name in baseline.foreign_ipc(manifest):
        step.gone("IPC objects", f"{kind} {name}")
        if step.check:
            continue
        if kind == "mqueue":
            (Path("/dev/mqueue") / name).unlink(missing_ok=True)
        else:
            run("ipcrm", flags[kind], name.split(":")[1])
    left = [] if step.check else baseline.foreign_ipc(manifest)
    if left:
        raise StepFailed("IPC objects could not be removed", [f"{kind} {name}" for kind, name in left])


def settle(step: Step, manifest: dict[str, Any], restored: trees.Difference) -> None:
    """Systemd reads the restored units, the platform's own services run as recorded, nothing new stays."""
    if step.check:
        return
    if step.changed:
        run("systemctl", "daemon-reload", timeout=60)
        run("udevadm", "control", "--reload", timeout=30)
    if any(one.pid == 1 for one in processes.outdated(processes.scan())):
        step.did("restarted systemd")
        run("systemctl", "daemon-reexec", timeout=60)
    cleaning.end_units(step, manifest)
    for name in stale(restored, manifest):
        step.did(f"restarted {name}")
        run("systemctl", "try-restart", name, timeout=120)
    for name in units.down(manifest):
        step.did(f"started {name}")
        run("systemctl", "start", name, timeout=60)
    cleaning.end_processes(step, manifest)


def stale(restored: trees.Difference, manifest: dict[str, Any]) -> list[str]:
    """Platform services that may run with configuration, a program or a library which is no longer there."""
    words = {word.split(".")[0] for path in restored.paths() for word in configuring(path)}
    named = {
        name
        for name in manifest["services"]
        if {name.split(".")[0].split("@")[0], name.split(".")[0].replace("systemd-", "")} & words
    }
    return sorted(
        named | {one.unit for one in processes.outdated(processes.scan()) if one.unit in manifest["services"]}
    )


def configuring(path: str) -> list[str]:
    """The parts of a path that may name the service which it configures."""
    return path.split("/")[2:] if path.startswith(("/etc/", "/run/systemd/")) or "/systemd/" in path else []


def main() -> None:
    texts = {"type": "list", "elements": "str", "default": []}
    spec = {
        "manifest": {"type": "dict"},
        "paths": {"type": "list", "elements": "str", "required": True},
        "keep": texts,
        "owner_paths": texts,
        "owner_skip": texts,
    }
    spec["disk_policy"] = {"type": "str", "choices": ["quick", "full", "crypto"], "default": "quick"}
    spec.update(disk_mounts=texts, disk_keep=texts)
    run_module("wipe", spec, body)


if __name__ == "__main__":
    main()
