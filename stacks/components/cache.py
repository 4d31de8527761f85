"""The cache: Valkey in the cluster, or any Redis elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import quote

import pulumi
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import Component, ComponentSettings, Platform, Resources
from stacks.components.monitoring import Monitoring
from stacks.components.network import Allow, guard, metrics
from stacks.settings import Frozen, Hostname, Quantity
from stacks.versions import VALKEY

NAMESPACE = "ironyard-cache"
PORT = 6379
PODS = {"app.kubernetes.io/name": "valkey"}
USER = "default"
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
MEBIBYTES = {"Mi": 1, "Gi": 1024}


class ExternalRedis(Frozen):
    """A Redis or Valkey that exists; the platform uses its databases 0 to 5."""

    host: Hostname
    port: int = Field(default=PORT, ge=1, le=65535)
    password: SecretStr
    tls: bool = True


class CacheSettings(ComponentSettings):
    """A cache whose loss costs time, never data."""

    mode: Literal["valkey", "external", "off"] = "valkey"
    memory: str = Field(
        default="256Mi",
        pattern=r"^[1-9][0-9]*(Mi|Gi)$",
        description="of the server; the cache fills three quarters of it and then refuses writes",
    )
    persistent: bool = Field(default=False, description="keep queued jobs over a restart, on a disk")
    size: Quantity = Field(default="5Gi", description="of the disk")
    external: ExternalRedis | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: host, password")
        return self


@dataclass(frozen=True)
class Server:
    """How to reach the cache; the user is `default`."""

    host: str
    port: int
    password: pulumi.Output[str]
    tls: bool

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def url(self, database: int = 0) -> pulumi.Output[str]:
        """`redis://:password@host:port/database`, a secret; `rediss://` where encrypted."""
        scheme = "rediss" if self.tls else "redis"
        return self.password.apply(
            lambda password: f"{scheme}://:{quote(password, safe='')}@{self.address}/{database}"
        )


class Cache(Component[CacheSettings]):
    """One server for every component that needs it, each in a database of its own by number."""

    section = "cache"
    settings_type = CacheSettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform, *, monitoring: Monitoring) -> None:
        super().__init__(platform)
        self.ready: list[pulumi.Resource] = []
        self.server: Server | None = None
        if self.settings.mode == "external":
            self.server = self._external()
        elif self.settings.mode == "valkey":
            self.server = self._install(monitoring)
        self.register_outputs({"address": self.server.address if self.server else None})

    def _external(self) -> Server:
        given = self.settings.external
        assert given is not None
        password = pulumi.Output.secret(given.password.get_secret_value())
        return Server(given.host, given.port, password, given.tls)

    def _install(self, monitoring: Monitoring) -> Server:
        space = self.create_namespace(NAMESPACE)
        users = [c for c in Component.known.values() if self.section in c.needs and self.platform.hosts(c)]
        callers = sorted({user.namespace for user in users})
        clients = [Allow("clients", namespaces=callers, ports=[PORT], pods=PODS)] if callers else []
        guard(self, NAMESPACE, [*clients, metrics(9121, pods=PODS)], after=[space])
        password = self.generate("password", length=32)
        users_secret = self.create_secret("users", namespace=NAMESPACE, data={USER: password}, after=[space])
        release = self.install(
            VALKEY,
            namespace=NAMESPACE,
            values=self._values(monitoring),
            after=[users_secret, *monitoring.definitions],
        )
        self.ready = [release]
        return Server(f"valkey.{NAMESPACE}.svc", PORT, password, tls=False)

    def _values(self, monitoring: Monitoring) -> dict[str, Any]:
        settings, cluster = self.settings, self.platform.cluster
        small = Resources(cpu="50m", memory="64Mi").render()
        disk: dict[str, Any] = {"enabled": settings.persistent}
        if settings.persistent:
            disk |= {
                "requestedSize": settings.size,
                "className": cluster.storage_class or "",
                "keepPvc": True,
            }
        return {
            "global": {"imageRegistry": cluster.images or ""},
            "resources": Resources(cpu="200m", memory=settings.memory, cpu_limit="1").render(),
            "initResources": small,
            # one writer a disk: the old pod goes before the new one comes
            "deploymentStrategy": "Recreate",
            "auth": {
                "enabled": True,
                "usersExistingSecret": "users",
                "aclUsers": {USER: {"permissions": "~* &* +@all"}},
            },
            "dataStorage": disk,
            "valkeyConfig": _configuration(settings),
            "readinessProbe": {"enabled": True},
            "metrics": {
                "enabled": monitoring.watches,
                "exporter": {
                    "resources": small,
                    "securityContext": CONFINED,
                },
                "serviceMonitor": {"enabled": monitoring.watches},
            },
        }


def _configuration(settings: CacheSettings) -> str:
    """What is added to valkey.conf."""
    limit = int(settings.memory[:-2]) * MEBIBYTES[settings.memory[-2:]] * 3 // 4
    kept = "appendonly yes" if settings.persistent else 'appendonly no\nsave ""'
    return f"maxmemory {limit}mb\nmaxmemory-policy noeviction\n{kept}\n"
