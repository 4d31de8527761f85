"""The running kernel: its modules, what marks it as tampered with, and settings outside /proc/sys."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
from typing import Any

from ansible.module_utils import pseudo
from ansible.module_utils.steps import Step, StepFailed, run

BINFMT = "/proc/sys/fs/binfmt_misc"
BPF = "/sys/fs/bpf"
TRACING = "/sys/kernel/tracing"
PROBES = ("kprobe_events", "uprobe_events", "dynamic_events")
# Bits of /proc/sys/kernel/tainted that say: code ran in the kernel that the distribution did not build
# (Documentation/admin-guide/tainted-kernels.rst). They stay until the next boot.
TAINTS = {1: "a module was forced in", 2: "a module was forced out", 12: "an out-of-tree module was loaded",
          13: "an unsigned module was loaded", 15: "the kernel was patched while it ran"}  # fmt: skip
SETTINGS = (
    "/sys/kernel/mm/hugepages/*/nr_hugepages",
    "/sys/kernel/mm/hugepages/*/nr_overcommit_hugepages",
    "/sys/devices/system/node/node*/hugepages/*/nr_hugepages",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/defrag",
    "/sys/kernel/mm/ksm/run",
    "/sys/devices/system/cpu/smt/control",
    "/sys/devices/system/cpu/cpu*/online",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq",
    "/sys/block/*/queue/scheduler",
)


def record() -> dict[str, Any]:
    return {
        "release": platform.release(),
        "cmdline": pseudo.read("/proc/cmdline"),
        "taint": int(pseudo.read("/proc/sys/kernel/tainted") or 0),
        "modules": modules(),
        "livepatches": pseudo.names("/sys/kernel/livepatch"),
        "binfmt": binfmt(),
        "bpf": pinned(),
        "probes": probes(),
        "settings": settings(),
    }


def modules() -> list[str]:
    return sorted(line.split()[0] for line in (pseudo.read("/proc/modules") or "").splitlines())


def hidden() -> list[str]:
    """Modules that /sys shows alive and /proc/modules does not: the mark of one that hides itself."""
    shown = set(modules())
    if not os.path.exists("/proc/modules"):
        return []
    live = (path.split("/")[3] for path in glob.glob("/sys/module/*/initstate"))
    return sorted(set(live) - shown)


def binfmt() -> list[str]:
    return [name for name in pseudo.names(BINFMT) if name not in ("register", "status")]


def pinned(root: str = BPF) -> list[str]:
    """Programs, maps and links that outlive their process because they have a path."""
    found = []
    for folder, _, files in os.walk(root):
        found += [os.path.join(folder, name) for name in files]
    return sorted(path for path in found if not path.endswith((".debug", ".verified")))


def probes() -> list[str]:
    texts = (pseudo.read(f"{TRACING}/{name}") or "" for name in PROBES[:2])
    return sorted(line for text in texts for line in text.splitlines())


def settings() -> dict[str, str]:
    found = {}
    for pattern in SETTINGS:
        for path in sorted(glob.glob(pattern)):
            said = pseudo.read(path)
            if said is not None:
                chosen = re.search(r"\[([^]]+)\]", said)
                found[path] = chosen.group(1) if chosen else said
    return found


def vouched(name: str) -> bool:
    """Whether a loaded module is the one that lies under /lib/modules, whose files are compared apart."""
    file = run("modinfo", "-F", "filename", name).out.strip()
    if not re.match(rf"(/usr)?/lib/modules/{re.escape(platform.release())}/", file):
        return False
    loaded = pseudo.read(f"/sys/module/{name}/srcversion")
    return loaded is None or loaded == run("modinfo", "-F", "srcversion", name).out.strip()


def foreign_modules(before: dict[str, Any]) -> list[str]:
    """Loaded since enrolment and not from the host's own module folder, or hiding."""
    fresh = set(modules()) - set(before["modules"])
    return sorted(name for name in fresh if not vouched(name)) + hidden()


