"""systemd units as the manager sees them."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.processes import known
from ansible.module_utils.steps import StepFailed, run

TYPES = "service,timer,socket,path"
PASSING = ("transient", "generated")


def unit_files() -> dict[str, str]:
    """Every installed unit file and its state (enabled, static, …); transient and generated ones left out."""
    listed = run("systemctl", "list-unit-files", "--no-legend", "--plain", "--no-pager", timeout=30)
    if not listed.ok:
        raise StepFailed("systemd's unit files cannot be listed", [listed.tail()])
    rows = (line.split() for line in listed.out.splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1 and row[1] not in PASSING}


def active(states: str = "active,activating,reloading,failed") -> list[str]:
    """Services, timers, sockets and paths in one of the states.

    A failed unit is one that systemd still holds.
    """
    listed = run(
        "systemctl", "list-units", "--all", "--no-legend", "--plain", "--no-pager", f"--type={TYPES}",
        f"--state={states}", timeout=30,
    )  # fmt: skip
    if not listed.ok:
        raise StepFailed("systemd's units cannot be listed", [listed.tail()])
    return [line.split()[0] for line in listed.out.splitlines() if line.strip()]


def down(manifest: dict[str, Any]) -> list[str]:
    """Enabled units that ran when the host was enrolled and do not run now."""
    now = set(active("active,activating,reloading"))
    wanted = (name for name in manifest["active_units"] if manifest["units"].get(name) == "enabled")
    return [name for name in wanted if name not in now]


def foreign(manifest: dict[str, Any]) -> list[str]:
    """Active units that were neither installed nor running when the host was enrolled."""
    names = [*manifest["units"], *manifest["services"], *manifest["active_units"]]
    return [name for name in active() if not known(name, names) and not name.startswith("user-runtime-dir@")]


def enabled_since(manifest: dict[str, Any], now: dict[str, str]) -> list[str]:
    """Findings: units whose file or enablement differs from the record."""
    before = manifest["units"]
    findings = [
        f"unit {name} is not in the manifest ({state})" for name, state in now.items() if name not in before
    ]
    findings += [f"unit {name} is gone" for name in before if name not in now]
    findings += [
        f"unit {name} is {now[name]}, was {state}"
        for name, state in before.items()
        if now.get(name, state) != state
    ]
    return findings
