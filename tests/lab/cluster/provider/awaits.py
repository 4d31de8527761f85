"""When an object counts as ready: the rules by kind that the real provider follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.lab.cluster.provider.api import Api

SKIP = "pulumi.com/skipAwait"
TIMEOUT = "pulumi.com/timeoutSeconds"
DEFAULT_SECONDS = 600.0


class WillNotBeReady(Exception):
    """Waiting longer changes nothing."""


def pending(api: Api, live: dict[str, Any]) -> str | None:
    """What an object still lacks; None when it is ready.

    Raises WillNotBeReady when it has failed for good.
    """
    annotations = live["metadata"].get("annotations") or {}
    if annotations.get(SKIP) == "true":
        return None
    rule = RULES.get(live["kind"])
    return rule(api, live) if rule else None


def _condition(live: dict[str, Any], kind: str) -> dict[str, Any]:
    for condition in live.get("status", {}).get("conditions") or ():
        if condition["type"] == kind:
            return dict(condition)
    return {}


def _observed(live: dict[str, Any]) -> bool:
    return bool(live.get("status", {}).get("observedGeneration", 0) >= live["metadata"].get("generation", 0))


def _deployment(_: Api, live: dict[str, Any]) -> str | None:
    progressing = _condition(live, "Progressing")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        raise WillNotBeReady(progressing.get("message", "its progress deadline passed"))
    return _replicas(live, "updatedReplicas", "availableReplicas")


def _stateful_set(_: Api, live: dict[str, Any]) -> str | None:
    return _replicas(live, "updatedReplicas", "readyReplicas")


def _replicas(live: dict[str, Any], *counts: str) -> str | None:
    status, wanted = live.get("status", {}), live["spec"].get("replicas", 1)
    if not _observed(live):
        return "its controller has not seen it yet"
    short = [f"{status.get(c, 0)} of {wanted} {c}" for c in counts if status.get(c, 0) < wanted]
    return ", ".join(short) or None


def _daemon_set(_: Api, live: dict[str, Any]) -> str | None:
    status = live.get("status", {})
    wanted = status.get("desiredNumberScheduled", 0)
    if not _observed(live):
        return "its controller has not seen it yet"
    ready = min(status.get("numberReady", 0), status.get("updatedNumberScheduled", 0))
    return None if ready >= wanted else f"{ready} of {wanted} nodes run it"


def _job(_: Api, live: dict[str, Any]) -> str | None:
    failed = _condition(live, "Failed")
    if failed.get("status") == "True":
        raise WillNotBeReady(f"the job failed: {failed.get('message', '')}")
    return None if _condition(live, "Complete").get("status") == "True" else "the job has not completed"


def _pod(_: Api, live: dict[str, Any]) -> str | None:
    if live.get("status", {}).get("phase") == "Succeeded":
        return None
    return None if _condition(live, "Ready").get("status") == "True" else "the pod is not ready"


def _claim(api: Api, live: dict[str, Any]) -> str | None:
    if live.get("status", {}).get("phase") == "Bound":
        return None
    name = live["spec"].get("storageClassName")
    found = api.get(f"/apis/storage.k8s.io/v1/storageclasses/{name}") if name else None
    if found and found.get("volumeBindingMode") == "WaitForFirstConsumer":
        return None
    return "the claim is not bound to a volume"


def _service(api: Api, live: dict[str, Any]) -> str | None:
    spec, metadata = live["spec"], live["metadata"]
    if spec.get("type") == "LoadBalancer" and not live.get("status", {}).get("loadBalancer", {}).get(
        "ingress"
    ):
        return "the load balancer has no address"
    if not spec.get("selector") or spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
        return None
    slices = api.get(
        f"/apis/discovery.k8s.io/v1/namespaces/{metadata['namespace']}/endpointslices"
        f"?labelSelector=kubernetes.io/service-name%3D{metadata['name']}"
    )
    endpoints = [e for s in (slices or {}).get("items", ()) for e in s.get("endpoints") or ()]
    return None if any(e["conditions"].get("ready") for e in endpoints) else "no pod is behind the service"


def _definition(_: Api, live: dict[str, Any]) -> str | None:
    established = _condition(live, "Established").get("status") == "True"
    return None if established else "the definition is not established"


def _namespace(_: Api, live: dict[str, Any]) -> str | None:
    return None if live.get("status", {}).get("phase") == "Active" else "the namespace is not active"


RULES: dict[str, Callable[[Api, dict[str, Any]], str | None]] = {
    "CustomResourceDefinition": _definition,
    "DaemonSet": _daemon_set,
    "Deployment": _deployment,
    "Job": _job,
    "Namespace": _namespace,
    "PersistentVolumeClaim": _claim,
    "Pod": _pod,
    "Service": _service,
    "StatefulSet": _stateful_set,
}
