"""GPUs of the cluster's own nodes: their metrics, and with the GPU operator their driver and toolkit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import pulumi_kubernetes as kubernetes
from pydantic import Field

from stacks.components.base import (
    MANAGED,
    Component,
    ComponentSettings,
    Platform,
    Resources,
    without_registry,
)
from stacks.components.monitoring import Monitoring
from stacks.components.network import guard, metrics
from stacks.components.prometheus import BY_NODE
from stacks.settings import Name
from stacks.versions import DCGM_EXPORTER, GPU_OPERATOR

NAMESPACE = "ironyard-gpu"
COUNTERS = Path(__file__).resolve().parents[2] / "templates" / "dcgm" / "counters.csv"
KEY = "dcgm-metrics.csv"  # the name that the GPU operator expects
FOLDER = "/etc/ironyard"
EXPORTER_IMAGE = "nvcr.io/nvidia/k8s/dcgm-exporter"
NODE_IMAGE = "registry.k8s.io/nfd/node-feature-discovery"
# value of the operator's chart → where its image comes from
REPOSITORIES = {
    "nvcr.io/nvidia": ("operator", "validator", "driver", "devicePlugin", "gfd", "nodeStatusExporter"),
    "nvcr.io/nvidia/k8s": ("toolkit", "dcgmExporter"),
    "nvcr.io/nvidia/cloud-native": ("migManager", "dcgm", "ccManager", "vfioManager", "vgpuDeviceManager"),
}
SMALL = Resources(cpu="50m", memory="256Mi", cpu_limit="500m")
BUILDER = Resources(cpu="500m", memory="4Gi", cpu_limit="4")


class GpuSettings(ComponentSettings):
    """What runs on the cluster's GPU nodes.

    `dcgm-exporter` reads metrics where the driver is there already; `gpu-operator` brings driver, container
    toolkit and device plugin as well.
    """

    mode: Literal["dcgm-exporter", "gpu-operator", "off"] = "dcgm-exporter"
    node_selector: dict[str, str] = Field(
        default={"nvidia.com/gpu.present": "true"}, description="nodes that dcgm-exporter runs on"
    )
    runtime_class: Name | None = Field(default=None, description="of dcgm-exporter; absent: the default one")
    interval: str = Field(default="15s", pattern=r"^\d+(s|m)$", description="between two readings")
    install_driver: bool = Field(default=True, description="gpu-operator: bring the driver")
    install_toolkit: bool = Field(default=True, description="gpu-operator: bring the container toolkit")
    discover_nodes: bool = Field(default=True, description="gpu-operator: bring node feature discovery")
    resources: Resources = Resources(cpu="100m", memory="512Mi", cpu_limit="500m")


class Gpu(Component[GpuSettings]):
    """The namespace is privileged: drivers and profiling counters need the node."""

    section = "gpu"
    settings_type = GpuSettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform, *, monitoring: Monitoring) -> None:
        super().__init__(platform)
        if self.settings.enabled:
            self._install(monitoring)
        self.register_outputs({"mode": self.settings.mode})

    def _install(self, monitoring: Monitoring) -> None:
        space = self.create_namespace(NAMESPACE, security="privileged")
        closed = guard(self, NAMESPACE, [metrics(9400, 8080)], after=[space])
        counters = self._counters(space)
        operator = self.settings.mode == "gpu-operator"
        self.install(
            GPU_OPERATOR if operator else DCGM_EXPORTER,
            namespace=NAMESPACE,
            values=self._operator(monitoring) if operator else self._exporter(monitoring),
            after=[*monitoring.definitions, *closed, counters],
        )

    def _counters(self, space: kubernetes.core.v1.Namespace) -> kubernetes.core.v1.ConfigMap:
        return kubernetes.core.v1.ConfigMap(
            f"{NAMESPACE}-counters",
            metadata={"name": self.counters_name, "namespace": NAMESPACE, "labels": MANAGED},
            data={KEY: COUNTERS.read_text()},
            opts=self.options(after=[space]),
        )

    @property
    def counters_name(self) -> str:
        """Another list has another name, so that the exporters start again with it."""
        return f"counters-{hashlib.sha256(COUNTERS.read_bytes()).hexdigest()[:8]}"

    def _monitor(self, monitoring: Monitoring) -> dict[str, Any]:
        return {
            "enabled": monitoring.watches,
            "interval": self.settings.interval,
            "scrapeTimeout": "10s",
            "relabelings": BY_NODE,
        }

    def _exporter(self, monitoring: Monitoring) -> dict[str, Any]:
        values: dict[str, Any] = {
            "arguments": ["-f", f"{FOLDER}/{KEY}"],
            "extraConfigMapVolumes": [{"name": "counters", "configMap": {"name": self.counters_name}}],
            "extraVolumeMounts": [{"name": "counters", "mountPath": FOLDER, "readOnly": True}],
            "nodeSelector": self.settings.node_selector,
            "tolerations": [{"operator": "Exists"}],
            "runtimeClassName": self.settings.runtime_class or "",
            "resources": self.settings.resources.render(),
            "serviceMonitor": {
                **self._monitor(monitoring),
                "metricRelabelings": [{"action": "labeldrop", "regex": "Hostname"}],
            },
        }
        if self.platform.cluster.images:
            values["image"] = {"repository": self.platform.image(EXPORTER_IMAGE)}
        return values

    def _operator(self, monitoring: Monitoring) -> dict[str, Any]:
        settings, small = self.settings, SMALL.render()
        values: dict[str, Any] = {
            "nfd": {"enabled": settings.discover_nodes},
            "driver": {"enabled": settings.install_driver, "resources": BUILDER.render()},
            "toolkit": {"enabled": settings.install_toolkit, "resources": small},
            "dcgmExporter": {
                "enabled": True,
                "config": {"name": self.counters_name},
                "resources": settings.resources.render(),
                "serviceMonitor": self._monitor(monitoring),
            },
            "operator": {"resources": small},
            "validator": {"resources": small},
            "devicePlugin": {"resources": small},
            "gfd": {"resources": small},
            "migManager": {"resources": small},
        }
        if self.platform.cluster.images:
            self._take_from_mirror(values)
        return values

    def _take_from_mirror(self, values: dict[str, Any]) -> None:
        mirror = self.platform.cluster.images
        for repository, parts in REPOSITORIES.items():
            for part in parts:
                values.setdefault(part, {})["repository"] = f"{mirror}/{without_registry(repository)}"
        for part in ("driver", "vfioManager"):
            values[part]["manager" if part == "driver" else "driverManager"] = {
                "repository": f"{mirror}/nvidia/cloud-native"
            }
        values["node-feature-discovery"] = {"image": {"repository": self.platform.image(NODE_IMAGE)}}
