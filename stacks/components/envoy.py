"""What Envoy Gateway is told: its chart's values and the objects that say how connections are taken."""

from __future__ import annotations

from typing import Any

from stacks.components.base import Platform, Resources
from stacks.tenancy.names import WORKSPACE_ID
from stacks.versions import ENVOY

GATEWAY_API = "gateway.networking.k8s.io"
ENVOY_API = "gateway.envoyproxy.io"
CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
PODS = {"app.kubernetes.io/name": "envoy"}
PORTS = (10080, 10443)  # of the pods, for 80 and 443 of their service
METRICS_PORT = 19001

TO_HTTPS: dict[str, Any] = {
    "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]
}
METRICS: dict[str, Any] = {
    "selector": {"matchLabels": PODS},
    "podMetricsEndpoints": [{"port": "metrics", "path": "/stats/prometheus"}],
}


def chart_values(platform: Platform) -> dict[str, Any]:
    """Of the control plane's chart; the proxies themselves are what `proxy` says."""
    control = Resources(cpu="100m", memory="512Mi", cpu_limit="1", memory_limit="1Gi").render()
    return {
        "global": {"imageRegistry": platform.cluster.images or ""},
        "deployment": {"replicas": platform.replicas, "envoyGateway": {"resources": control}},
        "podDisruptionBudget": {"minAvailable": 1 if platform.cluster.high_availability else 0},
        "certgen": {"job": {"resources": Resources(cpu="100m", memory="128Mi").render()}},
        "topologyInjector": {"enabled": False},
    }


def proxy(
    platform: Platform, *, replicas: int, resources: Resources, service: str, annotations: dict[str, str]
) -> dict[str, Any]:
    """An EnvoyProxy's `spec`."""
    container = {"image": platform.image(ENVOY), "resources": resources.render()}
    kubernetes: dict[str, Any] = {
        "envoyDeployment": {"replicas": replicas, "container": container},
        "envoyService": {"type": service, "annotations": annotations},
    }
    if replicas > 1:
        kubernetes["envoyPDB"] = {"minAvailable": 1}
    return {"provider": {"type": "Kubernetes", "kubernetes": kubernetes}}


def http_listener() -> dict[str, Any]:
    """For the way to HTTPS and for an authority's questions by ACME."""
    same = {"namespaces": {"from": "Same"}}
    return {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": same}


def https_listener(host: str, secret: str) -> dict[str, Any]:
    """Open to routes of the platform's namespaces, not to those of workspaces."""
    selector = {
        "matchLabels": {"app.kubernetes.io/part-of": "ironyard"},
        "matchExpressions": [{"key": WORKSPACE_ID, "operator": "DoesNotExist"}],
    }
    certificate = {"group": "", "kind": "Secret", "name": secret}
    return {
        "name": "https",
        "port": 443,
        "protocol": "HTTPS",
        "hostname": host,
        "tls": {"mode": "Terminate", "certificateRefs": [certificate]},
        "allowedRoutes": {"namespaces": {"from": "Selector", "selector": selector}},
    }


def client_policy(gateway: str, *, minimum_tls: str, idle_timeout: str) -> dict[str, Any]:
    """A ClientTrafficPolicy's `spec`: no limit but on silence and on headers that do not come."""
    quiet = {"idleTimeout": idle_timeout, "streamIdleTimeout": idle_timeout}
    return {
        "targetRefs": [{"group": GATEWAY_API, "kind": "Gateway", "name": gateway}],
        "tls": {"minVersion": minimum_tls},
        "timeout": {"http": {"requestHeadersReceivedTimeout": "30s", **quiet}},
    }
