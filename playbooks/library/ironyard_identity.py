#!/usr/bin/python
"""Brings accounts, keys and the right to become root back to the manifest, and changes the host keys."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils import accounts, places, restoring, sshd, tracked
from ansible.module_utils.steps import Step, StepFailed, require_manifest, run_module

DOCUMENTATION = r"""
module: ironyard_identity
short_description: Restore accounts and keys, rotate host keys
description:
  - The phase restore removes foreign accounts and groups, restores keys and sudoers, and stages new
    host keys.
  - The phase activate puts the staged host keys into force; until then the old ones answer, so an
    interrupted run is safe.
author: Ironyard
options:
  manifest:
    description: What enrolment recorded.
    type: dict
  phase:
    description: Which half to do.
    type: str
    choices: [restore, activate]
    required: true
"""
EXAMPLES = r"""
- name: Restore accounts
  ironyard_identity:
    manifest: "{{ ironyard_manifest }}"
    phase: restore
"""
RETURN = r"""
announced_host_keys:
  description: Public keys that will be in force after the phase activate.
  type: list
  elements: str
  returned: phase is restore
host_keys:
  description: Public keys in force.
  type: list
  elements: str
  returned: phase is activate
"""
SECRETS = ("/etc/shadow", "/etc/gshadow")
# useradd and passwd leave the version before here, with a tenant's names and password hashes
BACKUPS = tuple(
    Path(f"/etc/{name}-") for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
)


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    manifest = require_manifest(params["manifest"])
    if params["phase"] == "activate":
        step.did("SSH host keys rotated")
        return {"host_keys": sshd.host_keys() if step.check else sshd.activate()}
    restore(step, manifest)
    return {"announced_host_keys": sshd.host_keys() if step.check else sshd.stage()}


def restore(step: Step, manifest: dict[str, Any]) -> None:
    here = restoring.Trees(manifest)
    for name in accounts.extra(manifest, "passwd"):
        step.gone("accounts", name)
    for name in accounts.extra(manifest, "group"):
        step.gone("groups", name)
    folders = accounts.recorded_key_folders(manifest)
    with password_lock():
        _, stuck = here.mend(step, restoring.of_identity(folders), [*places.IDENTITY, *folders])
        restore_shadow(step, manifest, here.before)
        here.mend(step, lambda path: path in SECRETS, SECRETS)  # a file that was gone has its rights now
    for path in BACKUPS:
        if os.path.lexists(path):
            step.did(f"removed {path}")
            if not step.check:
                tracked.remove(path)
    if stuck:
        raise StepFailed(f"{len(stuck)} files cannot be restored, the first is {stuck[0]}", stuck)
    sshd.validate()


def restore_shadow(step: Step, manifest: dict[str, Any], recorded: Container[str]) -> None:
    path = Path("/etc/shadow")
    wanted = "".join(f"{line}\n" for line in accounts.restore_shadow(manifest))
    replace(step, path, wanted, "passwords")
    gshadow = Path("/etc/gshadow")
    if gshadow.exists() or "/etc/gshadow" in recorded:
        lines = accounts.restore_gshadow(manifest)
        replace(step, gshadow, "".join(f"{line}\n" for line in lines), "group passwords")


def replace(step: Step, path: Path, text: str, word: str) -> None:
    """Rewrite a file of secrets in place of the old one, owner and mode kept.

    Its content is never reported.
    """
    if os.path.isfile(path) and path.read_text(errors="replace") == text:
        return
    step.did(f"restored {word}: {path}")
    if step.check:
        return
    rights = path.stat() if os.path.isfile(path) else None
    tracked.write(path, text.encode())
    if rights:
        os.chown(path, rights.st_uid, rights.st_gid)
        path.chmod(rights.st_mode & 0o7777)


@contextmanager
def password_lock() -> Iterator[None]:
    """The lock that useradd and passwd take (lckpwdf)."""
    path = Path("/etc/.pwd.lock")
    if path.is_symlink() or path.is_dir():
        tracked.remove(path)
    with path.open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        path.chmod(0o600)
        lock.truncate(0)
        yield


def main() -> None:
    spec = {
        "manifest": {"type": "dict"},
        "phase": {"type": "str", "choices": ["restore", "activate"], "required": True},
    }
    run_module("identity", spec, body)


if __name__ == "__main__":
    main()
