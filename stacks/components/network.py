"""Who may talk to a namespace's pods: nobody, then what is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from stacks.components.base import MANAGED, Component

NAMESPACE_NAME = "kubernetes.io/metadata.name"
FACADE = "ironyard-system"
GATEWAY = "ironyard-gateway"
MONITORING = "ironyard-monitoring"


@dataclass(frozen=True)
class Allow:
    """Lets connections in: from pods of `namespaces` (`anywhere`: from everything) to `ports` of `pods`.

    `pods` are labels, none means every pod of the namespace; no `ports` means every port. Ports are the
    pods' own, not a Service's. `sources` narrows the namespaces down to pods with these labels. A webhook
    needs `anywhere`: the API server calls it from an address that belongs to no pod.
    """

    name: str
    namespaces: Sequence[str] = ()
    ports: Sequence[int] = ()
    pods: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    anywhere: bool = False

    def spec(self) -> dict[str, Any]:
        """As a NetworkPolicy's `spec`. Raises ValueError where nobody is named."""
        if self.anywhere == bool(self.namespaces):
            raise ValueError(f"{self.name}: name the namespaces, or say anywhere")
        rule: dict[str, Any] = {}
        if self.namespaces:
            rule["from"] = [self._peer(name) for name in self.namespaces]
        if self.ports:
            rule["ports"] = [{"protocol": "TCP", "port": port} for port in self.ports]
        return {
            "podSelector": {"matchLabels": dict(self.pods)} if self.pods else {},
            "policyTypes": ["Ingress"],
            "ingress": [rule],
        }

    def _peer(self, namespace: str) -> dict[str, Any]:
        peer: dict[str, Any] = {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: namespace}}}
        return peer | ({"podSelector": {"matchLabels": dict(self.sources)}} if self.sources else {})


def metrics(*ports: int, pods: Mapping[str, str] | None = None) -> Allow:
    """Lets the platform's Prometheus read the metrics of `pods`."""
    return Allow("metrics", namespaces=(MONITORING,), ports=ports, pods=pods or {})


def guard(
    component: Component[Any],
    namespace: str,
    allows: Sequence[Allow] = (),
    *,
    after: Sequence[pulumi.Resource] = (),
) -> list[pulumi.Resource]:
    """Close `namespace` to connections from outside it, but for `allows`; its own pods reach each other."""
    own = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}
    specs = {
        "default-deny": {"podSelector": {}, "policyTypes": ["Ingress"]},
        "same-namespace": own,
        **{allow.name: allow.spec() for allow in allows},
    }
    return [
        kubernetes.networking.v1.NetworkPolicy(
            f"{namespace}-{name}",
            metadata={"name": name, "namespace": namespace, "labels": MANAGED},
            spec=spec,
            opts=component.options(after=after),
        )
        for name, spec in specs.items()
    ]
