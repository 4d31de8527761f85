"""Local accounts and groups, read from the files themselves: what matters is what this host alone decides."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils import tracked
from ansible.module_utils.steps import StepFailed

ROOT = Path("/")
NO_HOMES = {
    "",
    "/",
    "/bin",
    "/dev",
    "/nonexistent",
    "/proc",
    "/usr/sbin",
    "/var/empty",
    "/sbin",
    "/usr/bin",
    "/run",
}


def rows(text: str) -> dict[str, list[str]]:
    """The colon-separated lines of passwd(5) and its relatives, by name."""
    split = (line.split(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {row[0]: row for row in split if len(row) > 1}


def read(name: str, root: Path = ROOT) -> dict[str, list[str]]:
    path = root / "etc" / name
    return rows(path.read_text(errors="replace")) if path.exists() else {}


def recorded(manifest: dict[str, Any], name: str) -> dict[str, list[str]]:
    """The accounts or groups of the manifest."""
    raw = tracked.content(manifest["files"][f"/etc/{name}"])
    found = rows((raw or b"").decode("utf-8", "replace"))
    if "root" not in found:  # every account and every file would look foreign
        raise StepFailed(f"the manifest does not hold the content of /etc/{name}")
    return found


def homes(root: Path = ROOT) -> dict[str, str]:
    """Homes of root and of the people who can log in, by account; system accounts own no home here."""
    found = {}
    for name, row in read("passwd", root).items():
        uid, home = int(row[2]), row[5].rstrip("/")
        is_person = uid == 0 or 1000 <= uid < 65534
        if is_person and home not in NO_HOMES and (root / home.lstrip("/")).is_dir():
            found[name] = home
    return found


def key_folders(root: Path = ROOT) -> list[str]:
    """Every account's ~/.ssh, also where the account is not one for people."""
    candidates = {row[5].rstrip("/") for row in read("passwd", root).values() if len(row) > 5}
    return sorted(f"{home}/.ssh" for home in candidates if home not in {"", "/nonexistent", "/dev", "/proc"})


def recorded_key_folders(manifest: dict[str, Any], root: Path = ROOT) -> list[str]:
    """The ~/.ssh of every account of now or of the manifest."""
    then = {row[5].rstrip("/") for row in recorded(manifest, "passwd").values() if len(row) > 5}
    known = {f"{home}/.ssh" for home in then if home not in {"", "/nonexistent", "/dev", "/proc"}}
    return sorted(known | set(key_folders(root)))


def password_state(field: str | None) -> str:
    """'locked', 'empty', or a digest of the field: enough to see a change, useless to log in with."""
    if field is None or field[:1] in ("!", "*"):
        return "locked"
    return hashlib.sha256(field.encode()).hexdigest() if field else "empty"


def passwords(root: Path = ROOT) -> dict[str, str]:
    return {name: password_state(row[1]) for name, row in read("shadow", root).items()}


def password_findings(manifest: dict[str, Any], root: Path = ROOT) -> list[str]:
    """A password may stay what it was or be locked; anything else is a way back in."""
    before = manifest["passwords"]
    findings = []
    now = passwords(root)
    findings += [f"password entry of {name} is gone" for name in before if name not in now]
    for name, state in now.items():
        if name not in before:
            findings.append(f"password entry of {name} is not in the manifest")
        elif state not in (before[name], "locked"):
            findings.append(f"password of {name} was changed since enrolment")
    return findings


def restore_shadow(manifest: dict[str, Any], root: Path = ROOT) -> list[str]:
    """The lines of shadow as they should be: foreign ones dropped, changed passwords locked."""
    lines = []
    for name, row in read("shadow", root).items():
        state = manifest["passwords"].get(name)
        if state is None:
            continue
        if password_state(row[1]) not in (state, "locked"):
            row = [name, "!", *row[2:]]  # noqa: PLW2901
        lines.append(":".join(row))
    there = {line.split(":")[0] for line in lines}
    return lines + [f"{name}:!:::::::" for name in manifest["passwords"] if name not in there]


def restore_gshadow(manifest: dict[str, Any], root: Path = ROOT) -> list[str]:
    """The lines of gshadow as they should be: recorded groups and members, nothing else."""
    groups = recorded(manifest, "group")
    present = read("gshadow", root) or {name: [name, "!"] for name in groups}
    lines = []
    for name, row in present.items():
        if name in groups:
            field = row[1] if row[1][:1] in ("", "!", "*") else "!"
            lines.append(":".join([name, field, "", groups[name][3]]))
    return lines


def group_password_findings(manifest: dict[str, Any], root: Path = ROOT) -> list[str]:
    now = [":".join(row) for row in read("gshadow", root).values()]
    return ["gshadow has foreign members or passwords"] if now != restore_gshadow(manifest, root) else []


def extra(manifest: dict[str, Any], name: str, root: Path = ROOT) -> list[str]:
    """Accounts (`passwd`) or groups (`group`) that enrolment did not record."""
    return sorted(set(read(name, root)) - set(recorded(manifest, name)))
