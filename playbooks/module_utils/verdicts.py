"""One shape for every health check, and what several of them together mean."""

from __future__ import annotations

from typing import Any

Check = dict[str, Any]
HOST = "host"
PASS, INFO, WARNING, CRITICAL, UNKNOWN = "PASS", "INFO", "WARNING", "CRITICAL", "UNKNOWN"
# The worse the later: what is known to be broken outranks what could not be looked at.
RANK = (PASS, INFO, WARNING, UNKNOWN, CRITICAL)
FAILING = (UNKNOWN, CRITICAL)
ACTIONS = ("none", "restart-application", "reset", "reboot", "drain", "service")


def check(name: str, verdict: str, detail: str, *, scope: str = HOST, action: str = "none") -> Check:
    """``scope`` is ``host`` or a GPU's UUID. A reboot takes the whole host, whichever GPU asks for it."""
    if action == "reboot" and verdict in FAILING:
        detail, scope = (detail if scope == HOST else f"{detail} ({scope})"), HOST
    return {"name": name, "verdict": verdict, "scope": scope, "action": action, "detail": detail[:400]}


def passed(name: str, detail: str, *, scope: str = HOST) -> Check:
    return check(name, PASS, detail, scope=scope)


def critical(name: str, detail: str, action: str, *, scope: str = HOST) -> Check:
    return check(name, CRITICAL, detail, scope=scope, action=action)


def unknown(name: str, detail: str, *, scope: str = HOST, action: str = "none") -> Check:
    return check(name, UNKNOWN, detail, scope=scope, action=action)


def worst(checks: list[Check]) -> str:
    """UNKNOWN when nothing was checked."""
    return max((one["verdict"] for one in checks), key=RANK.index, default=UNKNOWN)


def failing(checks: list[Check]) -> list[Check]:
    return [one for one in checks if one["verdict"] in FAILING]


def sentence(one: Check) -> str:
    where = "host" if one["scope"] == HOST else one["scope"]
    return f"{one['verdict']} {one['name']} of {where}: {one['detail']} (action: {one['action']})"


def host_faults(checks: list[Check], gpus: list[str]) -> list[Check]:
    """What keeps the whole host from being lent: faults of the host itself, or of every GPU that it has."""
    failed = failing(checks)
    of_host = [one for one in failed if one["scope"] == HOST]
    sick = {one["scope"] for one in failed if one["scope"] != HOST}
    if of_host or not gpus or not sick.issuperset(gpus):
        return of_host
    return failed
