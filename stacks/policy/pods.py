"""Rules about what runs in pods, also in the values of a chart and in the objects of an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from stacks.policy.subject import UNKNOWN, Config, Fault, Subject, at, entries, join, walk

TEMPLATES = {
    "Pod": ("spec",),
    "PodTemplate": ("template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
} | dict.fromkeys(
    ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"),
    ("spec", "template", "spec"),
)
WORKLOAD_GROUPS = ("core", "apps", "batch", "extensions")
CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
IMAGE_KEYS = ("image", "imageName")
HOST_KEYS = ("hostNetwork", "hostPID", "hostIPC")
DEMANDED = {"requests": ("cpu", "memory"), "limits": ("cpu", "memory")}


@dataclass(frozen=True)
class Allowance:
    """What one release may do that no other may. `resource` is a pattern of its name."""

    component: str
    resource: str
    powers: frozenset[str]
    reason: str

    def covers(self, subject: Subject, power: str) -> bool:
        return (
            power in self.powers
            and subject.component == self.component
            and fnmatchcase(subject.name, self.resource)
        )


ALLOWED = (
    Allowance(
        "ironyard:platform:Monitoring",
        "kube-prometheus-stack*",
        frozenset({"hostNetwork", "hostPID", "hostPath"}),
        "node exporter reads the node's own /proc, /sys and network counters",
    ),
    Allowance(
        "ironyard:platform:Gpu",
        "dcgm-exporter*",
        frozenset({"hostPath", "SYS_ADMIN"}),
        "the driver gives profiling counters to SYS_ADMIN only; pods are told by the kubelet's socket",
    ),
    Allowance(
        "ironyard:platform:Gpu",
        "gpu-operator*",
        frozenset({"privileged", "hostPath", "hostPID", "hostNetwork", "hostIPC", "SYS_ADMIN"}),
        "it installs the driver and the container runtime's GPU support on the node",
    ),
)


def is_workload(subject: Subject) -> bool:
    return subject.kind in TEMPLATES and subject.group in WORKLOAD_GROUPS


def pod(subject: Subject) -> tuple[str, Mapping[str, Any]] | None:
    """The path and the contents of a workload's pod specification."""
    if not is_workload(subject):
        return None
    keys = TEMPLATES[subject.kind]
    spec = at(subject.props, *keys)
    return (".".join(keys), spec) if isinstance(spec, Mapping) else None


def containers(subject: Subject) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The path and the contents of every container, init containers too."""
    found = pod(subject)
    if found is None:
        return
    path, spec = found
    for key in CONTAINERS:
        for number, container in entries(spec.get(key)):
            yield f"{path}.{key}[{number}]", container


def free_form(subject: Subject) -> Iterator[tuple[str, str, Any]]:
    """Everything below a chart's values, or below the object of a kind that Kubernetes does not define."""
    if subject.is_chart:
        yield from walk(subject.props.get("values"), "values")
    elif subject.in_cluster and "." in subject.group:
        yield from walk(subject.props.get("spec"), "spec")


def resources_are_set(subject: Subject, config: Config) -> Iterator[Fault]:
    """Each container says what it needs and what it may use.

    `requests` and `limits` of the configuration name what is demanded. What a chart sets by itself, no
    policy sees: only its values.
    """
    demanded = {part: tuple(config.get(part, names)) for part, names in DEMANDED.items()}
    for path, container in containers(subject):
        if not subject.is_patch:
            yield from _unset(container.get("resources") or {}, join(path, "resources"), demanded)
    for path, key, value in free_form(subject):
        if key == "resources" and isinstance(value, Mapping) and _is_compute(value):
            yield from _unset(value, path, demanded)


def _unset(given: Any, path: str, demanded: Mapping[str, tuple[str, ...]]) -> Iterator[Fault]:
    missing = [
        f"{part}.{name}"
        for part, names in demanded.items()
        for name in names
        if at(given, part, name) in (None, "")
    ]
    if missing:
        yield Fault(
            path,
            f"{', '.join(missing)} not set",
            "Set requests and limits, so that one pod cannot starve others",
        )


def _is_compute(given: Mapping[str, Any]) -> bool:
    """Not those of a volume claim, which asks for storage."""
    return any({"cpu", "memory"} & set(at(given, part) or {}) for part in DEMANDED if _is_map(given, part))


def _is_map(given: Mapping[str, Any], part: str) -> bool:
    return isinstance(given.get(part), Mapping)


def images_are_pinned(subject: Subject, _config: Config) -> Iterator[Fault]:
    """Each image has an exact tag or a digest."""
    for path, container in containers(subject):
        image = container.get("image")
        if image is UNKNOWN or (image is None and subject.is_patch):
            continue
        yield from _loose(image, join(path, "image"))
    for path, key, value in free_form(subject):
        if key in IMAGE_KEYS and isinstance(value, str) and value:
            if not subject.is_chart or value.endswith(":latest"):  # a chart may keep the tag beside it
                yield from _loose(value, path)
        elif key.lower() in ("tag", "imagetag") and value == "latest":
            yield Fault(path, "the tag is latest", "Name an exact version or a digest")


def _loose(image: Any, path: str) -> Iterator[Fault]:
    if not isinstance(image, str) or not image:
        yield Fault(path, "there is no image", "Name one with an exact tag or a digest")
    elif "@" not in image:
        _, colon, tag = image.rsplit("/", 1)[-1].partition(":")
        if not colon or not tag:
            yield Fault(path, f"{image} has no tag", "Name an exact version or a digest")
        elif tag == "latest":
            yield Fault(path, f"{image} is whatever is newest", "Name an exact version or a digest")


def pods_are_confined(subject: Subject, _config: Config) -> Iterator[Fault]:
    """Nothing reaches out of its container but what ALLOWED names."""
    if is_workload(subject):
        found = pod(subject)
        nested = walk(found[1], found[0]) if found else iter(())
    else:
        nested = free_form(subject)
    for path, key, value in nested:
        for power in _powers(key, value):
            if not any(one.covers(subject, power) for one in ALLOWED):
                yield Fault(
                    path,
                    f"{power} reaches out of the container",
                    "Do without it; what needs it is named with its reason in stacks/policy/pods.py",
                )


def _powers(key: str, value: Any) -> Iterator[str]:
    if key == "privileged" and value is True:
        yield "privileged"
    elif key in HOST_KEYS and value is True:
        yield key
    elif (key == "hostPath" and value) or value == "hostPath":
        yield "hostPath"
    elif key == "capabilities":
        added = at(value, "add")
        yield from (str(one) for one in added if one != "NET_BIND_SERVICE") if isinstance(added, list) else ()
