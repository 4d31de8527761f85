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


def surplus(manifest: dict[str, Any]) -> list[str]:
    """Known units that somebody started since: what did not run at enrolment and nothing starts at boot.

    Services without a process did something once and hold nothing.
    """
    before = {*manifest["active_units"], *manifest["services"]}
    late = [
        name
        for name in active("active,activating,reloading")
        if name not in before
        and known(name, manifest["units"])
        and not manifest["units"].get(name, "").startswith("enabled")
        and not name.startswith(("user@", "user-runtime-dir@"))
    ]
    services = [name for name in late if name.endswith(".service")]
    idle = {name for name in services if not _has_process(name)}
    return [name for name in late if name not in idle]


def _has_process(name: str) -> bool:
    return run("systemctl", "show", "--property=MainPID", "--value", "--", name).out.strip() not in ("", "0")


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
