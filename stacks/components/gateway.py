"""The way in: Gateway API with Envoy Gateway, or a Gateway that exists. TLS ends here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import pulumi
import pulumi_kubernetes as kubernetes
from pydantic import Field, model_validator

from stacks.components import envoy
from stacks.components.base import Component, ComponentSettings, Platform, Resources
from stacks.components.envoy import ENVOY_API, GATEWAY_API
from stacks.components.monitoring import Monitoring
from stacks.components.network import GATEWAY as NAMESPACE
from stacks.components.network import Allow, guard, metrics
from stacks.settings import Frozen, Name
from stacks.versions import ENVOY_GATEWAY

NAME = "ironyard"
TLS_SECRET = "ironyard-tls"  # noqa: S105  # a name, not a value


class ExternalGateway(Frozen):
    """A Gateway that exists. It ends TLS for the platform's names and takes routes of its namespaces."""

    name: Name
    namespace: Name
    section: str | None = Field(default=None, description="its HTTPS listener; absent: any that fits")


class GatewaySettings(ComponentSettings):
    """The entrance to everything that has a public name."""

    mode: Literal["envoy-gateway", "external", "off"] = "envoy-gateway"
    service: Literal["LoadBalancer", "NodePort", "ClusterIP"] = "LoadBalancer"
    service_annotations: dict[str, str] = Field(default_factory=dict, description="for the load balancer")
    replicas: int | None = Field(default=None, ge=1, le=50, description="absent: 1, or 2 with HA")
    minimum_tls: Literal["1.2", "1.3"] = "1.2"
    idle_timeout: str = Field(default="1h", pattern=r"^\d{1,5}(h|m|s)$", description="of quiet streams")
    resources: Resources = Resources(cpu="200m", memory="512Mi", cpu_limit="2")
    external: ExternalGateway | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: name, namespace")
        return self


@dataclass(frozen=True)
class Issuer:
    """Who signs certificates. `wildcards`: whether it signs `*.domain`; else each name has its own."""

    name: str
    wildcards: bool
    ready: Sequence[pulumi.Resource] = field(default=(), repr=False)


