"""Queueing of workloads: Kueue, which admits what a workspace's quota allows."""

from __future__ import annotations

import json
from typing import Any, Literal

import pulumi

from stacks.components.base import Component, ComponentSettings, Platform, Resources, without_registry
from stacks.components.monitoring import Monitoring
from stacks.components.network import MONITORING, Allow, guard, metrics
from stacks.tenancy.names import WORKSPACE_ID
from stacks.versions import KUEUE

NAMESPACE = "kueue-system"
FRAMEWORKS = ("batch/job", "jobset.x-k8s.io/jobset", "pod", "deployment", "statefulset")
IMAGE = "registry.k8s.io/kueue/kueue"


class QueueingSettings(ComponentSettings):
    """Quotas and queues of the cluster's workloads. `external`: a Kueue that exists."""

    mode: Literal["kueue", "external", "off"] = "kueue"
    frameworks: tuple[str, ...] = FRAMEWORKS
    resources: Resources = Resources(cpu="200m", memory="512Mi", cpu_limit="2")


class Queueing(Component[QueueingSettings]):
    """Kueue, and in `ready` what comes before its queues."""

    section = "queueing"
    settings_type = QueueingSettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform, *, monitoring: Monitoring) -> None:
        super().__init__(platform)
        self.ready: list[pulumi.Resource] = []
        if self.settings.mode == "kueue":
            self._install(monitoring)
        self.register_outputs({"enabled": self.settings.enabled})

    def _install(self, monitoring: Monitoring) -> None:
        space = self.create_namespace(NAMESPACE)
        closed = guard(
            self,
            NAMESPACE,
            [Allow("api-server", ports=(9443, 8082), anywhere=True), metrics(8443)],
            after=[space],
        )
        release = self.install(
            KUEUE,
            namespace=NAMESPACE,
            values=self._values(monitoring),
            after=[*monitoring.definitions, *closed],
        )
        self.ready = [release]

    def _values(self, monitoring: Monitoring) -> dict[str, Any]:
        manager: dict[str, Any] = {"resources": self.settings.resources.render()}
        if mirror := self.platform.cluster.images:
            manager["image"] = {
                "repository": f"{mirror}/{without_registry(IMAGE)}",
                "pullPolicy": "IfNotPresent",
            }
        return {
            "enablePrometheus": monitoring.watches,
            "metrics": {"prometheusNamespace": MONITORING},
            "controllerManager": {
                "replicas": self.platform.replicas,
                "podDisruptionBudget": {"enabled": self.platform.cluster.high_availability},
                "manager": manager,
            },
            # the chart parses this text again for its webhooks: JSON is YAML
            "managerConfig": {"controllerManagerConfigYaml": json.dumps(self._configuration(), indent=2)},
        }

    def _configuration(self) -> dict[str, Any]:
        """Only namespaces of workspaces are managed: Kueue must not hold up the platform's own pods."""
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": ":8081"},
            "metrics": {"bindAddress": ":8443", "enableClusterQueueResources": True},
            "webhook": {"port": 9443},
            "leaderElection": {"leaderElect": True, "resourceName": "c1f6bfd2.kueue.x-k8s.io"},
            "clientConnection": {"qps": 300, "burst": 500},
            "managedJobsNamespaceSelector": {
                "matchExpressions": [{"key": WORKSPACE_ID, "operator": "Exists"}]
            },
            "integrations": {"frameworks": list(self.settings.frameworks)},
        }
