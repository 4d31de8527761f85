"""PostgreSQL: CloudNativePG in the cluster with backups to the storage, or servers elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import quote

import pulumi
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import PROJECT, Component, ComponentSettings, Platform, Resources
from stacks.components.monitoring import Monitoring
from stacks.components.network import Allow, guard, metrics
from stacks.components.storage import Bucket, Storage
from stacks.settings import Frozen, Hostname, Quantity
from stacks.versions import CLOUDNATIVE_PG, POSTGRESQL

MONITORS = "monitoring.coreos.com/v1"
API = "postgresql.cnpg.io/v1"
NAMESPACE = "ironyard-database"
CLUSTER = "ironyard"
PORT = 5432
INSTANCES = {"cnpg.io/cluster": CLUSTER}
OPERATOR = {"app.kubernetes.io/name": "cloudnative-pg"}
SslMode = Literal["disable", "require", "verify-ca", "verify-full"]


class ExternalLogin(Frozen):
    """A role that owns one database of an external server; both must exist."""

    user: str
    password: SecretStr
    database: str | None = Field(default=None, description="absent: called as the platform calls it")


class ExternalPostgres(Frozen):
    """A PostgreSQL that exists. The platform never gets its administrator's password."""

    host: Hostname
    port: int = Field(default=PORT, ge=1, le=65535)
    sslmode: SslMode = "require"
    logins: dict[str, ExternalLogin] = Field(default={}, description="by the name of the database")


class DatabaseSettings(ComponentSettings):
    """PostgreSQL for every component that keeps records."""

    mode: Literal["cloudnative-pg", "external", "off"] = "cloudnative-pg"
    instances: int | None = Field(
        default=None, ge=1, le=9, description="absent: 3 where highly available, else 1"
    )
    size: Quantity = Field(default="20Gi", description="of each instance's disk")
    resources: Resources = Resources(cpu="500m", memory="1Gi")
    parameters: dict[str, str] = Field(
        default={"max_connections": "200", "shared_buffers": "256MB"},
        description="of postgresql.conf",
    )
    backups: bool = Field(default=True, description="base backups and write-ahead log, to the storage")
    schedule: str = Field(
        default="0 0 3 * * *",
        pattern=r"^\S+( \S+){5}$",
        description="of the base backups: cron with seconds first, UTC",
    )
    retention: str = Field(
        default="30d", pattern=r"^[1-9][0-9]*[dwm]$", description="days (d), weeks (w) or months (m)"
    )
    external: ExternalPostgres | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: host, logins")
        return self


@dataclass(frozen=True)
class Login:
    """One database and the role that owns it and nothing else."""

    host: str
    port: int
    database: str
    user: str
    password: pulumi.Output[str]
    sslmode: SslMode

    @property
    def dsn(self) -> pulumi.Output[str]:
        """`postgresql://user:password@host:port/database?sslmode=…`, a secret."""
        place = f"{self.host}:{self.port}/{quote(self.database, safe='')}?sslmode={self.sslmode}"
        return self.password.apply(
            lambda password: f"postgresql://{quote(self.user, safe='')}:{quote(password, safe='')}@{place}"
        )


