"""sshd's drop-ins, validation and host keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils import tracked
from ansible.module_utils.steps import SEARCH_PATH, StepFailed, must, run

SSH = Path("/etc/ssh")
DROP_IN = SSH / "sshd_config.d/00-ironyard.conf"
FENCE = SSH / "sshd_config.d/00-ironyard-fence.conf"
FENCE_KEYS = SSH / "ironyard-fence"
STAGED = SSH / "ironyard-staged"
NOLOGIN = Path("/etc/nologin")
UNITS = ("ssh.service", "sshd.service")  # the name differs by distribution
SOCKETS = ("ssh.socket", "sshd.socket")
KINDS = ("ed25519", "ecdsa", "rsa")


def host_keys(folder: Path = SSH) -> list[str]:
    """Public host keys as 'type base64', comments dropped."""
    paths = sorted(folder.glob("ssh_host_*_key.pub"))
    return [" ".join(path.read_text().split()[:2]) for path in paths]


def validate() -> None:
    """Sshd -t; raises StepFailed with what it complained about."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    checked = run("sshd", "-t")
    if not checked.ok:
        raise StepFailed("sshd refuses its configuration (sshd -t)", [checked.tail()])


def effective(*, user: str = "root") -> dict[str, str]:
    """What sshd would apply to a connection of the user (sshd -T), keys in lower case."""
    asked = run("sshd", "-T", "-C", f"user={user},host=localhost,addr=127.0.0.1")
    if not asked.ok:
        raise StepFailed("sshd cannot print its effective configuration (sshd -T)", [asked.tail()])
    return dict(line.split(" ", 1) for line in asked.out.splitlines() if " " in line)


def put(path: Path, text: str, *, check: bool = False) -> bool:
    """Write a drop-in, validated: what sshd refuses is taken back. Returns whether it differs from before."""
    before = path.read_bytes() if path.exists() else None
    same_mode = before is not None and (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, 0)
    if before == text.encode() and same_mode:
        return False
    if check:
        return True
    tracked.write(path, text.encode())
    os.chown(path, 0, 0)
    try:
        validate()
    except StepFailed:
        if before is None:
            path.unlink()
        else:
            tracked.write(path, before)
        raise
    return True


def restore(files: dict[str, Any], *, check: bool = False) -> list[str]:
    """Sshd's configuration as the manifest's files have it; returns the paths that were changed or removed.

    A tenant's drop-in could keep us out by what it says, or sshd by what it cannot read.
    """
    config = str(SSH / "sshd_config")
    wanted = {path: tracked.content(entry) for path, entry in files.items() if path.startswith(config)}
    if wanted.get(config) is None:
        return []
    changed = []
    folder = DROP_IN.parent
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        changed.append(str(folder))
        if not check:
            tracked.remove(folder)
    present = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in (path for path in present if str(path) not in wanted and path != FENCE):
        changed.append(str(path))
        if not check:
            tracked.remove(path)
    for name, raw in wanted.items():
        path = Path(name)
        if raw is not None and (path.is_symlink() or not path.is_file() or path.read_bytes() != raw):
            changed.append(name)
            if not check:
                tracked.write(path, raw, 0o644)
    return changed


def drop(path: Path, *, check: bool = False) -> bool:
    """Take a drop-in or folder away; returns whether it was there."""
    there = os.path.lexists(path)
    if there and not check:
        tracked.remove(path)
    return there


def includes_drop_ins(config: Path | None = None) -> bool:
    path = config or SSH / "sshd_config"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    words = (line.split() for line in lines)
    return any(
        w and w[0].lower() == "include" and any("sshd_config.d" in part for part in w[1:]) for w in words
    )


def stage() -> list[str]:
    """Make a new set of host keys beside the present ones, of the same kinds; returns the public keys."""
    present = [kind for kind in KINDS if (SSH / f"ssh_host_{kind}_key").exists()] or ["ed25519"]
    tracked.remove(STAGED)
    STAGED.mkdir(mode=0o700)
    for kind in present:
        made = run(
            "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(STAGED / f"ssh_host_{kind}_key"),
            timeout=60,
        )  # fmt: skip
        if not made.ok:
            raise StepFailed(f"ssh-keygen cannot make a {kind} host key", [made.tail()])
    return host_keys(STAGED)


def activate() -> list[str]:
    """Move staged keys into place and remove every other host key; returns the public keys now in force."""
    staged = sorted(STAGED.glob("ssh_host_*_key*"))
    if not staged:
        raise StepFailed("no staged host keys: stage them first")
    names = {path.name for path in staged}
    for path in staged:
        path.replace(SSH / path.name)
    for path in SSH.glob("ssh_host_*"):
        if path.name not in names:
            tracked.remove(path)
    validate()
    tracked.remove(STAGED)
    return host_keys()


def reload() -> list[str]:
    """Make sshd read its configuration again, validated first; the units reloaded.

    An sshd that its socket starts reads the configuration at the next connection anyway.
    """
    validate()
    running = [unit for unit in UNITS if run("systemctl", "is-active", "--quiet", unit).ok]
    sockets = [unit for unit in SOCKETS if run("systemctl", "is-active", "--quiet", unit).ok]
    if not running and not sockets:
        raise StepFailed("neither ssh.service nor sshd.service nor their socket is active")
    for unit in running[:1]:
        must("systemctl", "reload", unit)
    return running[:1]


def lift_fence(*, check: bool = False) -> list[str]:
    """Take the fence away; returns what was removed. The keys that it names go after sshd has forgotten it:
    a connection in between still has to find them.
    """
    there = [path for path in (FENCE, NOLOGIN, FENCE_KEYS) if os.path.lexists(path)]
    if check or not there:
        return [str(path) for path in there]
    drop(FENCE)
    drop(NOLOGIN)
    reload()
    drop(FENCE_KEYS)
    return [str(path) for path in there]


def have_sshd() -> bool:
    return any((Path(folder) / "sshd").exists() for folder in SEARCH_PATH.split(":"))
