#!/usr/bin/python
"""Writes sshd's drop-in and proves that it is in force."""

from __future__ import annotations

from pathlib import Path
from pwd import getpwnam
from typing import Any

from ansible.module_utils import sshd
from ansible.module_utils.steps import Step, StepFailed, run_module

DOCUMENTATION = r"""
module: ironyard_harden
short_description: Harden a host's sshd
description:
  - Writes a drop-in, validates it with sshd -t, and checks by sshd -T that no other file overrides it.
  - Refuses when the platform's own user could not log in by key afterwards.
author: Ironyard
options:
  user:
    description: The account that the platform logs in as.
    type: str
    required: true
  options:
    description: sshd's options and their values.
    type: dict
    required: true
"""
EXAMPLES = r"""
- name: Harden sshd
  ironyard_harden:
    user: root
    options:
      PasswordAuthentication: "no"
"""
RETURN = r"""
host_keys:
  description: The host's public keys.
  type: list
  elements: str
  returned: success
"""
HEADER = "# Ironyard: changes here are overwritten by the next enrolment.\n"


def body(step: Step, params: dict[str, Any]) -> dict[str, Any]:
    if not sshd.includes_drop_ins():
        raise StepFailed("/etc/ssh/sshd_config does not include sshd_config.d/*.conf: add that line first")
    require_key_login(params["user"])
    lines = [f"{option} {word(said)}\n" for option, said in sorted(params["options"].items())]
    if sshd.put(sshd.DROP_IN, HEADER + "".join(lines), check=step.check):
        step.did(f"wrote {sshd.DROP_IN}")
    if not step.check:
        require_effect(params["options"], params["user"])
    return {"host_keys": sshd.host_keys()}


def word(said: Any) -> str:
    """YAML reads a bare yes or no as a boolean."""
    return {True: "yes", False: "no"}[said] if isinstance(said, bool) else str(said)


def require_key_login(user: str) -> None:
    configured = sshd.effective(user=user)
    if (
        configured.get("trustedusercakeys", "none") != "none"
        or configured.get("authorizedkeyscommand", "none") != "none"
    ):
        return
    home = Path(getpwnam(user).pw_dir)
    names = configured.get("authorizedkeysfile", ".ssh/authorized_keys").split()
    places = [Path(name.replace("%h", str(home)).replace("%u", user)) for name in names]
    files = [place if place.is_absolute() else home / place for place in places]
    if not any(file.exists() and file.read_text(errors="replace").strip() for file in files):
        raise StepFailed(
            f"{user} has no authorized key: switching passwords off would lock the platform out",
            [f"looked at {file}" for file in files],
        )


def require_effect(options: dict[str, Any], user: str) -> None:
    configured = sshd.effective(user=user)
    same = {"prohibit-password": "without-password"}
    wrong = []
    for option, said in options.items():
        wanted = word(said).lower()
        now = configured.get(option.lower(), "").lower()
        if now not in (wanted, same.get(wanted, wanted)):
            wrong.append(f"{option} is {now or 'unset'}, not {wanted}: another file comes first")
    if wrong:
        raise StepFailed("the hardened options are not in force", wrong)


def main() -> None:
    run_module(
        "harden",
        {"user": {"type": "str", "required": True}, "options": {"type": "dict", "required": True}},
        body,
    )


if __name__ == "__main__":
    main()