class Database(Component[DatabaseSettings]):
    """Makes one database, with a role of its own, for every component here that asks for one."""

    section = "database"
    settings_type = DatabaseSettings
    namespace = NAMESPACE
    bucket = "database"

    def __init__(self, platform: Platform, *, storage: Storage, monitoring: Monitoring) -> None:
        super().__init__(platform)
        self.logins: dict[str, Login] = {}
        self.ready: list[pulumi.Resource] = []
        if self.settings.mode == "external":
            self._use_external()
        elif self.settings.mode == "cloudnative-pg":
            self._install(storage, monitoring)
        self.register_outputs({"host": next((login.host for login in self.logins.values()), None)})

    @classmethod
    def faults(cls, sections: Mapping[str, Frozen]) -> list[str]:
        settings, storage = sections[cls.section], sections[Storage.section]
        assert isinstance(settings, DatabaseSettings)
        assert isinstance(storage, ComponentSettings)
        if settings.hosted and settings.backups and not storage.enabled:
            fault = (
                "database needs storage, which is off, for its backups; switch it on, name an external one"
            )
            return [f"{PROJECT}:{cls.section}.backups: {fault}, or set backups to false"]
        if settings.mode != "external" or settings.external is None:
            return []
        path = f"{PROJECT}:{cls.section}.external.logins"
        return [
            f"{path}.{user.database}: {name} needs a login here: user, password"
            for name, user in Component.known.items()
            if user.database and _hosted(sections[name]) and user.database not in settings.external.logins
        ]

    def for_component(self, component: type[Component[Any]]) -> Login:
        """The login to the database that `component` asked for."""
        assert component.database is not None
        return self.logins[component.database]

    def _users(self) -> list[type[Component[Any]]]:
        return [c for c in Component.known.values() if c.database and self.platform.hosts(c)]

    def _use_external(self) -> None:
        given = self.settings.external
        assert given is not None
        for name in sorted({str(user.database) for user in self._users()}):
            login = given.logins[name]
            password = pulumi.Output.secret(login.password.get_secret_value())
            self.logins[name] = Login(
                given.host, given.port, login.database or name, login.user, password, given.sslmode
            )

    def _install(self, storage: Storage, monitoring: Monitoring) -> None:
        space = self.create_namespace(NAMESPACE, protect=True)
        callers = sorted({user.namespace for user in self._users()})
        webhook = Allow("webhook", ports=[9443], pods=OPERATOR, anywhere=True)
        clients = [Allow("clients", namespaces=callers, ports=[PORT], pods=INSTANCES)] if callers else []
        # the operator needs them, so that they outlive the stack together with its data
        closed = guard(self, NAMESPACE, [*clients, webhook, metrics(9187, 8080)], after=[space])
        operator = self.install(
            CLOUDNATIVE_PG,
            namespace=NAMESPACE,
            values=self._values(monitoring),
            after=[*closed, *monitoring.definitions],
        )
        cluster = self._make_cluster(operator, storage)
        if monitoring.watches:
            spec = {"selector": {"matchLabels": INSTANCES}, "podMetricsEndpoints": [{"port": "metrics"}]}
            self.custom(MONITORS, "PodMonitor", CLUSTER, namespace=NAMESPACE, spec=spec, after=[operator])
        names = sorted({str(user.database) for user in self._users()})
        self.ready = [self._make_database(name, cluster) for name in names] or [cluster]

    def _values(self, monitoring: Monitoring) -> dict[str, Any]:
        return {
            "replicaCount": self.platform.replicas,
            "image": {"repository": self.platform.image("ghcr.io/cloudnative-pg/cloudnative-pg")},
            "resources": Resources(cpu="200m", memory="256Mi").render(),
            "monitoring": {"podMonitorEnabled": monitoring.watches},
        }

    def _make_cluster(self, operator: pulumi.Resource, storage: Storage) -> pulumi.Resource:
        settings, cluster = self.settings, self.platform.cluster
        instances = settings.instances or (3 if cluster.high_availability else 1)
        disk: dict[str, Any] = {"size": settings.size}
        if cluster.storage_class:
            disk["storageClass"] = cluster.storage_class
        spec: dict[str, Any] = {
            "instances": instances,
            "imageName": self.platform.image(POSTGRESQL),
            "enablePDB": instances > 1,  # with one instance it would block every drain of a node
            "primaryUpdateStrategy": "unsupervised",
            "affinity": {"enablePodAntiAffinity": True, "topologyKey": "kubernetes.io/hostname"},
            "bootstrap": {"initdb": {"database": "app", "owner": "app", "dataChecksums": True}},
            "postgresql": {
                "parameters": settings.parameters,
                "pg_hba": ["hostnossl all all all reject"],
            },
            "resources": settings.resources.render(),
            "storage": disk,
        }
        after = [operator]
        if settings.backups:
            bucket = storage.for_component(Database)
            after += [self._make_backup_key(bucket), *storage.ready]
            spec |= _backup(bucket, settings.retention)
        made: pulumi.Resource = self.custom(
            API, "Cluster", CLUSTER, namespace=NAMESPACE, spec=spec, after=after, protect=True
        )
        if settings.backups:
            schedule = {
                "cluster": {"name": CLUSTER},
                "schedule": settings.schedule,
                "immediate": True,
                "backupOwnerReference": "self",
                "method": "barmanObjectStore",
            }
            self.custom(API, "ScheduledBackup", CLUSTER, namespace=NAMESPACE, spec=schedule, after=[made])
        return made

    def _make_backup_key(self, bucket: Bucket) -> pulumi.Resource:
        data = {"accessKeyId": bucket.access_key, "secretAccessKey": bucket.secret_key}
        made: pulumi.Resource = self.create_secret(
            "backup-key", namespace=NAMESPACE, data={**data, "region": bucket.region}
        )
        return made

    def _make_database(self, name: str, cluster: pulumi.Resource) -> pulumi.Resource:
        password = self.generate(f"{name}-password", length=32)
        self.logins[name] = Login(f"{CLUSTER}-rw.{NAMESPACE}.svc", PORT, name, name, password, "require")
        secret = self.create_secret(
            f"login-{name}",
            namespace=NAMESPACE,
            data={"username": name, "password": password},
            kind="kubernetes.io/basic-auth",
            labels={"cnpg.io/reload": "true"},
        )
        role = {
            "cluster": {"name": CLUSTER},
            "name": name,
            "login": True,
            "passwordSecret": {"name": f"login-{name}"},
        }
        owner = self.custom(
            API, "DatabaseRole", name, namespace=NAMESPACE, spec=role, after=[cluster, secret]
        )
        spec = {"cluster": {"name": CLUSTER}, "name": name, "owner": name}
        made: pulumi.Resource = self.custom(
            API, "Database", name, namespace=NAMESPACE, spec=spec, after=[owner]
        )
        return made


def _hosted(section: Frozen) -> bool:
    return isinstance(section, ComponentSettings) and section.hosted


def _backup(bucket: Bucket, retention: str) -> dict[str, Any]:
    """The Cluster's `backup`, and what its S3 client must be told."""
    keys = ("accessKeyId", "secretAccessKey", "region")
    store = {
        "destinationPath": f"s3://{bucket.name}/",
        "endpointURL": bucket.endpoint,
        "s3Credentials": {key: {"name": "backup-key", "key": key} for key in keys},
        "wal": {"compression": "gzip", "maxParallel": 4},
        "data": {"compression": "gzip"},
    }
    spec: dict[str, Any] = {"backup": {"barmanObjectStore": store, "retentionPolicy": retention}}
    if variables := bucket.client_environment:
        spec["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    return spec
