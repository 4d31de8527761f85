"""The account that the platform made for itself on a host."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from pwd import getpwall, struct_passwd

from ansible.module_utils import installing, tracked
from ansible.module_utils.steps import Step, StepFailed, run

SUDOERS = Path("/etc/sudoers.d/ironyard")


def find(name: str) -> struct_passwd | None:
    return next((one for one in getpwall() if one.pw_name == name), None)


def keys(given: list[str], login: str) -> str:
    """The content of the account's authorized_keys. Raises StepFailed when there is no key to put there."""
    lines = [line.strip() for line in given if line.strip()]
    if not lines:
        account = find(login)
        source = Path(account.pw_dir, ".ssh/authorized_keys") if account else None
        lines = source.read_text(errors="replace").splitlines() if source and source.is_file() else []
    if not any(line.strip() and not line.startswith("#") for line in lines):
        raise StepFailed(
            f"there is no public key for the platform's account: set account_keys, {login} has none"
        )
    return "".join(f"{line}\n" for line in lines)


def open_to(step: Step, account: struct_passwd, wanted: str) -> None:
    folder = Path(account.pw_dir, ".ssh")
    path = folder / "authorized_keys"
    if not step.check and not folder.is_dir():
        folder.mkdir(mode=0o700)
        os.chown(folder, account.pw_uid, account.pw_gid)
    if installing.files(step, {str(path): wanted.encode()}, mode=0o600) and not step.check:
        os.chown(path, account.pw_uid, account.pw_gid)


def grant(step: Step, name: str) -> None:
    """Passwordless sudo, checked by visudo before it is in force."""
    line = f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n".encode()
    if SUDOERS.is_file() and SUDOERS.read_bytes() == line:
        return
    with tempfile.NamedTemporaryFile(dir="/run") as draft:
        draft.write(line)
        draft.flush()
        checked = run("visudo", "-cf", draft.name)
    if not checked.ok:
        raise StepFailed("visudo refuses the line for the platform's account", [checked.tail()])
    installing.files(step, {str(SUDOERS): line}, mode=0o440)


def withdraw(step: Step, name: str, login: str) -> None:
    """Take the account away again, if it is the platform's and not the one by which this run came."""
    ours = SUDOERS.is_file() and SUDOERS.read_text(errors="replace").startswith(f"{name} ")
    if not ours:
        return
    if login == name:
        step.note(f"{name} stays: this run came by it")
        return
    step.gone("platform accounts", name)
    if not step.check:
        tracked.remove(SUDOERS)
        run("userdel", "--remove", "--force", name)
