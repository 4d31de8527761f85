"""Puts the report of a play together from what each step's module returned."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable

DOCUMENTATION = r"""
name: ironyard_report
short_description: The report of a play
description: One entry per step, what failed and why, and what enrolment learned.
author: Ironyard
options:
  _input:
    description: The steps' names in order.
    type: list
    elements: str
    required: true
"""
PLAYBOOKS = Path(__file__).resolve().parents[1]
MAX_EVIDENCE = 100
MAX_PATHS = 200
Result = dict[str, Any]


def merge(name: str, results: list[Result]) -> Result:
    """One step's entry from its modules' results; a step that never ran is skipped."""
    done = [result for result in results if result and not result.get("skipped")]
    removed: dict[str, int] = {}
    for result in done:
        for kind, count in (result.get("removed") or {}).items():
            removed[kind] = removed.get(kind, 0) + count
    paths, dropped = _paths(done)
    failed = any(result.get("failed") or result.get("unreachable") for result in done)
    evidence = [line for result in done for line in result.get("evidence") or []]
    if failed and not evidence:
        evidence = [_said(name, result) for result in done if result.get("msg")]
    return {
        "name": name,
        "status": "failed" if failed else "ok" if done and not _left_out(done) else "skipped",
        "seconds": round(sum(float(result.get("seconds") or 0) for result in done), 3),
        "changed": any(bool(result.get("changed")) for result in done),
        "removed": removed,
        "paths": paths,
        "paths_dropped": dropped,
        "evidence": evidence[:MAX_EVIDENCE],
    }


def _paths(done: list[Result]) -> tuple[dict[str, list[str]], int]:
    """By kind what was removed, some hundred of each at most, and how many are not listed."""
    found: dict[str, list[str]] = {}
    for result in done:
        for kind, listed in (result.get("paths") or {}).items():
            found.setdefault(kind, []).extend(listed)
    dropped = sum(int(result.get("paths_dropped") or 0) for result in done)
    dropped += sum(max(0, len(listed) - MAX_PATHS) for listed in found.values())
    return {kind: listed[:MAX_PATHS] for kind, listed in found.items()}, dropped


def _said(name: str, result: Result) -> str:
    """Why a module failed. One that its time-out ended could not say so itself."""
    if result.get("timedout"):
        return f"the step {name} was ended after {result['timedout']['period']} s ({name}_timeout)"
    return str(result.get("msg"))


def _left_out(done: list[Result]) -> bool:
    """Whether every module of the step said that this host does not need it."""
    return all("skipped" in (result.get("install") or {}) for result in done)


def _installed(entries: list[Result]) -> Result | None:
    """The last of a step's modules that did something, else the last."""
    done = [entry for entry in entries if "skipped" not in entry]
    return next(reversed(done or entries), None)


def installs(results: dict[str, list[Result]]) -> dict[str, Any]:
    """By step what was installed or why nothing was, as far as the play has come."""
    return {
        name: entry
        for name, parts in results.items()
        if (entry := _installed([part["install"] for part in parts if part and part.get("install")]))
    }


@lru_cache(maxsize=1)
def digest(folder: Path = PLAYBOOKS) -> str:
    """SHA-256 over the playbooks' own files by path and content: which procedure this is, to the byte."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix != ".pyc" and not any(p.startswith(".") for p in name.parts):
            found.update(f"{name.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def report(
    names: list[str],
    results: dict[str, list[Result]],
    playbook: str,
    version: str,
    failure: Result | None = None,
) -> Result:
    """The document that set_stats carries as ironyard_report.

    ``failure`` is the rescued task's {step, reason}.
    """
    steps = [merge(name, results.get(name, [])) for name in names]
    every = [result for name in names for result in results.get(name, []) if result]
    broken = next((step["name"] for step in steps if step["status"] == "failed"), None)
    reasons = [
        _said(name, one) for name in names for one in results.get(name, []) if (one or {}).get("failed")
    ]
    if failure and broken is None:
        broken = failure.get("step")
        for step in steps:
            if step["name"] == broken:
                step["status"] = "failed"
                step["evidence"] = [*step["evidence"], str(failure.get("reason"))][-MAX_EVIDENCE:]
        reasons.append(str(failure.get("reason")))
    return {
        "playbook": playbook,
        "digest": digest(),
        "version": version,
        "ok": not reasons,
        "failed_step": broken,
        "failed_reason": reasons[0] if reasons else None,
        "steps": steps,
        "facts": _last(every, "facts"),
        "manifest": _last(every, "manifest"),
        "index": _last(every, "index"),
        "host_keys": _last(every, "host_keys"),
        "health": _last(every, "health"),
        "findings": [str(finding) for result in every for finding in result.get("findings") or []],
    }


def _last(results: list[Result], key: str) -> Any:
    return next((result[key] for result in reversed(results) if result.get(key)), None)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"ironyard_report": report, "ironyard_installs": installs}
