"""Containers, images, volumes and networks of the engines that a GPU host runs."""

from __future__ import annotations

import os
import shutil
from typing import Any

from ansible.module_utils.steps import SEARCH_PATH, Step, StepFailed, run

ENGINES = ("docker", "podman")
BUILT_IN_NETWORKS = {"bridge", "host", "none", "podman"}
LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "docker": {
        "containers": ("ps", "-a", "-q", "--no-trunc"),
        "images": ("images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"),
        "volumes": ("volume", "ls", "-q"),
        "networks": ("network", "ls", "--format", "{{.Name}}"),
        "plugins": ("plugin", "ls", "-q", "--no-trunc"),
        "swarms": ("info", "--format", "{{.Swarm.NodeID}}"),
    },
    "podman": {
        "containers": ("ps", "-a", "-q", "--no-trunc"),
        "images": ("images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"),
        "volumes": ("volume", "ls", "-q"),
        "networks": ("network", "ls", "--format", "{{.Name}}"),
        "pods": ("pod", "ls", "-q", "--no-trunc"),
        "secrets": ("secret", "ls", "--format", "{{.Name}}"),
    },
}
SWARM = "/var/lib/docker/swarm/docker-state.json"
# In the order of removal. A swarm starts its services again, so it goes first.
REMOVE: dict[str, tuple[str, ...]] = {
    "swarms": ("swarm", "leave", "--force"),
    "pods": ("pod", "rm", "-f"),
    "containers": ("rm", "-f", "-v"),
    "networks": ("network", "rm"),
    "volumes": ("volume", "rm", "-f"),
    "plugins": ("plugin", "rm", "-f"),
    "secrets": ("secret", "rm"),
    "tags": ("rmi",),
    "images": ("rmi", "-f"),
}
WITHOUT_NAMES = ("swarms",)
PRUNE = {"docker": ("builder", "prune", "-a", "-f"), "podman": ("image", "prune", "-f")}


def installed() -> list[str]:
    return [engine for engine in ENGINES if shutil.which(engine, path=SEARCH_PATH)]


def answers(engine: str) -> bool:
    return run(engine, *LISTS[engine]["containers"], timeout=60).ok


def inventory(engine: str) -> dict[str, list[str]] | None:
    """What the engine holds, or None when it does not answer. ``tags`` are 'name:tag=image'."""
    held = {}
    for kind, words in LISTS[engine].items():
        if kind == "swarms" and not os.path.exists(SWARM):  # asking costs as much as all the rest
            held[kind] = []
            continue
        listed = run(engine, *words, timeout=60)
        if not listed.ok:
            return None
        lines = [line.strip() for line in listed.out.splitlines() if line.strip()]
        if kind == "images":
            rows = [line.split(maxsplit=1) for line in lines]
            held["tags"] = sorted(f"{name}={image}" for image, name in rows if "<none>" not in name)
            lines = [image for image, _ in rows]
        held[kind] = sorted(set(lines) - (BUILT_IN_NETWORKS if kind == "networks" else set()))
    return held


def inventories() -> dict[str, Any]:
    return {engine: inventory(engine) for engine in installed()}


def foreign(manifest: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Per engine and kind what enrolment did not see.

    An engine that answered then and is silent now is a failure.
    """
    found = {}
    for engine, held in inventories().items():
        before = manifest["engines"].get(engine)
        if held is None and (before is not None or engine not in manifest["engines"]):
            raise StepFailed(f"{engine} does not answer: its containers and images cannot be checked")
        known = before or {}
        found[engine] = {
            kind: sorted(set(ids) - set(known.get(kind, []))) for kind, ids in (held or {}).items()
        }
    silent = [e for e, held in manifest["engines"].items() if held is not None and e not in found]
    if silent:
        raise StepFailed(
            f"{', '.join(silent)} was there at enrolment and is gone: what it left cannot be checked"
        )
    return found


def stop(step: Step, manifest: dict[str, Any]) -> None:
    """End the foreign containers, restart policies included (removal follows in `wipe`)."""
    for engine, kinds in foreign(manifest).items():
        if not kinds.get("containers"):
            continue
        running = set(run(engine, "ps", "-q", "--no-trunc", timeout=60).out.split())
        for container in kinds.get("containers", []):
            if container not in running:
                continue
            step.gone("running containers", f"{engine} {container[:12]}")
            if not step.check:
                run(engine, "update", "--restart=no", container)
                killed = run(engine, "kill", container)
                if not killed.ok and container in run(engine, "ps", "-q", "--no-trunc").out:
                    raise StepFailed(f"{engine} cannot stop container {container[:12]}", [killed.tail()])


def clean(step: Step, manifest: dict[str, Any]) -> None:
    """Remove what enrolment did not see, put recorded tags back, then empty the build cache."""
    found = foreign(manifest)
    for engine, kinds in found.items():
        for kind, words in REMOVE.items():
            ids = kinds.get(kind, [])
            for name in ids:
                step.gone(kind, f"{engine} {name[:72]}")
            if ids and not step.check:
                names = [] if kind in WITHOUT_NAMES else [name.split("=")[0] for name in ids]
                run(engine, *words, *names, timeout=300)
        if kinds and not step.check:
            run(engine, *PRUNE[engine], timeout=300)
            tag(step, engine, manifest)
    if step.check or not any(ids for kinds in found.values() for ids in kinds.values()):
        return
    left = {engine: {k: v for k, v in kinds.items() if v} for engine, kinds in foreign(manifest).items()}
    still = [
        f"{engine} {kind}: {', '.join(ids)}" for engine, kinds in left.items() for kind, ids in kinds.items()
    ]
    if still:
        raise StepFailed("containers, images or volumes could not be removed", still)


def tag(step: Step, engine: str, manifest: dict[str, Any]) -> None:
    """A recorded name that a tenant took from an image, or gave to another."""
    recorded = (manifest["engines"].get(engine) or {}).get("tags", [])
    now = (inventory(engine) or {}).get("tags", []) if recorded else []
    for name in recorded:
        if name not in now:
            reference, _, image = name.partition("=")
            step.did(f"tagged again: {reference}")
            run(engine, "tag", image, reference)
