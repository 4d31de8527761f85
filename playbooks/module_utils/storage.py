"""Engines' storage on disk and containerd's namespaces: what no engine's own list shows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils import tracked
from ansible.module_utils.steps import SEARCH_PATH, Step, StepFailed, run

# Whole folders of engines that were not there at enrolment; of those that were, names two levels deep.
FOLDERS = (
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/nerdctl",
    "/var/lib/rancher",
    "/var/lib/lxc",
    "/var/lib/lxd",
    "/var/lib/machines",
    "/var/snap/docker",
)
# Made by the engine at the first container and empty afterwards.
LAZY = {
    "/var/lib/containerd/io.containerd.content.v1.content/blobs",
    "/var/lib/containerd/io.containerd.runtime.v2.task/moby",
    "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/metadata.db",
}
# In the order of removal; the word before the name removes it.
KINDS = {
    "tasks": (("tasks", "ls", "-q"), ("tasks", "delete", "--force")),
    "containers": (("containers", "ls", "-q"), ("containers", "rm")),
    "images": (("images", "ls", "-q"), ("images", "rm", "--sync")),
    "snapshots": (("snapshots", "ls"), ("snapshots", "rm")),
    "content": (("content", "ls", "-q"), ("content", "rm")),
    "leases": (("leases", "ls", "-q"), ("leases", "rm")),
}
# Docker lists and removes the rest of its own namespace.
DOCKERS, KINDS_BESIDE_DOCKER = "moby", ("images", "content")
SOCKET = "/run/containerd/containerd.sock"
Held = dict[str, dict[str, list[str]]]


def record() -> dict[str, Any]:
    return {"names": {top: names(top) for top in FOLDERS if os.path.isdir(top)}, "containerd": namespaces()}


def names(top: str, depth: int = 2) -> list[str]:
    """Paths below a folder, two levels deep; nothing is followed."""
    found = []
    if os.path.isdir(top) and not os.path.islink(top):
        with os.scandir(top) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                found.append(entry.path)
                if depth > 1 and entry.is_dir(follow_symlinks=False) and not os.path.ismount(entry.path):
                    found += names(entry.path, depth - 1)
    return found


def namespaces() -> Held | None:
    """By containerd's namespace what it holds; None where containerd does not run."""
    if shutil.which("ctr", path=SEARCH_PATH) is None or not os.path.exists(SOCKET):
        return None
    listed = run("ctr", "namespaces", "ls", "-q", timeout=30)
    if not listed.ok:
        raise StepFailed("containerd does not answer", [listed.tail()])
    return {
        name: {kind: _held(name, kind) for kind in (KINDS_BESIDE_DOCKER if name == DOCKERS else KINDS)}
        for name in sorted(listed.out.split())
    }


def _held(namespace: str, kind: str) -> list[str]:
    lines = run("ctr", "--namespace", namespace, *KINDS[kind][0], timeout=30).out.splitlines()
    rows = [line.split()[0] for line in lines if line.strip()]
    return sorted(row for row in rows if row not in ("KEY", "ID"))


def foreign_paths(before: dict[str, Any]) -> list[str]:
    """The outermost paths that enrolment did not see."""
    found: list[str] = []
    for top in FOLDERS:
        if top not in before["names"]:
            found += [top] if os.path.lexists(top) and top not in LAZY else []
            continue
        known = {*before["names"][top], *LAZY}
        fresh = [path for path in names(top) if path not in known]
        found += [path for path in fresh if os.path.dirname(path) not in fresh]
    return found


def foreign_objects(before: dict[str, Any], now: Held | None) -> list[tuple[str, str, str]]:
    """(namespace, kind, name) of what containerd holds and did not at enrolment."""
    recorded = before["containerd"] or {}
    return [
        (namespace, kind, name)
        for namespace, kinds in (now or {}).items()
        for kind, held in kinds.items()
        for name in held
        if name not in recorded.get(namespace, {}).get(kind, [])
    ]


def foreign_namespaces(before: dict[str, Any], now: Held | None) -> list[str]:
    known = {DOCKERS, *(before["containerd"] or {})}
    return [name for name in now or {} if name not in known]


def findings(before: dict[str, Any]) -> list[str]:
    now = namespaces()
    found = [f"engine storage not in the manifest: {path}" for path in foreign_paths(before)]
    found += [f"containerd {kind} in {where} not in the manifest: {name}"
              for where, kind, name in foreign_objects(before, now)]  # fmt: skip
    spaces = foreign_namespaces(before, now)
    return found + [f"containerd namespace {name} is not in the manifest" for name in spaces]


def clean(step: Step, before: dict[str, Any]) -> None:
    now = namespaces()
    objects, spaces = foreign_objects(before, now), foreign_namespaces(before, now)
    for namespace, kind, name in objects:
        step.gone(f"containerd {kind}", f"{namespace} {name}")
        if not step.check:
            run("ctr", "--namespace", namespace, *KINDS[kind][1], name, timeout=60)
    for namespace in spaces:
        step.gone("containerd namespaces", namespace)
        if not step.check:
            run("ctr", "namespaces", "rm", namespace, timeout=60)
    paths = foreign_paths(before)
    for path in paths:
        step.gone("engine storage", path)
        if not step.check:
            tracked.remove(Path(path))
    left = findings(before) if (objects or spaces or paths) and not step.check else []
    if left:
        raise StepFailed(f"engine storage is not as recorded: {left[0]}", left)
