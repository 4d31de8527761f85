"""A few resources of different kinds; the stack's settings say which and how."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

settings: dict[str, Any] = pulumi.Config().require_object("settings")
provider = kubernetes.Provider("cluster", kubeconfig=settings.get("kubeconfig"))
within = pulumi.ResourceOptions(provider=provider)
space = kubernetes.core.v1.Namespace("space", metadata={"name": settings["namespace"]}, opts=within)
name = space.metadata["name"]
labels = {"app": "web"}

words = kubernetes.core.v1.ConfigMap(
    "words", metadata={"namespace": name}, data={"greeting": settings.get("greeting", "hello")}, opts=within
)
named = kubernetes.core.v1.ConfigMap(
    "named",
    metadata={"name": "named", "namespace": name},
    data={"greeting": settings.get("greeting", "hello")},
    opts=within,
)
secret = kubernetes.core.v1.Secret(
    "login",
    metadata={"name": "login", "namespace": name},
    string_data={"password": pulumi.Output.secret("open sesame")},
    opts=within,
)
container = {
    "name": "web",
    "image": "web:1",
    "ports": [{"container_port": 8080}],
    "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
}
web = kubernetes.apps.v1.Deployment(
    "web",
    metadata={"name": "web", "namespace": name, "annotations": settings.get("annotations", {})},
    spec={
        "replicas": settings.get("replicas", 1),
        "selector": {"match_labels": labels},
        **settings.get("more", {}),
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [container], "node_selector": settings.get("node_selector", {})},
        },
    },
    opts=within,
)
service = kubernetes.core.v1.Service(
    "web",
    metadata={"name": "web", "namespace": name, "annotations": settings.get("annotations", {})},
    spec={"selector": labels, "type": "LoadBalancer", "ports": [{"port": 80, "target_port": 8080}]},
    opts=within,
)
kubernetes.core.v1.PersistentVolumeClaim(
    "disk",
    metadata={"name": "disk", "namespace": name},
    spec={"access_modes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    opts=within,
)
kubernetes.batch.v1.Job(
    "once",
    metadata={"name": "once", "namespace": name},
    spec={
        "template": {
            "spec": {"restart_policy": "Never", "containers": [{"name": "once", "image": "once:1"}]},
        }
    },
    opts=within,
)
for chart, version in settings.get("releases", {}).items():
    release = kubernetes.helm.v3.Release(
        chart,
        name=f"{settings['namespace']}-{chart}",
        namespace=name,
        chart=f"{settings['charts']}/{chart}",
        version=version,
        timeout=120,
        opts=within,
    )
    if chart == "prometheus-operator-crds":
        kubernetes.apiextensions.CustomResource(
            "rule",
            api_version="monitoring.coreos.com/v1",
            kind="PrometheusRule",
            metadata={"name": "rule", "namespace": name},
            spec={"groups": []},
            opts=pulumi.ResourceOptions(provider=provider, depends_on=[release]),
        )
pulumi.export("password", secret.string_data)
pulumi.export("address", service.status["load_balancer"]["ingress"][0]["ip"])
