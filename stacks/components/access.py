"""Desktops and shells in the browser: Guacamole, which takes its connections from signed links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import pulumi
import pulumi_kubernetes as kubernetes
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import MANAGED, UNPRIVILEGED, Component, ComponentSettings, Platform, Resources
from stacks.components.gateway import Gateway
from stacks.components.keys import fingerprint
from stacks.components.network import Allow, guard
from stacks.settings import Frozen, HttpAddress
from stacks.versions import GUACAMOLE, GUACD, Image

NAMESPACE = "ironyard-access"
WEB, PROXY = "guacamole", "guacd"
WEB_PORT, PROXY_PORT = 8080, 4822
KEY = "json-secret-key"
CONFINED = {**UNPRIVILEGED, "read_only_root_filesystem": True}
SCRATCH = {"name": "scratch", "mount_path": "/tmp"}  # noqa: S108  # both images write nowhere else
HexKey = Field(description="32 hexadecimal digits", min_length=32, max_length=32)


class ExternalGuacamole(Frozen):
    """A Guacamole that exists, with JSON authentication by this key."""

    url: HttpAddress
    json_secret_key: SecretStr = HexKey


class AccessSettings(ComponentSettings):
    """Remote desktops and shells of hosts that are held."""

    mode: Literal["guacamole", "external", "off"] = "guacamole"
    resources: Resources = Field(
        default=Resources(cpu="200m", memory="768Mi", cpu_limit="1"), description="of the web application"
    )
    proxy_resources: Resources = Field(
        default=Resources(cpu="200m", memory="512Mi", cpu_limit="2"),
        description="of each guacd, which draws the screens",
    )
    external: ExternalGuacamole | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: url, json_secret_key")
        return self


@dataclass(frozen=True)
class Console:
    """Where links lead to, and the key (32 hexadecimal digits) that signs and encrypts them."""

    url: str
    key: pulumi.Output[str]


@dataclass(frozen=True)
class _Server:
    """One container that listens on one port."""

    name: str
    image: Image
    port: int
    user: int
    replicas: int
    resources: Resources
    env: list[dict[str, Any]]
    probe: dict[str, Any]


class Access(Component[AccessSettings]):
    """guacd draws, the web application shows. Nobody logs in and nothing is stored: the links say it all."""

    section = "access"
    settings_type = AccessSettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform, *, gateway: Gateway) -> None:
        super().__init__(platform)
        self.console: Console | None = None
        self.ready: list[pulumi.Resource] = []
        if self.settings.mode == "external":
            given = self.settings.external
            assert given is not None
            key = pulumi.Output.secret(given.json_secret_key.get_secret_value())
            self.console = Console(given.url, key)
        elif self.settings.mode == "guacamole":
            self.console = self._install(gateway)
        self.register_outputs({"url": self.console.url if self.console else None})

    def _install(self, gateway: Gateway) -> Console:
        space = self.create_namespace(NAMESPACE)
        entrance = Allow("entrance", namespaces=[gateway.parent_namespace], ports=[WEB_PORT], pods=_app(WEB))
        guard(self, NAMESPACE, [entrance], after=[space])
        key = self.generate(KEY, length=32, alphabet="hex")
        secret = self.create_secret("keys", namespace=NAMESPACE, data={KEY: key}, after=[space])
        proxy = self._serve(self._proxy(), after=[space])
        web = self._serve(
            self._web(), after=[secret, proxy], annotations={"ironyard/secrets": fingerprint(key)}
        )
        if self.platform.cluster.high_availability:
            kubernetes.policy.v1.PodDisruptionBudget(
                f"{NAMESPACE}-{PROXY}",
                metadata={"name": PROXY, "namespace": NAMESPACE, "labels": MANAGED},
                spec={"min_available": 1, "selector": {"match_labels": _app(PROXY)}},
                opts=self.options(after=[space]),
            )
        host = self.platform.host(self.section)
        gateway.route(self.section, host=host, namespace=NAMESPACE, service=WEB, port=WEB_PORT, after=[web])
        self.ready = [web]
        return Console(f"https://{host}", key)

    def _proxy(self) -> _Server:
        return _Server(
            name=PROXY,
            image=GUACD,
            port=PROXY_PORT,
            user=1000,
            replicas=self.platform.replicas,
            resources=self.settings.proxy_resources,
            env=[{"name": "HOME", "value": SCRATCH["mount_path"]}],  # FreeRDP writes there
            probe={"tcp_socket": {"port": PROXY_PORT}},
        )

    def _web(self) -> _Server:
        """One replica: who is logged in is known to one process alone."""
        plain = {
            "GUACD_HOSTNAME": PROXY,
            "GUACD_PORT": str(PROXY_PORT),
            "WEBAPP_CONTEXT": "ROOT",
            "REMOTE_IP_VALVE_ENABLED": "true",
        }
        reference = {"secret_key_ref": {"name": "keys", "key": KEY}}
        return _Server(
            name=WEB,
            image=GUACAMOLE,
            port=WEB_PORT,
            user=1001,
            replicas=1,
            resources=self.settings.resources,
            env=[
                *({"name": name, "value": value} for name, value in plain.items()),
                {"name": "JSON_SECRET_KEY", "value_from": reference},
            ],
            probe={"http_get": {"path": "/", "port": WEB_PORT}},
        )

    def _serve(
        self,
        server: _Server,
        *,
        after: list[pulumi.Resource],
        annotations: dict[str, pulumi.Input[str]] | None = None,
    ) -> pulumi.Resource:
        """A Service and the Deployment behind it."""
        labels = {**MANAGED, **_app(server.name)}
        metadata = {"name": server.name, "namespace": NAMESPACE, "labels": labels}
        container = {
            "name": server.name,
            "image": self.platform.image(server.image),
            "env": server.env,
            "ports": [{"name": "main", "container_port": server.port}],
            "resources": server.resources.render(),
            "security_context": CONFINED,
            "volume_mounts": [SCRATCH],
            "startup_probe": {**server.probe, "period_seconds": 5, "failure_threshold": 36},
            "readiness_probe": {**server.probe, "period_seconds": 10},
            "liveness_probe": {**server.probe, "period_seconds": 20, "timeout_seconds": 5},
        }
        spread = {
            "max_skew": 1,
            "topology_key": "kubernetes.io/hostname",
            "when_unsatisfiable": "ScheduleAnyway",
            "label_selector": {"match_labels": _app(server.name)},
        }
        pod = {
            "automount_service_account_token": False,
            "enable_service_links": False,  # GUACD_PORT would be taken for a setting
            "security_context": {
                "run_as_user": server.user,
                "run_as_group": server.user,
                "fs_group": server.user,
            },
            "containers": [container],
            "volumes": [{"name": SCRATCH["name"], "empty_dir": {"size_limit": "1Gi"}}],
            "topology_spread_constraints": [spread],
        }
        deployment: pulumi.Resource = kubernetes.apps.v1.Deployment(
            f"{NAMESPACE}-{server.name}",
            metadata=metadata,
            spec={
                "replicas": server.replicas,
                "selector": {"match_labels": _app(server.name)},
                "strategy": {"type": "Recreate" if server.name == WEB else "RollingUpdate"},
                "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
            },
            opts=self.options(after=after),
        )
        kubernetes.core.v1.Service(
            f"{NAMESPACE}-{server.name}",
            metadata=metadata,
            spec={
                "selector": _app(server.name),
                "ports": [{"name": "main", "port": server.port, "target_port": "main"}],
            },
            opts=self.options(after=[*after, deployment]),
        )
        return deployment


def _app(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name}