class Gateway(Component[GatewaySettings]):
    """Envoy Gateway first; the Gateway itself once `encrypt` says who signs its certificates."""

    section = "gateway"
    settings_type = GatewaySettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform, *, monitoring: Monitoring) -> None:
        super().__init__(platform)
        self.ready: list[pulumi.Resource] = []
        self.issuer: Issuer | None = None
        self.parent_name, self.parent_namespace = NAME, NAMESPACE
        if external := self.settings.external if self.settings.mode == "external" else None:
            self.parent_name, self.parent_namespace = external.name, external.namespace
        elif self.settings.enabled:
            self._install(monitoring)
        self.register_outputs({"name": self.parent_name, "namespace": self.parent_namespace})

    @property
    def _own(self) -> bool:
        return self.settings.mode == "envoy-gateway"

    def _install(self, monitoring: Monitoring) -> None:
        space = self.create_namespace(NAMESPACE)
        closed = guard(
            self,
            NAMESPACE,
            [
                Allow("clients", pods=envoy.PODS, ports=envoy.PORTS, anywhere=True),
                metrics(envoy.METRICS_PORT),
            ],
            after=[space],
        )
        release = self.install(
            ENVOY_GATEWAY,
            namespace=NAMESPACE,
            values=envoy.chart_values(self.platform),
            after=[*monitoring.definitions, *closed],
        )
        proxy = self.custom(
            f"{ENVOY_API}/v1alpha1",
            "EnvoyProxy",
            NAME,
            namespace=NAMESPACE,
            spec=envoy.proxy(
                self.platform,
                replicas=self.settings.replicas or self.platform.replicas,
                resources=self.settings.resources,
                service=self.settings.service,
                annotations=self.settings.service_annotations,
            ),
            after=[release],
        )
        grade = self.custom(
            f"{GATEWAY_API}/v1",
            "GatewayClass",
            NAME,
            spec={"controllerName": envoy.CONTROLLER},
            after=[release],
        )
        self.ready = [proxy, grade]
        if monitoring.watches:
            self.custom(
                "monitoring.coreos.com/v1",
                "PodMonitor",
                NAME,
                namespace=NAMESPACE,
                spec=envoy.METRICS,
                after=monitoring.definitions,
            )

    def encrypt(self, issuer: Issuer | None) -> None:
        """Open the Gateway with the certificates of `issuer`.

        Without one its operator keeps a certificate for `*.domain` in the Secret TLS_SECRET.
        """
        self.issuer = issuer
        if not self._own:
            return
        domain = self.platform.cluster.domain
        own_names = issuer is not None and not issuer.wildcards
        if issuer is not None and issuer.wildcards:
            self._certificate("wildcard", TLS_SECRET, [f"*.{domain}", domain], issuer)
        listeners = (
            [envoy.http_listener()]
            if own_names
            else [envoy.http_listener(), envoy.https_listener(f"*.{domain}", TLS_SECRET)]
        )
        gateway = self.custom(
            f"{GATEWAY_API}/v1",
            "Gateway",
            NAME,
            namespace=NAMESPACE,
            spec={
                "gatewayClassName": NAME,
                "infrastructure": {"parametersRef": {"group": ENVOY_API, "kind": "EnvoyProxy", "name": NAME}},
                "listeners": listeners,
                "allowedListeners": {"namespaces": {"from": "Same"}},
            },
            after=self.ready,
        )
        policy = self.custom(
            f"{ENVOY_API}/v1alpha1",
            "ClientTrafficPolicy",
            NAME,
            namespace=NAMESPACE,
            spec=envoy.client_policy(
                NAME, minimum_tls=self.settings.minimum_tls, idle_timeout=self.settings.idle_timeout
            ),
            after=[gateway],
        )
        redirect = self.custom(
            f"{GATEWAY_API}/v1",
            "HTTPRoute",
            "to-https",
            namespace=NAMESPACE,
            spec={"parentRefs": [self._parent(section="http")], "rules": [envoy.TO_HTTPS]},
            after=[gateway],
        )
        self.ready = [gateway, policy, redirect]

    def route(
        self,
        name: str,
        *,
        host: str,
        namespace: str,
        service: str,
        port: int,
        paths: Sequence[str] = ("/",),
        after: Sequence[pulumi.Resource] = (),
    ) -> kubernetes.apiextensions.CustomResource | None:
        """Send what is under `paths` of `https://host` to a Service; None where there is no gateway.

        Requests may take as long as they need: pushes of images and open consoles take hours.
        """
        if not self.settings.enabled:
            return None
        parent = self._parent(section=self._section())
        if self._own and self.issuer is not None and not self.issuer.wildcards:
            parent = self._listen(name, host, self.issuer)
        return self.custom(
            f"{GATEWAY_API}/v1",
            "HTTPRoute",
            name,
            namespace=namespace,
            spec={
                "parentRefs": [parent],
                "hostnames": [host],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in paths],
                        "backendRefs": [{"name": service, "port": port}],
                        "timeouts": {"request": "0s"},
                    }
                ],
            },
            after=[*self.ready, *after],
        )

    def _listen(self, name: str, host: str, issuer: Issuer) -> dict[str, Any]:
        """A listener with a certificate of its own, for an issuer that signs no wildcards."""
        self._certificate(name, f"{name}-tls", [host], issuer)
        self.custom(
            f"{GATEWAY_API}/v1",
            "ListenerSet",
            name,
            namespace=NAMESPACE,
            spec={
                "parentRef": {"group": GATEWAY_API, "kind": "Gateway", "name": NAME},
                "listeners": [envoy.https_listener(host, f"{name}-tls")],
            },
            after=self.ready,
        )
        return {"group": GATEWAY_API, "kind": "ListenerSet", "name": name, "namespace": NAMESPACE}

    def _certificate(self, name: str, secret: str, hosts: list[str], issuer: Issuer) -> None:
        self.custom(
            "cert-manager.io/v1",
            "Certificate",
            name,
            namespace=NAMESPACE,
            spec={
                "secretName": secret,
                "dnsNames": hosts,
                "issuerRef": {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": issuer.name},
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            },
            after=[*self.ready[:1], *issuer.ready],
        )

    def _section(self) -> str | None:
        external = self.settings.external
        return "https" if self._own else external.section if external else None

    def _parent(self, *, section: str | None = None) -> dict[str, Any]:
        parent = {
            "group": GATEWAY_API,
            "kind": "Gateway",
            "name": self.parent_name,
            "namespace": self.parent_namespace,
        }
        return parent | ({"sectionName": section} if section else {})
