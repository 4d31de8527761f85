"""What the installing steps share: whether it applies, packages, files and units as wanted."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils import machine, nvidia_smi, software, tracked
from ansible.module_utils.steps import Step, StepFailed, must, run

ROOT = Path("/")
OFF = "installing is switched off"
NEEDS = {
    "gpu": (machine.pci_gpus, "no NVIDIA GPU is on the PCI bus"),
    "nvswitch": (machine.pci_switches, "there is no NVSwitch"),
}
OF_DRIVER = ("driver", "branch", "cuda")
PROBE_SECONDS = 60.0
# what every installing module takes
COMMON: dict[str, Any] = {
    "enabled": {"type": "bool", "default": True},
    "options": {"type": "dict", "default": {}},
    "proxy": {"type": "str", "default": ""},
}


def left_out(step: Step, params: dict[str, Any], needs: str | None = None) -> dict[str, Any] | None:
    """The result of a step that does not apply to this host, None when it does."""
    reason = None if params["enabled"] else OFF
    if reason is None and needs:
        present, without = NEEDS[needs]
        reason = None if present() else without
    return skipped(step, reason) if reason else None


def skipped(step: Step, reason: str) -> dict[str, Any]:
    step.note(f"skipped: {reason}")
    return {"install": {"skipped": reason}}


def here(names: Sequence[str], *, check: bool = False) -> dict[str, str]:
    """What the words in these names stand for; nvidia-smi is asked only for those that it knows.

    Raises StepFailed when it has to be asked and does not answer. In check mode they stay open then.
    """
    words = software.places(machine.os_release())
    if not any(f"{{{word}}}" in name for word in OF_DRIVER for name in names):
        return words
    seen = driver()
    if seen is None and not check:
        raise StepFailed("nvidia-smi does not say which driver runs, so what fits it cannot be chosen")
    version, cuda = (str((seen or {}).get(key) or "*") for key in ("driver_version", "cuda_version"))
    return {**words, "driver": version, "branch": version.split(".")[0], "cuda": cuda.split(".")[0]}


def driver() -> dict[str, Any] | None:
    """What nvidia-smi says of driver and CUDA; None where it is missing or fails."""
    try:
        return nvidia_smi.query(60.0)
    except StepFailed:
        return None


def for_family(table: dict[str, Any] | None, family: str) -> list[str]:
    """A table's entry for this system; ``all`` is for every other one."""
    said = table or {}
    found = said[family] if family in said else said.get("all", [])
    return [str(name) for name in found]


def wanted(table: dict[str, Any], *, check: bool = False) -> list[software.Wanted]:
    """The packages of a table for this host."""
    names = for_family(table, software.family(machine.os_release()))
    words = here(names, check=check)
    return [software.Wanted.parse(software.fill(name, words)) for name in names]


def packages(
    step: Step, manager: software.Manager, asked: Sequence[software.Wanted]
) -> tuple[dict[str, str], bool]:
    """Bring the packages to the wanted versions; what is installed then and whether that is a change."""
    missing = manager.missing(asked)
    if missing and step.check:
        step.did(f"would install {', '.join(map(str, missing))}")
        return {}, True
    if missing:
        chosen = manager.choose(missing)
        manager.install(chosen)
        step.did(f"installed {', '.join(map(str, chosen))}")
    present = manager.installed([package.name for package in asked])
    absent = [] if step.check else [str(one) for one in asked if not one.accepts(present.get(one.name))]
    if absent:
        raise StepFailed(f"{', '.join(absent)} is not there although its installation ended well")
    return present, bool(missing)


def files(step: Step, contents: dict[str, bytes], *, mode: int = 0o644, root: Path = ROOT) -> bool:
    """Write the files that differ; whether any did."""
    changed = False
    for path, raw in contents.items():
        real = root / path.lstrip("/")
        if real.is_file() and not real.is_symlink() and real.read_bytes() == raw and _mode(real) == mode:
            continue
        changed = True
        step.did(f"{'would write' if step.check else 'wrote'} {path}")
        if not step.check:
            tracked.write(real, raw, mode)
            real.chmod(mode)
    return changed


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def units(step: Step, names: Sequence[str], *, restart: bool) -> None:
    """Have the units enabled and running, restarted where what they read is new."""
    if not names:
        return
    if restart and not step.check:
        must("systemctl", "daemon-reload")
    for name in names:
        enabled = run("systemctl", "is-enabled", "--quiet", name).ok
        active = run("systemctl", "is-active", "--quiet", name).ok
        if enabled and active and not restart:
            continue
        step.did(f"{'would start' if step.check else 'started'} {name}")
        if step.check:
            continue
        must("systemctl", "enable", "--quiet", name)
        begun = run("systemctl", "restart" if active else "start", name, timeout=120)
        if not begun.ok:
            said = run("journalctl", "-u", name, "-n", "5", "-o", "cat", "--no-pager").out.splitlines()
            raise StepFailed(f"{name} does not start", [begun.tail(), *said])


def probe(url: str, contains: str) -> None:
    """Wait until a service on this host answers with the words. Raises StepFailed when it does not."""
    until, said = time.monotonic() + PROBE_SECONDS, "nothing"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the host itself needs no proxy
    while True:
        try:
            with opener.open(url, timeout=5) as answer:
                said = answer.read().decode("utf-8", "replace")
        except (OSError, urllib.error.URLError) as error:
            said = str(error)
        if contains in said:
            return
        if time.monotonic() > until:
            raise StepFailed(f"{url} does not show {contains} after {PROBE_SECONDS:g} s", [said[-300:]])
        time.sleep(0.2)


def json_file(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one. Raises StepFailed when it cannot be read."""
    try:
        said = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise StepFailed(f"{path} is no JSON: {error}") from error
    if not isinstance(said, dict):
        raise StepFailed(f"{path} is no JSON object")
    return said
