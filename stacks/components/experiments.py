"""Experiment tracking: MLflow on the platform's database and storage, or one elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import pulumi
import pulumi_kubernetes as kubernetes
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import MANAGED, Component, ComponentSettings, Platform, Resources
from stacks.components.database import MONITORS, Database
from stacks.components.gateway import Gateway
from stacks.components.keys import fingerprint
from stacks.components.monitoring import Monitoring
from stacks.components.network import FACADE, Allow, guard, metrics
from stacks.components.storage import Bucket, Storage
from stacks.settings import Frozen, HttpAddress
from stacks.versions import MLFLOW, MLFLOW_SERVER

NAMESPACE = "ironyard-experiments"
NAME = "mlflow"
PORT = 5000
PODS = {"app.kubernetes.io/name": NAME}
ADMINISTRATOR = "admin"
SECRET = "mlflow"  # noqa: S105  # a name, not a value
SETTINGS_FOLDER = "/etc/mlflow"
# private addresses: probes and Prometheus come by the pod's own
PRIVATE = ("localhost:*", "127.0.0.1:*", "10.*", "192.168.*", *(f"172.{n}.*" for n in range(16, 32)))
BASIC_AUTH = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {uri}
admin_username = {user}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


class ExternalMlflow(Frozen):
    """An MLflow that exists; the account administers it."""

    url: HttpAddress
    user: str = ADMINISTRATOR
    password: SecretStr


class ExperimentsSettings(ComponentSettings):
    """Runs, metrics, models and artifacts of the workspaces' experiments."""

    mode: Literal["mlflow", "external", "off"] = "mlflow"
    workers: int = Field(default=2, ge=1, le=64, description="processes of each replica")
    resources: Resources = Field(
        default=Resources(cpu="250m", memory="1Gi", cpu_limit="2"), description="of each replica"
    )
    external: ExternalMlflow | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: url, password")
        return self


@dataclass(frozen=True)
class Tracking:
    """An MLflow and an account that administers it. `internal_url` is for those inside the cluster."""

    url: str
    internal_url: str
    user: str
    password: pulumi.Output[str]


