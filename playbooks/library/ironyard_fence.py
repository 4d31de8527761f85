#!/usr/bin/python
"""Shuts tenants out of a host, and lets it be used again."""

from __future__ import annotations

import os
import re
from pathlib import Path
from pwd import getpwnam
from typing import Any

from ansible.module_utils import processes, sshd, tracked
from ansible.module_utils.steps import Step, StepFailed, run, run_module

DOCUMENTATION = r"""
module: ironyard_fence
short_description: Let only the platform into a host
description:
  - An sshd drop-in allows only the platform's user with the keys of the manifest; nologin keeps
    others out; sessions end.
  - The connection that runs this survives.
author: Ironyard
options:
  user:
    description: The account that the platform logs in as.
    type: str
    required: true
  manifest:
    description: What enrolment recorded; without it the platform's keys stay as they are.
    type: dict
  state:
    description: Whether the fence stands.
    type: str
    choices: [present, absent]
    default: present
"""
EXAMPLES = r"""
- name: Shut tenants out
  ironyard_fence:
    user: root
"""
RETURN = r"""
removed:
  description: How many sessions ended.
  type: dict
  returned: always
"""
NOTICE = "This host is being cleaned.\n"


def body(step: Step, params: dict[str, Any]) -> None:
    if params["state"] == "absent":
        for path in sshd.lift_fence(check=step.check):
            step.did(f"removed {path}")
        return
    user = params["user"]
    for path in sshd.restore((params["manifest"] or {}).get("files", {}), check=step.check):
        step.gone("sshd settings", path)
    folder = put_keys(step, user, params["manifest"])
    lines = [f"AllowUsers {user}", "PasswordAuthentication no", "KbdInteractiveAuthentication no"]
    if folder:
        lines.append(f"AuthorizedKeysFile {folder}/%u")
    text = "# Ironyard: this host is being cleaned.\n" + "".join(f"{line}\n" for line in lines)
    if sshd.put(sshd.FENCE, text, check=step.check):
        step.did(f"wrote {sshd.FENCE}")
    if getpwnam(user).pw_uid == 0 and not sshd.NOLOGIN.exists():
        step.did(f"wrote {sshd.NOLOGIN}")
        if not step.check:
            tracked.write(sshd.NOLOGIN, NOTICE.encode(), 0o644)
    end_sessions(step)


def put_keys(step: Step, user: str, manifest: dict[str, Any] | None) -> Path | None:
    """The platform's keys as recorded, in a folder that tenants' changes to homes do not reach."""
    if not manifest:
        return None
    entry = manifest["files"].get(f"{getpwnam(user).pw_dir.rstrip('/')}/.ssh/authorized_keys", {})
    keys = tracked.content(entry)
    if not keys or not keys.strip():
        step.note(f"{user} has no recorded keys: sshd's own AuthorizedKeysFile stays")
        return None
    target = sshd.FENCE_KEYS / user
    if not target.exists() or target.read_bytes() != keys:
        step.did(f"wrote {target}")
        if not step.check:
            sshd.FENCE_KEYS.mkdir(mode=0o755, exist_ok=True)
            tracked.write(target, keys, 0o644)
    return sshd.FENCE_KEYS


def end_sessions(step: Step) -> None:
    """Terminate every login session and SSH connection but our own."""
    running = processes.scan()
    mine = processes.own(running)
    groups = {running[pid].group for pid in mine if pid in running}
    for session in logind_sessions():
        if not any(group.endswith(f"/session-{session}.scope") for group in groups):
            step.gone("sessions", f"session {session}")
            if not step.check:
                run("loginctl", "terminate-session", session)
    others = [one for one in processes.ssh_sessions(processes.scan()) if one.pid not in mine]
    for process in others:
        step.gone("sessions", str(process))
    left = [] if step.check else processes.end(others)
    if left:
        raise StepFailed("SSH sessions could not be ended", [str(process) for process in left])


def logind_sessions() -> list[str]:
    listed = run("loginctl", "list-sessions", "--no-legend", timeout=20)
    names = (line.split()[0] for line in listed.out.splitlines() if line.strip())
    return [name for name in names if re.fullmatch(r"\w+", name)] if listed.ok else []


def main() -> None:
    os.umask(0o022)
    spec = {
        "user": {"type": "str", "required": True},
        "manifest": {"type": "dict"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    run_module("fence", spec, body)


if __name__ == "__main__":
    main()
