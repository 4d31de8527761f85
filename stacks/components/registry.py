"""The registry of images and charts: Harbor on the platform's own backends, or one elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import pulumi
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import Component, ComponentSettings, Platform, Resources
from stacks.components.cache import Cache
from stacks.components.database import Database
from stacks.components.gateway import Gateway
from stacks.components.harbor import Backends, Parts, scanner
from stacks.components.keys import KeyPair, fingerprint
from stacks.components.monitoring import Monitoring
from stacks.components.network import FACADE, Allow, guard, metrics
from stacks.components.storage import Storage
from stacks.settings import Frozen, HttpAddress, Quantity
from stacks.versions import HARBOR

NAMESPACE = "ironyard-registry"
SERVICE = "harbor"
PORT = 80
NGINX = {"app": "harbor", "component": "nginx"}
METRICS_PORT = 8001
KEYS = (
    ("secretKey", "secret-key", 16),  # encrypts what Harbor keeps in the database
    ("secret", "core-secret", 32),
    ("CSRF_KEY", "csrf-key", 32),
    ("JOBSERVICE_SECRET", "jobservice-secret", 32),
    ("REGISTRY_HTTP_SECRET", "http-secret", 32),
)


class ExternalRegistry(Frozen):
    """A Harbor that exists; the account may create projects and robots."""

    url: HttpAddress
    user: str = "admin"
    password: SecretStr


class RegistrySettings(ComponentSettings):
    """A project for each workspace's images and charts, scanned for known vulnerabilities."""

    mode: Literal["harbor", "external", "off"] = "harbor"
    scan: bool = Field(default=True, description="known vulnerabilities, by Trivy")
    scanner_size: Quantity = Field(default="5Gi", description="of the disk of the vulnerability database")
    resources: Resources = Field(
        default=Resources(cpu="200m", memory="512Mi", cpu_limit="1"),
        description="of core, registry and job service, each",
    )
    external: ExternalRegistry | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: url, password")
        return self


@dataclass(frozen=True)
class Account:
    """A Harbor and an account that administers it. `internal_url` is for those inside the cluster."""

    url: str
    internal_url: str
    user: str
    password: pulumi.Output[str]


class Registry(Component[RegistrySettings]):
    """Harbor behind the gateway. Its secrets are made once, so that an upgrade changes none of them."""

    section = "registry"
    settings_type = RegistrySettings
    namespace = NAMESPACE
    needs = ("database", "cache", "storage")
    bucket = "registry"
    database = "registry"

    def __init__(
        self,
        platform: Platform,
        *,
        database: Database,
        cache: Cache,
        storage: Storage,
        gateway: Gateway,
        monitoring: Monitoring,
    ) -> None:
        super().__init__(platform)
        self.account: Account | None = None
        self.ready: list[pulumi.Resource] = []
        if self.settings.mode == "external":
            given = self.settings.external
            assert given is not None
            password = pulumi.Output.secret(given.password.get_secret_value())
            self.account = Account(given.url, given.url, given.user, password)
        elif self.settings.mode == "harbor":
            assert cache.server is not None
            self.account = self._install(
                Backends(database.for_component(Registry), cache.server, storage.for_component(Registry)),
                gateway=gateway,
                monitoring=monitoring,
                after=[*database.ready, *cache.ready, *storage.ready],
            )
        self.register_outputs({"url": self.account.url if self.account else None})

    def _install(
        self, backends: Backends, *, gateway: Gateway, monitoring: Monitoring, after: list[pulumi.Resource]
    ) -> Account:
        space = self.create_namespace(NAMESPACE)
        entrance = Allow("entrance", namespaces=[gateway.parent_namespace, FACADE], ports=[8080], pods=NGINX)
        guard(self, NAMESPACE, [entrance, metrics(METRICS_PORT)], after=[space])
        password = self.generate("admin-password", length=24, protect=True)
        keys = {"HARBOR_ADMIN_PASSWORD": password} | {
            name: self.generate(resource, length=length, protect=name == "secretKey" or None)
            for name, resource, length in KEYS
        }
        secrets = [
            self.create_secret(name, namespace=NAMESPACE, data=data, after=[space])
            for name, data in {"keys": keys, **backends.secrets()}.items()
        ]
        host = self.platform.host(self.section)
        values = self._values(backends, monitoring)
        changed = fingerprint(*keys.values(), *backends.passwords())
        for part in ("core", "jobservice", "registry", "exporter", "trivy"):
            values[part]["podAnnotations"] = {"ironyard/secrets": changed}
        values["registry"]["credentials"] = {"password": self.generate("internal-password", length=32)}
        values["externalURL"] = f"https://{host}"
        release = self.install(
            HARBOR,
            namespace=NAMESPACE,
            values=values,
            after=[*secrets, self._make_signer(space), *monitoring.definitions, *after],
        )
        gateway.route(
            self.section, host=host, namespace=NAMESPACE, service=SERVICE, port=PORT, after=[release]
        )
        self.ready = [release]
        return Account(f"https://{host}", f"http://{SERVICE}.{NAMESPACE}.svc", "admin", password)

    def _make_signer(self, space: pulumi.Resource) -> pulumi.Resource:
        """The key that signs the tokens of docker logins."""
        pair = KeyPair("registry-token-signer", name="harbor-token", opts=self.options())
        made: pulumi.Resource = self.create_secret(
            "token-signer",
            namespace=NAMESPACE,
            data={"tls.key": pair.private_key, "tls.crt": pair.certificate},
            kind="kubernetes.io/tls",
            after=[space],
        )
        return made

    def _values(self, backends: Backends, monitoring: Monitoring) -> dict[str, Any]:
        parts = Parts(self.platform, self.settings.resources).render()
        parts["core"] |= {
            "existingSecret": "keys",
            "existingXsrfSecret": "keys",
            "secretName": "token-signer",
        }
        # logs in the database: a disk of one writer would allow one replica only
        parts["jobservice"] |= {"existingSecret": "keys", "jobLoggers": ["database"]}
        parts["registry"] |= {"existingSecret": "keys", "relativeurls": True}
        parts["trivy"] |= {"enabled": self.settings.scan, **scanner(self.platform)}
        return {
            **parts,
            **backends.values(),
            "expose": {"type": "clusterIP", "tls": {"enabled": False}, "clusterIP": {"name": SERVICE}},
            "existingSecretAdminPassword": "keys",
            "existingSecretSecretKey": "keys",
            "metrics": {
                "enabled": monitoring.watches,
                "serviceMonitor": {"enabled": monitoring.watches},
            },
            "persistence": {
                "imageChartStorage": backends.storage(),
                "persistentVolumeClaim": {
                    "trivy": {
                        "storageClass": self.platform.cluster.storage_class or "",
                        "size": self.settings.scanner_size,
                    }
                },
            },
        }