class Experiments(Component[ExperimentsSettings]):
    """MLflow behind the gateway. Everybody logs in; artifacts pass through it, so clients need no S3 key."""

    section = "experiments"
    settings_type = ExperimentsSettings
    namespace = NAMESPACE
    needs = ("database", "storage")
    bucket = "experiments"
    database = "experiments"

    def __init__(
        self,
        platform: Platform,
        *,
        database: Database,
        storage: Storage,
        gateway: Gateway,
        monitoring: Monitoring,
    ) -> None:
        super().__init__(platform)
        self.tracking: Tracking | None = None
        self.ready: list[pulumi.Resource] = []
        if self.settings.mode == "external":
            given = self.settings.external
            assert given is not None
            password = pulumi.Output.secret(given.password.get_secret_value())
            self.tracking = Tracking(given.url, given.url, given.user, password)
        elif self.settings.mode == "mlflow":
            self.tracking = self._install(database, storage, gateway, monitoring)
        self.register_outputs({"url": self.tracking.url if self.tracking else None})

    def _install(
        self, database: Database, storage: Storage, gateway: Gateway, monitoring: Monitoring
    ) -> Tracking:
        space = self.create_namespace(NAMESPACE)
        callers = Allow("entrance", namespaces=[gateway.parent_namespace, FACADE], ports=[PORT], pods=PODS)
        guard(self, NAMESPACE, [callers, metrics(PORT, pods=PODS)], after=[space])
        bucket = storage.for_component(Experiments)
        password = self.generate("admin-password", length=24, protect=True)
        data = self._secrets(database.for_component(Experiments).dsn, bucket, password)
        secret = self.create_secret(SECRET, namespace=NAMESPACE, data=data, after=[space])
        host = self.platform.host(self.section)
        values = self._values(host, bucket, monitoring)
        values["podAnnotations"] = {"ironyard/secrets": fingerprint(*data.values())}
        release = self.install(
            MLFLOW,
            namespace=NAMESPACE,
            values=values,
            after=[secret, self._make_account(space), *database.ready, *storage.ready],
        )
        if monitoring.watches:
            self._watch([release, *monitoring.definitions])
        gateway.route(self.section, host=host, namespace=NAMESPACE, service=NAME, port=PORT, after=[release])
        self.ready = [release]
        return Tracking(f"https://{host}", f"http://{NAME}.{NAMESPACE}.svc:{PORT}", ADMINISTRATOR, password)

    def _secrets(
        self, uri: pulumi.Output[str], bucket: Bucket, password: pulumi.Output[str]
    ) -> dict[str, pulumi.Output[str]]:
        settings = pulumi.Output.all(uri, password).apply(
            lambda given: BASIC_AUTH.format(
                uri=given[0].replace("%", "%%"), user=ADMINISTRATOR, password=given[1]
            )
        )
        return {
            "uri": uri,
            "basic_auth.ini": settings,
            "username": pulumi.Output.secret(ADMINISTRATOR),
            "password": password,
            "session-key": self.generate("session-key", length=48),
            "access-key": bucket.access_key,
            "secret-key": bucket.secret_key,
        }

    def _make_account(self, space: pulumi.Resource) -> pulumi.Resource:
        """Made here, so that it is there before any hook of the chart runs under it."""
        made: pulumi.Resource = kubernetes.core.v1.ServiceAccount(
            f"{NAMESPACE}-{NAME}",
            metadata={"name": NAME, "namespace": NAMESPACE, "labels": MANAGED},
            automount_service_account_token=False,
            opts=self.options(after=[space]),
        )
        return made

    def _watch(self, after: list[pulumi.Resource]) -> None:
        """The chart's own monitor does not log in."""
        account = {key: {"name": SECRET, "key": key} for key in ("username", "password")}
        spec = {
            "selector": {"matchLabels": PODS},
            "endpoints": [{"port": "http", "path": "/metrics", "basicAuth": account}],
        }
        self.custom(MONITORS, "ServiceMonitor", NAME, namespace=NAMESPACE, spec=spec, after=after)

    def _values(self, host: str, bucket: Bucket, monitoring: Monitoring) -> dict[str, Any]:
        hosts = (host, f"{host}:*", f"{NAME}.{NAMESPACE}.svc:{PORT}", *PRIVATE)
        return {
            "fullnameOverride": NAME,
            "image": {
                "repository": self.platform.image(MLFLOW_SERVER.name),
                "tag": MLFLOW_SERVER.tag,
            },
            "replicaCount": self.platform.replicas,
            "server": {
                "value_options": {
                    "host": "0.0.0.0",  # noqa: S104  # of its pod
                    "port": PORT,
                    "workers": self.settings.workers,
                    "app_name": "basic-auth",
                    "allowed_hosts": ",".join(hosts),
                    "cors_allowed_origins": f"https://{host}",
                }
            },
            "mlflow": {
                "backendStoreUriFrom": {"secretKeyRef": {"name": SECRET, "key": "uri"}},
                "artifactsDestination": f"s3://{bucket.name}/artifacts",
            },
            "env": _environment(bucket),
            "extraVolumes": [
                {
                    "name": "settings",
                    "secret": {
                        "secretName": SECRET,
                        "items": [{"key": "basic_auth.ini", "path": "basic_auth.ini"}],
                    },
                }
            ],
            "extraVolumeMounts": [{"name": "settings", "mountPath": SETTINGS_FOLDER, "readOnly": True}],
            "serviceAccount": {"create": False, "name": NAME},
            "metrics": {"enabled": monitoring.watches},
            "resources": self.settings.resources.render(),
        }


def _environment(bucket: Bucket) -> list[dict[str, Any]]:
    secret = {
        "AWS_ACCESS_KEY_ID": "access-key",
        "AWS_SECRET_ACCESS_KEY": "secret-key",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "password",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "session-key",
    }
    plain = {
        "AWS_DEFAULT_REGION": bucket.region,
        "HOME": "/tmp",  # noqa: S108  # the only place it may write
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMINISTRATOR,
        "MLFLOW_AUTH_CONFIG_PATH": f"{SETTINGS_FOLDER}/basic_auth.ini",
        "MLFLOW_S3_ENDPOINT_URL": bucket.endpoint,
        **bucket.client_environment,
    }
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}
            for name, key in secret.items()
        ),
    ]
