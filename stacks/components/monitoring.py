"""Monitoring: Prometheus, Alertmanager and Grafana, with our rules, dashboards and bare-metal hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import pulumi
import pulumi_kubernetes as kubernetes
import yaml
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import MANAGED, Component, ComponentSettings, Platform
from stacks.components.network import GATEWAY, Allow, guard
from stacks.components.network import MONITORING as NAMESPACE
from stacks.components.prometheus import (
    GRAFANA_SECRET,
    RECEIVERS_SECRET,
    WEBHOOK_KEY,
    AlertmanagerSettings,
    GrafanaSettings,
    PrometheusSettings,
    values,
)
from stacks.scrape import TOKEN_KEY, TOKEN_SECRET, scrape_configs
from stacks.settings import Frozen, HttpAddress, Name
from stacks.versions import PROMETHEUS_CRDS, PROMETHEUS_STACK

if TYPE_CHECKING:
    from stacks.components.gateway import Gateway

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
STACK = PROMETHEUS_STACK.name


class HostDiscovery(Frozen):
    """Where Prometheus learns of the enrolled hosts."""

    enabled: bool = True
    facade_url: HttpAddress = "http://ironyard-api.ironyard-system.svc:8080"
    token: SecretStr | None = Field(
        default=None, description="discovery token of a facade elsewhere; absent: one is made for this one"
    )


class ExternalPrometheus(Frozen):
    """A Prometheus that exists. `labels` are what its operator selects objects by."""

    url: HttpAddress
    install_objects: bool = Field(default=False, description="its operator takes rules and scrape objects")
    namespace: Name = NAMESPACE
    labels: dict[str, str] = Field(default_factory=dict)


class MonitoringSettings(ComponentSettings):
    """Metrics, alerts and dashboards."""

    mode: Literal["kube-prometheus-stack", "external", "off"] = "kube-prometheus-stack"
    prometheus: PrometheusSettings = PrometheusSettings()
    alertmanager: AlertmanagerSettings = AlertmanagerSettings()
    grafana: GrafanaSettings = GrafanaSettings()
    hosts: HostDiscovery = HostDiscovery()
    control_plane: bool = Field(
        default=False, description="watch scheduler, controller manager, etcd, kube-proxy where they let it"
    )
    external: ExternalPrometheus | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: url")
        return self


@dataclass(frozen=True)
class Discovery:
    """How Prometheus asks the facade for the hosts: the facade must take this token."""

    url: str
    token: pulumi.Output[str] = field(repr=False)


class Monitoring(Component[MonitoringSettings]):
    """Prometheus's definitions first: where it `watches`, a ServiceMonitor may follow `definitions`."""

    section = "monitoring"
    settings_type = MonitoringSettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self.definitions: list[pulumi.Resource] = []
        self.ready: list[pulumi.Resource] = []
        self.watches = False
        self.url: str | None = None
        self.grafana_password: pulumi.Output[str] | None = None
        self.discovery: Discovery | None = None
        self._closed: list[pulumi.Resource] = []
        external = self.settings.external if self.settings.mode == "external" else None
        if external is not None:
            self.url, self.watches = external.url, external.install_objects
            if external.install_objects:
                space = [self.create_namespace(external.namespace)] if external.namespace == NAMESPACE else []
                self._register_objects(external.namespace, external.labels, after=space)
        elif self.settings.enabled:
            self._install()
        self.register_outputs({"url": self.url, "grafana": self.grafana_address})

    def publish(self, gateway: Gateway) -> None:
        """Give Grafana its public name."""
        if self.settings.mode == STACK and self.settings.grafana.enabled:
            gateway.route(
                "grafana",
                host=self.platform.host("grafana"),
                namespace=NAMESPACE,
                service=f"{STACK}-grafana",
                port=80,
                after=self.ready,
            )

    @property
    def grafana_address(self) -> str | None:
        """Where a browser finds Grafana."""
        shown = self.settings.mode == STACK and self.settings.grafana.enabled
        return f"https://{self.platform.host('grafana')}" if shown else None

    def _install(self) -> None:
        # node exporter reads the node's own counters: host network, host processes, host paths
        space = self.create_namespace(NAMESPACE, security="privileged")
        self._closed = guard(self, NAMESPACE, ALLOWED, after=[space])
        definitions = self.install(PROMETHEUS_CRDS, namespace=NAMESPACE, values={}, after=self._closed)
        self.definitions, self.watches = [definitions], True
        self.url = f"http://{STACK}-prometheus.{NAMESPACE}.svc:9090"
        settings = self.settings
        release = self.install(
            PROMETHEUS_STACK,
            namespace=NAMESPACE,
            values=values(
                self.platform,
                settings.prometheus,
                settings.alertmanager,
                settings.grafana,
                control_plane=settings.control_plane,
            ),
            after=[definitions, *self._secrets(space)],
            skip_crds=True,
        )
        self.ready = [release]
        if settings.grafana.enabled:
            self._register_dashboards(space)
        # after the stack: its admission webhook checks them
        self._register_objects(NAMESPACE, {}, after=[release])

    def _secrets(self, space: pulumi.Resource) -> list[pulumi.Resource]:
        made: list[pulumi.Resource] = []
        if self.settings.grafana.enabled:
            self.grafana_password = self.generate("grafana-password", length=24)
            account: dict[str, pulumi.Input[str]] = {
                "admin-user": "admin",
                "admin-password": self.grafana_password,
            }
            made.append(self.create_secret(GRAFANA_SECRET, namespace=NAMESPACE, data=account, after=[space]))
        webhook = self.settings.alertmanager.webhook
        if self.settings.alertmanager.enabled and webhook is not None:
            address = {WEBHOOK_KEY: webhook.get_secret_value()}
            made.append(
                self.create_secret(RECEIVERS_SECRET, namespace=NAMESPACE, data=address, after=[space])
            )
        return made

    def _register_objects(
        self, namespace: str, labels: dict[str, str], *, after: list[pulumi.Resource]
    ) -> None:
        for path in sorted((TEMPLATES / "prometheus").glob("*.yaml")):
            self.custom(
                "monitoring.coreos.com/v1",
                "PrometheusRule",
                f"ironyard-{path.stem}",
                namespace=namespace,
                labels=labels,
                spec=yaml.safe_load(path.read_text()),
                after=after,
            )
        if self.settings.hosts.enabled:
            self._find_hosts(namespace, labels, after)

    def _find_hosts(self, namespace: str, labels: dict[str, str], after: list[pulumi.Resource]) -> None:
        hosts = self.settings.hosts
        token = (
            pulumi.Output.secret(hosts.token.get_secret_value())
            if hosts.token
            else self.generate("discovery-token", length=40)
        )
        self.discovery = Discovery(hosts.facade_url, token)
        secret = self.create_secret(TOKEN_SECRET, namespace=namespace, data={TOKEN_KEY: token}, after=after)
        for config in scrape_configs(hosts.facade_url):
            self.custom(
                config["apiVersion"],
                config["kind"],
                config["metadata"]["name"],
                namespace=namespace,
                labels=labels,
                spec=config["spec"],
                after=[secret],
            )

    def _register_dashboards(self, space: pulumi.Resource) -> None:
        for path in sorted((TEMPLATES / "grafana").glob("*.json")):
            kubernetes.core.v1.ConfigMap(
                f"{NAMESPACE}-dashboard-{path.stem}",
                metadata={
                    "name": f"dashboard-{path.stem}",
                    "namespace": NAMESPACE,
                    "labels": MANAGED | {"grafana_dashboard": "1"},
                },
                data={f"ironyard-{path.stem}.json": path.read_text()},
                opts=self.options(after=[space]),
            )


ALLOWED: list[Allow] = [
    Allow("webhook", pods={"app": f"{STACK}-operator"}, ports=(10250,), anywhere=True),
    Allow(
        "queries",
        namespaces=("ironyard-system",),
        pods={"app.kubernetes.io/name": "prometheus"},
        ports=(9090,),
    ),
    Allow("grafana", namespaces=(GATEWAY,), pods={"app.kubernetes.io/name": "grafana"}, ports=(3000,)),
]
