"""Certificates: cert-manager with an authority of its own or by ACME, or an issuer that exists."""

from __future__ import annotations

from typing import Any, Literal, Self

import pulumi
from pydantic import Field, model_validator

from stacks.components.base import Component, ComponentSettings, Platform, Resources
from stacks.components.envoy import GATEWAY_API
from stacks.components.gateway import Gateway, Issuer
from stacks.components.monitoring import Monitoring
from stacks.components.network import Allow, guard, metrics
from stacks.settings import Frozen, HttpAddress, Name
from stacks.versions import CERT_MANAGER

NAMESPACE = "cert-manager"
NAME = "ironyard"
API = "cert-manager.io/v1"
WEBHOOK_PORT = 10250


class Acme(Frozen):
    """An authority that speaks ACME; it must reach port 80 of the gateway by each public name."""

    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    server: HttpAddress = "https://acme-v02.api.letsencrypt.org/directory"


class ExternalIssuer(Frozen):
    """A ClusterIssuer that exists."""

    name: Name
    wildcards: bool = Field(default=True, description="whether it signs certificates for *.domain")


class CertificatesSettings(ComponentSettings):
    """Who signs the certificates of the public names.

    `acme` absent: an authority of the platform's own, whose root browsers must be told to trust.
    """

    mode: Literal["cert-manager", "external", "off"] = "cert-manager"
    acme: Acme | None = None
    resources: Resources = Resources(cpu="50m", memory="256Mi", cpu_limit="500m")
    external: ExternalIssuer | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: name")
        return self


class Certificates(Component[CertificatesSettings]):
    """Gives the gateway its issuer, which opens it; `issuer` is None when off."""

    section = "certificates"
    settings_type = CertificatesSettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform, *, gateway: Gateway, monitoring: Monitoring) -> None:
        super().__init__(platform)
        self.issuer: Issuer | None = None
        if external := self.settings.external if self.settings.mode == "external" else None:
            self.issuer = Issuer(external.name, external.wildcards)
        elif self.settings.enabled:
            self.issuer = self._install(gateway, monitoring)
        gateway.encrypt(self.issuer)
        self.register_outputs({"issuer": self.issuer.name if self.issuer else None})

    def _install(self, gateway: Gateway, monitoring: Monitoring) -> Issuer:
        space = self.create_namespace(NAMESPACE)
        closed = guard(
            self,
            NAMESPACE,
            [
                Allow(
                    "webhook",
                    pods={"app.kubernetes.io/name": "webhook"},
                    ports=(WEBHOOK_PORT,),
                    anywhere=True,
                ),
                metrics(9402),
            ],
            after=[space],
        )
        # with ACME its controller looks for the Gateway API's definitions when it starts
        before = [*monitoring.definitions, *closed, *(gateway.ready if self.settings.acme else [])]
        release = self.install(
            CERT_MANAGER, namespace=NAMESPACE, values=self._values(monitoring), after=before, skip_crds=True
        )
        if self.settings.acme:
            signer = self._acme(self.settings.acme, gateway, release)
            return Issuer(NAME, wildcards=False, ready=(signer,))
        return Issuer(NAME, wildcards=True, ready=(self._own_authority(release),))

    def _own_authority(self, release: pulumi.Resource) -> pulumi.Resource:
        """A root signed by itself, ten years, and the issuer that signs with it."""
        seed = self.custom(API, "ClusterIssuer", f"{NAME}-root", spec={"selfSigned": {}}, after=[release])
        root = self.custom(
            API,
            "Certificate",
            f"{NAME}-root",
            namespace=NAMESPACE,
            spec={
                "isCA": True,
                "commonName": f"Ironyard {self.platform.cluster.domain}"[:64],
                "secretName": f"{NAME}-root",
                "duration": "87600h",
                "renewBefore": "8760h",
                # a new key would be a new root for everybody who trusts this one
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
                "issuerRef": {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": f"{NAME}-root"},
            },
            after=[seed],
        )
        signer: pulumi.Resource = self.custom(
            API, "ClusterIssuer", NAME, spec={"ca": {"secretName": f"{NAME}-root"}}, after=[root]
        )
        return signer

    def _acme(self, acme: Acme, gateway: Gateway, release: pulumi.Resource) -> pulumi.Resource:
        parent = {
            "group": GATEWAY_API,
            "kind": "Gateway",
            "name": gateway.parent_name,
            "namespace": gateway.parent_namespace,
        }
        signer: pulumi.Resource = self.custom(
            API,
            "ClusterIssuer",
            NAME,
            spec={
                "acme": {
                    "email": acme.email,
                    "server": acme.server,
                    "privateKeySecretRef": {"name": f"{NAME}-acme-account"},
                    "solvers": [{"http01": {"gatewayHTTPRoute": {"parentRefs": [parent]}}}],
                }
            },
            after=[release],
        )
        return signer

    def _values(self, monitoring: Monitoring) -> dict[str, Any]:
        replicas, resources = self.platform.replicas, self.settings.resources.render()
        budget = {"enabled": self.platform.cluster.high_availability}
        part = {"replicaCount": replicas, "resources": resources, "podDisruptionBudget": budget}
        values: dict[str, Any] = {
            **part,
            "crds": {"enabled": True, "keep": True},
            "global": {"leaderElection": {"namespace": NAMESPACE}},
            "webhook": {**part, "securePort": WEBHOOK_PORT},
            "cainjector": part,
            "startupapicheck": {"resources": resources, "timeout": "3m"},
            "prometheus": {"servicemonitor": {"enabled": monitoring.watches}},
        }
        if self.platform.cluster.images:
            values["imageRegistry"] = self.platform.cluster.images
        if self.settings.acme and self.platform.enabled(Gateway):
            values["config"] = {
                "apiVersion": "controller.config.cert-manager.io/v1alpha1",
                "kind": "ControllerConfiguration",
                "enableGatewayAPI": True,
            }
        return values
