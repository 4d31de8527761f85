"""Kueue's side of a tenant: flavors of GPU models, and the queues that hold a workspace to its quota."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource

from stacks.components.base import MANAGED
from stacks.settings import ConfigurationError
from stacks.tenancy.names import WORKSPACE_ID, name_of, product_of
from stacks.tenancy.settings import PROJECT, GpusSettings, QueueingSettings
from stacks.tenancy.snapshot import WorkspaceRecord

API_VERSION = "kueue.x-k8s.io/v1beta2"
MOST_FLAVORS = 64  # of a ClusterQueue, says its definition
# Kueue keeps a queue until its last workload has ended; an update need not wait for that.
DETACHED = {"pulumi.com/skipAwait": "true"}


def flavor_name(gpus: GpusSettings, model: str) -> str:
    known = gpus.models.get(model)
    return known.flavor if known and known.flavor else name_of(model)


def flavor_names(gpus: GpusSettings, models: Iterable[str]) -> dict[str, str]:
    """Model → name of its flavor. Raises ConfigurationError where a configured name is another model's."""
    names: dict[str, str] = {}
    for model in sorted(models):
        name = flavor_name(gpus, model)
        twin = next((other for other, taken in names.items() if taken == name), None)
        if twin is not None:
            fault = f"{PROJECT}:gpus.models: {model!r} and {twin!r} would both have the flavor {name}"
            raise ConfigurationError(PROJECT, [fault])
        names[model] = name
    return names


def resource_flavors(
    queueing: QueueingSettings, gpus: GpusSettings, flavors: dict[str, str], opts: pulumi.ResourceOptions
) -> list[CustomResource]:
    """One flavor for CPU and memory on any node, and one for each GPU model on the nodes that have it."""
    made = [_custom("ResourceFlavor", queueing.default_flavor, {}, opts)]
    for model, name in flavors.items():
        known = gpus.models.get(model)
        product = (known.product if known else None) or product_of(model)
        made.append(_custom("ResourceFlavor", name, {"nodeLabels": {gpus.label: product}}, opts))
    return made


def cluster_queue(
    name: str,
    workspace: WorkspaceRecord,
    *,
    queueing: QueueingSettings,
    gpu_resource: str,
    flavors: dict[str, str],
    general: dict[str, str],
    opts: pulumi.ResourceOptions,
) -> CustomResource:
    """The workspace's share of the cluster. `general`: CPU and memory; `flavors`: model → flavor."""
    groups = [_group(list(general), {queueing.default_flavor: general})]
    if flavors:
        shares = {flavor: {gpu_resource: str(workspace.quota.of(model))} for model, flavor in flavors.items()}
        groups.append(_group([gpu_resource], shares))
    spec = {
        "cohortName": queueing.cohort,
        "namespaceSelector": {"matchLabels": {WORKSPACE_ID: str(workspace.id)}},
        "queueingStrategy": "BestEffortFIFO",
        "preemption": {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Never"},
        "resourceGroups": groups,
    }
    return _custom("ClusterQueue", name, spec, opts, labels={WORKSPACE_ID: str(workspace.id)})


def local_queue(
    name: str, namespace: str, queue: str, labels: dict[str, str], opts: pulumi.ResourceOptions
) -> CustomResource:
    return _custom("LocalQueue", name, {"clusterQueue": queue}, opts, namespace=namespace, labels=labels)


def check_number(workspace: WorkspaceRecord, models: list[str]) -> None:
    """Raises ConfigurationError where a queue would have more flavors than Kueue takes."""
    if len(models) > MOST_FLAVORS:
        fault = (
            f"workspace {workspace.slug}: the fleet and its quota have {len(models)} GPU models, Kueue takes "
            f"{MOST_FLAVORS}; take models that no host has out of its quota"
        )
        raise ConfigurationError(PROJECT, [fault])


def _group(resources: list[str], shares: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Nobody borrows from the cohort: the ledger's quota is what a workspace may hold."""
    return {
        "coveredResources": resources,
        "flavors": [
            {
                "name": flavor,
                "resources": [
                    {"name": resource, "nominalQuota": share[resource], "borrowingLimit": "0"}
                    for resource in resources
                ],
            }
            for flavor, share in shares.items()
        ],
    }


def _custom(
    kind: str,
    name: str,
    spec: dict[str, Any],
    opts: pulumi.ResourceOptions,
    *,
    namespace: str | None = None,
    labels: dict[str, str] | None = None,
) -> CustomResource:
    metadata: dict[str, Any] = {"name": name, "labels": MANAGED | (labels or {}), "annotations": DETACHED}
    if namespace:
        metadata["namespace"] = namespace
    return CustomResource(
        "-".join(part for part in (namespace, name, kind.lower()) if part),
        api_version=API_VERSION,
        kind=kind,
        metadata=metadata,
        spec=spec,
        opts=opts,
    )
