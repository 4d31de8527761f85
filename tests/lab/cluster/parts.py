"""What each real chart runs, under its usual names: enough for others to find it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A workload and, with a port, the service before it.

    `when` is an expression of Helm's templates; `on_host`: it uses the node's network, which the Pod Security
    Standards allow in privileged namespaces only.
    """

    name: str
    port: int | None = None
    kind: str = "Deployment"
    when: str = ""
    on_host: bool = False
    service: bool = True


PARTS: dict[str, tuple[Part, ...]] = {
    "cert-manager": (
        Part("{fullname}", 9402),
        Part("{fullname}-cainjector"),
        Part("{fullname}-webhook", 443),
    ),
    "cloudnative-pg": (Part("{fullname}"), Part("cnpg-webhook-service", 443)),
    "dcgm-exporter": (Part("{fullname}", 9400, kind="DaemonSet", on_host=True),),
    "gateway-helm": (Part("envoy-gateway", 18000),),
    "gpu-operator": (Part("gpu-operator"),),
    "harbor": (
        Part("harbor", 80, when='ne .Values.expose.type "ingress"'),
        Part("{fullname}-core", 80),
        Part("{fullname}-portal", 80),
        Part("{fullname}-registry", 5000),
        Part("{fullname}-jobservice", 80),
        Part("{fullname}-exporter", 8001, when=".Values.metrics.enabled"),
        Part("{fullname}-trivy", 8080, when=".Values.trivy.enabled"),
        Part("{fullname}-database", 5432, when='eq .Values.database.type "internal"'),
        Part("{fullname}-redis", 6379, when='eq .Values.redis.type "internal"'),
    ),
    "kube-prometheus-stack": (
        Part("{fullname}-operator", 443),
        Part("{fullname}-prometheus", 9090, when=".Values.prometheus.enabled"),
        Part("{fullname}-alertmanager", 9093, when=".Values.alertmanager.enabled"),
        Part("{{ .Release.Name }}-grafana", 80, when=".Values.grafana.enabled"),
        Part("{{ .Release.Name }}-kube-state-metrics", 8080, when=".Values.kubeStateMetrics.enabled"),
        Part(
            "{{ .Release.Name }}-prometheus-node-exporter",
            9100,
            kind="DaemonSet",
            when=".Values.nodeExporter.enabled",
            on_host=True,
        ),
    ),
    "kueue": (Part("{fullname}-controller-manager"), Part("{fullname}-webhook-service", 443)),
    "mlflow": (Part("{fullname}", 5000),),
    "seaweedfs": (
        Part("{fullname}-master", 9333),
        Part("{fullname}-volume", 8080),
        Part("{fullname}-filer", 8888),
        Part("{fullname}-s3", 8333, when=".Values.s3.enabled"),
    ),
    "valkey": (Part("{fullname}", 6379),),
}
