"""Network policies of a workspace: closed to other workspaces, open to its own, to names and to the world."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from stacks.tenancy.settings import NetworkSettings

NAMESPACE_NAME = "kubernetes.io/metadata.name"
DNS_PORT = 53


def policies(settings: NetworkSettings) -> dict[str, dict[str, Any]]:
    """Name → spec. Policies add up, so each says one thing."""
    namespaces = (settings.gateway_namespace, settings.monitoring_namespace)
    own: list[dict[str, Any]] = [{"podSelector": {}}]
    found: dict[str, dict[str, Any]] = {
        "default-deny": {"policyTypes": ["Ingress", "Egress"]},
        "same-workspace": {
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": own}],
            "egress": [{"to": own}],
        },
        "platform": {
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [
                        {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}} for name in namespaces
                    ]
                }
            ],
        },
        "names": {
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [{"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "kube-system"}}}],
                    "ports": [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")],
                }
            ],
        },
    }
    if settings.egress:
        found["world"] = {"policyTypes": ["Egress"], "egress": [{"to": _world(settings.egress_except)}]}
    return found


def register(
    namespace: str, labels: dict[str, str], settings: NetworkSettings, opts: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    if settings.mode == "off":
        return []
    return [
        kubernetes.networking.v1.NetworkPolicy(
            f"{namespace}-{name}",
            metadata={"name": name, "namespace": namespace, "labels": labels},
            spec={"podSelector": {}, **spec},
            opts=opts,
        )
        for name, spec in policies(settings).items()
    ]


def _world(exceptions: list[str]) -> list[dict[str, Any]]:
    blocks = []
    for everything, separator in (("0.0.0.0/0", "."), ("::/0", ":")):
        kept_out = sorted(network for network in exceptions if separator in network.partition("/")[0])
        blocks.append({"ipBlock": {"cidr": everything} | ({"except": kept_out} if kept_out else {})})
    return blocks