def foreign_taint(before: dict[str, Any]) -> list[str]:
    fresh = int(pseudo.read("/proc/sys/kernel/tainted") or 0) & ~int(before["taint"])
    return [why for bit, why in TAINTS.items() if fresh >> bit & 1]


def changed_settings(before: dict[str, Any]) -> dict[str, tuple[str, str]]:
    now = settings()
    wanted = before["settings"]
    return {path: (now[path], wanted[path]) for path in wanted if path in now and now[path] != wanted[path]}


def findings(before: dict[str, Any]) -> list[str]:
    found = [f"kernel module {name} is not the host's own" for name in foreign_modules(before)]
    found += [f"the kernel cannot be trusted before a reboot: {why}" for why in foreign_taint(before)]
    for key, said in (("release", platform.release()), ("cmdline", pseudo.read("/proc/cmdline"))):
        if said != before[key]:
            found.append(f"the kernel's {key} is {said!r}, enrolment recorded {before[key]!r}")
    for key, now in _listed().items():
        found += [f"{key} not in the manifest: {name}" for name in now if name not in before[key]]
    return found + [
        f"{path} is {said}, enrolment recorded {wanted}"
        for path, (said, wanted) in changed_settings(before).items()
    ]


def _listed() -> dict[str, list[str]]:
    return {
        "binfmt": binfmt(),
        "bpf": pinned(),
        "probes": probes(),
        "livepatches": pseudo.names("/sys/kernel/livepatch"),
    }


def clean(step: Step, before: dict[str, Any]) -> None:
    """Unload, unregister and put back; raises StepFailed for a kernel that only a reboot makes clean."""
    unload(step, before)
    unregister(step, before)
    for path, (said, wanted) in changed_settings(before).items():
        step.gone("kernel settings", f"{path} {said} → {wanted}")
        if not step.check:
            pseudo.write(path, wanted)
    left = [] if step.check else findings(before)
    if left:
        raise StepFailed(f"the kernel is not as recorded: {left[0]}", left)


def unregister(step: Step, before: dict[str, Any]) -> None:
    for name in _extra(before, "binfmt"):
        step.gone("binary formats", name)
        if not step.check:
            pseudo.write(f"{BINFMT}/{name}", "-1")
    for path in _extra(before, "bpf"):
        step.gone("pinned BPF objects", path)
        if not step.check:
            with contextlib.suppress(OSError):
                os.unlink(path)
    if _extra(before, "probes"):
        clear_probes(step, before)
    for name in _extra(before, "livepatches"):
        step.gone("live patches", name)
        if not step.check:
            pseudo.write(f"/sys/kernel/livepatch/{name}/enabled", "0")


def _extra(before: dict[str, Any], key: str) -> list[str]:
    return [name for name in _listed()[key] if name not in before[key]]


def clear_probes(step: Step, before: dict[str, Any]) -> None:
    for line in _extra(before, "probes"):
        step.gone("kernel probes", line)
    if not step.check:
        pseudo.write(f"{TRACING}/events/enable", "0")
        for name in PROBES[:2]:
            pseudo.write(f"{TRACING}/{name}", "")


def unload(step: Step, before: dict[str, Any]) -> None:
    """Unload what is not the host's own, and of the rest what nobody uses and no device needs."""
    foreign = foreign_modules(before)
    for name in foreign:
        step.gone("kernel modules", name)
    idle = [name for name in sorted(set(modules()) - set(before["modules"]) - set(foreign)) if _idle(name)]
    for name in idle:
        step.did(f"unloaded {name}")
    for name in [] if step.check else [*foreign, *idle]:
        run("rmmod", name)


def _idle(name: str) -> bool:
    here = f"/sys/module/{name}"
    driven = glob.glob(f"{here}/drivers/*")
    return not driven and pseudo.read(f"{here}/refcnt") == "0" and not pseudo.names(f"{here}/holders")
