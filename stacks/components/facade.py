"""The facade: API, worker and migrations, on the platform's own database."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from stacks.components import facade_pods as pods
from stacks.components.base import MANAGED, Component, Platform
from stacks.components.database import Database
from stacks.components.facade_settings import FacadeSettings
from stacks.components.facade_tenancy import ACCOUNT, CONFIG_FILE, CONFIG_FOLDER, grant
from stacks.components.gateway import Gateway
from stacks.components.keys import fingerprint
from stacks.components.monitoring import Monitoring
from stacks.components.network import Allow, guard, metrics
from stacks.versions import IRONYARD

NAMESPACE = "ironyard-system"
PUBLIC_PATHS = ("/api", "/docs", "/openapi.json", "/health")  # not /metrics, which names hosts unasked
TENANCY_CONFIG = "tenancy"
POOL = 5  # connections a process keeps; it may open as many again under load


class Facade(Component[FacadeSettings]):
    """`url` is the public address, `internal_url` the one inside the cluster."""

    section = "facade"
    settings_type = FacadeSettings
    namespace = NAMESPACE
    needs = ("database",)
    database = "ironyard"

    def __init__(
        self, platform: Platform, *, database: Database, gateway: Gateway, monitoring: Monitoring
    ) -> None:
        super().__init__(platform)
        self.url: str | None = None
        self.internal_url: str | None = None
        self.discovery_token: pulumi.Output[str] | None = None
        self.ready: list[pulumi.Resource] = []
        if self.settings.enabled:
            self._install(database, gateway, monitoring)
        self.register_outputs(
            {
                "url": self.url,
                "internal_url": self.internal_url,
                "discovery_token": self.discovery_token,
            }
        )

    def _install(self, database: Database, gateway: Gateway, monitoring: Monitoring) -> None:
        settings = self.settings
        self.api = pods.api(settings.resources)
        account = ACCOUNT if settings.tenancy.enabled else None
        self.worker = pods.worker(settings.worker_resources, volumes=self._worker_volumes(), account=account)
        self.internal_url = f"http://{self.api.name}.{NAMESPACE}.svc:{pods.PORT}"
        space = self.create_namespace(NAMESPACE)
        closed = guard(self, NAMESPACE, self._allowed(gateway), after=[space])
        configured, stamps = self._configure(database, monitoring, space)
        rights = grant(self, settings.tenancy, NAMESPACE, [space]) if settings.tenancy.enabled else []
        migrated = self._migrate([*closed, *configured, *database.ready])
        served = [
            self._deploy(self.api, stamps, self._fixed_replicas, [migrated]),
            self._deploy(self.worker, stamps, settings.workers, [migrated, *rights]),
        ]
        self._keep_available(space)
        self.ready = [*served, self._publish(gateway, served)]
        if monitoring.watches:
            self._watch([*monitoring.definitions, space])

    def _worker_volumes(self) -> list[pods.Volume]:
        settings, found = self.settings, []
        if settings.keys_secret:
            keys = {"secret": {"secret_name": settings.keys_secret, "default_mode": 0o440}}
            found.append(pods.Volume("keys", pods.KEYS, keys, read_only=True))
        if settings.tenancy.enabled:
            file = {"items": [{"key": CONFIG_FILE, "path": CONFIG_FILE}]}
            config = {"config_map": {"name": TENANCY_CONFIG, **file}}
            found.append(pods.Volume("tenancy", CONFIG_FOLDER, config, read_only=True))
        return found

    @property
    def image(self) -> str:
        return self.platform.image(self.settings.image or IRONYARD)

    @property
    def _fixed_replicas(self) -> int | None:
        """None where the autoscaler decides, which an `up` must not undo."""
        return None if self.settings.max_replicas > self.settings.replicas else self.settings.replicas

    def _allowed(self, gateway: Gateway) -> list[Allow]:
        scraped = metrics(pods.PORT, pods=self.api.selector)
        if not gateway.settings.enabled:
            return [scraped]
        entrance = (gateway.parent_namespace,)
        return [Allow("gateway", namespaces=entrance, ports=[pods.PORT], pods=self.api.selector), scraped]

    def _configure(
        self, database: Database, monitoring: Monitoring, space: pulumi.Resource
    ) -> tuple[list[pulumi.Resource], dict[str, pulumi.Input[str]]]:
        """ConfigMap and Secret of the settings, and annotations that change with what is in them."""
        plain, secret = self._plain(monitoring), self._secret(database, monitoring)
        made = [
            self._config_map(pods.SETTINGS, plain, space),
            self.create_secret(pods.SETTINGS, namespace=NAMESPACE, data=secret, after=[space]),
        ]
        tenancy = self.settings.tenancy
        if tenancy.enabled:
            made.append(self._config_map(TENANCY_CONFIG, {CONFIG_FILE: tenancy.configuration()}, space))
        stamped = json.dumps([plain, tenancy.configuration()], sort_keys=True)
        digest = hashlib.sha256(stamped.encode()).hexdigest()[:16]
        stamps: dict[str, pulumi.Input[str]] = {
            "ironyard.io/settings": digest,
            # a digest of random values tells nothing of them
            "ironyard.io/secrets": pulumi.Output.unsecret(fingerprint(*secret.values())),
        }
        return made, stamps

    def _config_map(
        self, name: str, data: dict[str, str], space: pulumi.Resource
    ) -> kubernetes.core.v1.ConfigMap:
        return kubernetes.core.v1.ConfigMap(
            f"{NAMESPACE}-{name}",
            metadata={"name": name, "namespace": NAMESPACE, "labels": MANAGED},
            data=data,
            opts=self.options(after=[space]),
        )

    def _plain(self, monitoring: Monitoring) -> dict[str, str]:
        settings = self.settings
        plain = {
            "mode": "production",
            "administrator_email": settings.administrator_email,
            "database_pool_size": str(POOL),
            **({"prometheus_url": monitoring.url} if monitoring.url else {}),
            **{name: str(value) for name, value in settings.options.items()},
        }
        if settings.tenancy.enabled:
            plain |= {
                "tenancy_stack": settings.tenancy.stack,
                "tenancy_backend": settings.tenancy.backend,
                "tenancy_config": f"{CONFIG_FOLDER}/{CONFIG_FILE}",
            }
        return {f"IRONYARD_{name.upper()}": value for name, value in plain.items()}

    def _secret(self, database: Database, monitoring: Monitoring) -> dict[str, pulumi.Input[str]]:
        discovery = monitoring.discovery
        token = discovery.token if discovery else self.generate("discovery-token", length=40)
        self.discovery_token = token
        secret: dict[str, pulumi.Input[str]] = {
            "IRONYARD_DATABASE_URL": database.for_component(Facade).dsn,
            "IRONYARD_TOKEN_SECRET": self.generate("token-secret", length=48),
            # the SSH keys in the database can be read with this one alone
            "IRONYARD_ENCRYPTION_SECRET": self.generate("encryption-secret", length=48, protect=True),
            # earlier records stay checkable without it, but a new one would name another key
            "IRONYARD_PROOF_SECRET": self.generate("proof-secret", length=48, protect=True),
            "IRONYARD_DISCOVERY_TOKEN": token,
        }
        if self.settings.tenancy.enabled:
            secret["IRONYARD_TENANCY_PASSPHRASE"] = self.generate(
                "tenancy-passphrase", length=48, protect=True
            )
            for name, value in self.settings.tenancy.credentials.items():
                secret[name] = value.get_secret_value()
        return secret

    def _migrate(self, after: list[pulumi.Resource]) -> pulumi.Resource:
        """A Job for each image: its name carries the image, so that a new one migrates first."""
        role = pods.migration()
        job: pulumi.Resource = self.run_once(
            role.name,
            namespace=NAMESPACE,
            container=role.container(self.image),
            after=after,
            **role.surroundings(),
        )
        return job

    def _deploy(
        self,
        role: pods.Role,
        stamps: dict[str, pulumi.Input[str]],
        replicas: int | None,
        after: list[pulumi.Resource],
    ) -> kubernetes.apps.v1.Deployment:
        spec: dict[str, Any] = {
            "selector": {"match_labels": role.selector},
            "strategy": {
                "type": "RollingUpdate",
                "rolling_update": {"max_surge": 1, "max_unavailable": 0},
            },
            "template": {
                "metadata": {"labels": role.labels, "annotations": stamps},
                "spec": {
                    "containers": [role.container(self.image)],
                    "topology_spread_constraints": role.spread(),
                    **role.surroundings(),
                },
            },
        }
        if replicas is not None:
            spec["replicas"] = replicas
        return kubernetes.apps.v1.Deployment(
            f"{NAMESPACE}-{role.name}",
            metadata=self._metadata(role),
            spec=spec,
            opts=self.options(after=after),
        )

    def _metadata(self, role: pods.Role) -> dict[str, Any]:
        return {"name": role.name, "namespace": NAMESPACE, "labels": role.labels}

    def _publish(self, gateway: Gateway, served: list[pulumi.Resource]) -> pulumi.Resource:
        # after the pods: a Service without them is waited for, and a roll-out that fails would hang there
        service: pulumi.Resource = kubernetes.core.v1.Service(
            f"{NAMESPACE}-{self.api.name}",
            metadata=self._metadata(self.api),
            spec={
                "type": "ClusterIP",
                "selector": self.api.selector,
                "ports": [{"name": "http", "port": pods.PORT, "target_port": "http", "protocol": "TCP"}],
            },
            opts=self.options(after=served),
        )
        host = self.platform.host(self.settings.name)
        routed = gateway.route(
            self.api.name,
            host=host,
            namespace=NAMESPACE,
            service=self.api.name,
            port=pods.PORT,
            paths=PUBLIC_PATHS,
            after=[service],
        )
        self.url = f"https://{host}" if routed is not None else self.internal_url
        return service

    def _keep_available(self, space: pulumi.Resource) -> None:
        settings = self.settings
        for role, number in ((self.api, settings.replicas), (self.worker, settings.workers)):
            if number > 1:  # a budget over a single pod would block every drain of its node
                kubernetes.policy.v1.PodDisruptionBudget(
                    f"{NAMESPACE}-{role.name}",
                    metadata=self._metadata(role),
                    spec={"max_unavailable": 1, "selector": {"match_labels": role.selector}},
                    opts=self.options(after=[space]),
                )
        if self._fixed_replicas is None:
            cpu = {"type": "Utilization", "average_utilization": settings.target_cpu}
            kubernetes.autoscaling.v2.HorizontalPodAutoscaler(
                f"{NAMESPACE}-{self.api.name}",
                metadata=self._metadata(self.api),
                spec={
                    "scale_target_ref": {
                        "api_version": "apps/v1",
                        "kind": "Deployment",
                        "name": self.api.name,
                    },
                    "min_replicas": settings.replicas,
                    "max_replicas": settings.max_replicas,
                    "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": cpu}}],
                    "behavior": {"scale_down": {"stabilization_window_seconds": 300}},
                },
                opts=self.options(after=[space]),
            )

    def _watch(self, after: list[pulumi.Resource]) -> None:
        self.custom(
            "monitoring.coreos.com/v1",
            "ServiceMonitor",
            self.api.name,
            namespace=NAMESPACE,
            labels=self.api.selector,
            spec={
                "jobLabel": "app.kubernetes.io/name",
                "selector": {"matchLabels": self.api.selector},
                "endpoints": [{"port": "http", "path": "/metrics", "interval": "30s"}],
            },
            after=after,
        )
