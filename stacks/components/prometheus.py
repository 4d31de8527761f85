"""Values of kube-prometheus-stack: Prometheus, Alertmanager, Grafana and the exporters of the cluster."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, SecretStr

from stacks.components.base import Platform, Resources
from stacks.settings import Frozen, Quantity

GRAFANA_SECRET = "grafana-admin"  # noqa: S105  # a name, not a value
RECEIVERS_SECRET = "alertmanager-receivers"  # noqa: S105
WEBHOOK_KEY = "webhook"
SELECTORS = ("rule", "serviceMonitor", "podMonitor", "probe", "scrapeConfig")
FULL_AT = 0.85  # share of the volume; the write-ahead log needs the rest
# series of a node are told by its name, as those of bare-metal hosts are by the ledger's
BY_NODE = [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "hostname"}]
SMALL = Resources(cpu="50m", memory="128Mi", cpu_limit="500m")
MEBIBYTES = {"": 2**-20, "k": 1e3 / 2**20, "M": 1e6 / 2**20, "G": 1e9 / 2**20, "T": 1e12 / 2**20}
MEBIBYTES |= {"Ki": 2**-10, "Mi": 1, "Gi": 2**10, "Ti": 2**20}


class PrometheusSettings(Frozen):
    """How much is kept, and for how long."""

    retention: str = Field(default="15d", pattern=r"^\d+(h|d|w|y)$")
    size: Quantity = Field(default="50Gi", description="of the volume; the oldest goes when it is 85 % full")
    resources: Resources = Resources(cpu="500m", memory="2Gi", cpu_limit="4", memory_limit="4Gi")


class AlertmanagerSettings(Frozen):
    """Who is told. `webhook` is an address that takes Alertmanager's own JSON."""

    enabled: bool = True
    webhook: SecretStr | None = None
    least: Literal["warning", "critical"] = Field(default="warning", description="severity that is told")
    repeat: str = Field(default="12h", pattern=r"^\d+(m|h|d)$")
    size: Quantity = "1Gi"
    resources: Resources = SMALL


class GrafanaSettings(Frozen):
    """Dashboards, at `grafana.<domain>`; the administrator's password is made for it."""

    enabled: bool = True
    size: Quantity = "5Gi"
    resources: Resources = Resources(cpu="100m", memory="512Mi", cpu_limit="1")


def values(
    platform: Platform,
    prometheus: PrometheusSettings,
    alertmanager: AlertmanagerSettings,
    grafana: GrafanaSettings,
    *,
    control_plane: bool,
) -> dict[str, Any]:
    """The chart's values; the definitions are in a release of their own."""
    small = SMALL.render()
    return {
        "crds": {"enabled": False},
        "global": {"imageRegistry": platform.cluster.images or ""},
        "prometheusOperator": {
            "resources": small,
            "prometheusConfigReloader": {"resources": small},
            "admissionWebhooks": {"patch": {"resources": small}},
        },
        "prometheus": _prometheus(platform, prometheus),
        "alertmanager": _alertmanager(platform, alertmanager),
        "grafana": _grafana(platform, grafana),
        "kube-state-metrics": {"resources": small},
        "prometheus-node-exporter": {
            "resources": small,
            "prometheus": {"monitor": {"relabelings": BY_NODE}},
        },
        **{part: {"enabled": control_plane} for part in CONTROL_PLANE},
    }


CONTROL_PLANE = ("kubeControllerManager", "kubeScheduler", "kubeEtcd", "kubeProxy")


def _prometheus(platform: Platform, settings: PrometheusSettings) -> dict[str, Any]:
    everything = {f"{kind}SelectorNilUsesHelmValues": False for kind in SELECTORS}
    return {
        "podDisruptionBudget": {"enabled": platform.cluster.high_availability},
        "prometheusSpec": {
            **everything,
            "replicas": platform.replicas,
            "retention": settings.retention,
            "retentionSize": retention_size(settings.size),
            "resources": settings.resources.render(),
            "storageSpec": _claim(platform, settings.size),
        },
    }


def _alertmanager(platform: Platform, settings: AlertmanagerSettings) -> dict[str, Any]:
    if not settings.enabled:
        return {"enabled": False}
    spec = {
        "replicas": platform.replicas,
        "resources": settings.resources.render(),
        "storage": _claim(platform, settings.size),
        "secrets": [RECEIVERS_SECRET] if settings.webhook else [],
    }
    return {
        "podDisruptionBudget": {"enabled": platform.cluster.high_availability},
        "alertmanagerSpec": spec,
        "config": _receivers(settings),
    }


def _receivers(settings: AlertmanagerSettings) -> dict[str, Any]:
    receivers: list[dict[str, Any]] = [{"name": "null"}]
    routes = [{"receiver": "null", "matchers": ['alertname =~ "Watchdog|InfoInhibitor"']}]
    if settings.webhook:
        address = f"/etc/alertmanager/secrets/{RECEIVERS_SECRET}/{WEBHOOK_KEY}"
        receivers.append(
            {"name": "webhook", "webhook_configs": [{"url_file": address, "send_resolved": True}]}
        )
        told = "critical" if settings.least == "critical" else "warning|critical"
        routes.append({"receiver": "webhook", "matchers": [f'severity =~ "{told}"']})
    return {
        "route": {
            "receiver": "null",
            "group_by": ["alertname", "hostname", "namespace"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": settings.repeat,
            "routes": routes,
        },
        "receivers": receivers,
    }


def _grafana(platform: Platform, settings: GrafanaSettings) -> dict[str, Any]:
    if not settings.enabled:
        return {"enabled": False}
    host = platform.host("grafana")
    return {
        "admin": {
            "existingSecret": GRAFANA_SECRET,
            "userKey": "admin-user",
            "passwordKey": "admin-password",
        },
        "resources": settings.resources.render(),
        "sidecar": {"resources": SMALL.render()},
        # its database is one file: never two at once
        "deploymentStrategy": {"type": "Recreate"},
        "persistence": {
            "enabled": True,
            "size": settings.size,
            **(
                {"storageClassName": platform.cluster.storage_class} if platform.cluster.storage_class else {}
            ),
        },
        "initChownData": {"enabled": False},
        "testFramework": {"enabled": False},
        "grafana.ini": {
            "server": {"domain": host, "root_url": f"https://{host}"},
            "analytics": {"reporting_enabled": False, "check_for_updates": False},
            "users": {"allow_sign_up": False},
        },
    }


def _claim(platform: Platform, size: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
    }
    if platform.cluster.storage_class:
        spec["storageClassName"] = platform.cluster.storage_class
    return {"volumeClaimTemplate": {"spec": spec}}


def retention_size(size: str) -> str:
    """What Prometheus may keep on a volume of `size` (a quantity): `50Gi` → `43520MiB`."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", size)
    assert found is not None, size
    return f"{int(float(found[1]) * MEBIBYTES[found[2]] * FULL_AT)}MiB"
