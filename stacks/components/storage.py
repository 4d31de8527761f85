"""S3 storage: SeaweedFS in the cluster, or any S3 elsewhere by its endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import pulumi
import pulumi_kubernetes as kubernetes
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import UNPRIVILEGED, Component, ComponentSettings, Platform, Resources
from stacks.components.keys import fingerprint
from stacks.components.network import Allow, guard, metrics
from stacks.settings import Frozen, HttpAddress, Quantity
from stacks.versions import SEAWEEDFS, SEAWEEDFS_SHELL

if TYPE_CHECKING:
    from stacks.components.monitoring import Monitoring

NAMESPACE = "ironyard-storage"
S3_PORT = 8333
METRICS_PORT = 9327
SHELL_USER = 1000
CONFIG_KEY = "seaweedfs_s3_config"


class ExternalS3(Frozen):
    """An S3 that exists: MinIO, RustFS, Ceph, a vendor's. The buckets must exist in it."""

    endpoint: HttpAddress
    region: str = "us-east-1"
    access_key: SecretStr
    secret_key: SecretStr
    bucket_prefix: str = Field(default="", description="put before the name of each bucket")


class StorageSettings(ComponentSettings):
    """S3 storage for backups, images, artifacts and logs."""

    mode: Literal["seaweedfs", "external", "off"] = "seaweedfs"
    size: Quantity = Field(default="100Gi", description="of each volume server's disk")
    volume_servers: int = Field(default=1, ge=1, le=100)
    copies: Literal[1, 2, 3] = Field(default=1, description="of each object, on different servers")
    resources: Resources = Resources(cpu="500m", memory="1Gi")
    external: ExternalS3 | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "external" and self.external is None:
            raise ValueError("mode external needs `external`: endpoint, access_key, secret_key")
        if self.copies > self.volume_servers:
            raise ValueError(f"{self.copies} copies need at least as many volume_servers")
        return self


@dataclass(frozen=True)
class Bucket:
    """A bucket and a key that opens it and nothing else (an external S3: the one key given)."""

    name: str
    endpoint: str
    region: str
    access_key: pulumi.Output[str]
    secret_key: pulumi.Output[str]

    @property
    def address(self) -> str:
        """Host and port without the scheme."""
        return self.endpoint.partition("://")[2].rstrip("/")

    @property
    def encrypted(self) -> bool:
        return self.endpoint.startswith("https://")

    @property
    def client_environment(self) -> dict[str, str]:
        """Variables for clients made for Amazon's S3: others do not know its newer checksums."""
        if self.endpoint.rstrip("/").endswith(".amazonaws.com"):
            return {}
        names = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
        return dict.fromkeys(names, "when_required")


class Storage(Component[StorageSettings]):
    """Makes one bucket, with a key of its own, for every enabled component that asks for one."""

    section = "storage"
    settings_type = StorageSettings
    namespace = NAMESPACE

    def __init__(self, platform: Platform, *, monitoring: Monitoring) -> None:
        super().__init__(platform)
        self.buckets: dict[str, Bucket] = {}
        self.ready: list[pulumi.Resource] = []
        users = [c for c in Component.known.values() if c.bucket and platform.hosts(c)]
        wanted = sorted({str(user.bucket) for user in users})
        if self.settings.mode == "external":
            self._use_external(wanted)
        elif self.settings.mode == "seaweedfs":
            self._install_seaweedfs(wanted, sorted({user.namespace for user in users}), monitoring)
        self.register_outputs({"endpoint": next((b.endpoint for b in self.buckets.values()), None)})

    def for_component(self, component: type[Component[Any]]) -> Bucket:
        """The bucket that `component` asked for."""
        assert component.bucket is not None
        return self.buckets[component.bucket]

    def _use_external(self, wanted: list[str]) -> None:
        given = self.settings.external
        assert given is not None
        for name in wanted:
            self.buckets[name] = Bucket(
                given.bucket_prefix + name,
                given.endpoint,
                given.region,
                pulumi.Output.secret(given.access_key.get_secret_value()),
                pulumi.Output.secret(given.secret_key.get_secret_value()),
            )

    def _install_seaweedfs(self, wanted: list[str], users: list[str], monitoring: Monitoring) -> None:
        space = self.create_namespace(NAMESPACE, security="baseline", protect=True)
        s3 = {"app.kubernetes.io/component": "s3"}
        allows = [Allow("s3", namespaces=users, ports=(S3_PORT,), pods=s3)] if users else []
        # the release needs them, so that they outlive the stack together with its data
        closed = guard(self, NAMESPACE, [*allows, metrics(METRICS_PORT)], after=[space])
        endpoint = f"http://seaweedfs-s3.{NAMESPACE}.svc:{S3_PORT}"
        for name in wanted:
            access = self.generate(f"{name}-access-key", length=20)
            secret = self.generate(f"{name}-secret-key", length=40)
            self.buckets[name] = Bucket(name, endpoint, "us-east-1", access, secret)
        keys = self.create_secret(
            "s3-identities",
            namespace=NAMESPACE,
            data={CONFIG_KEY: self._identities()},
            after=[space],
        )
        release = self.install(
            SEAWEEDFS,
            namespace=NAMESPACE,
            values=self._values(monitoring),
            after=[keys, *closed, *monitoring.definitions],
            protect=True,
        )
        self.ready = [self._make_buckets(wanted, release)] if wanted else [release]

    def _make_buckets(self, buckets: list[str], release: pulumi.Resource) -> kubernetes.batch.v1.Job:
        """A Job that makes the buckets that are missing; another list of buckets is another Job."""
        shell = (
            f"weed shell -master=seaweedfs-master.{NAMESPACE}:9333 -filer=seaweedfs-filer.{NAMESPACE}:8888"
        )
        script = "\n".join(
            [
                "set -eu",
                f'run() {{ echo "$1" | {shell}; }}',
                f"for bucket in {' '.join(buckets)}; do",
                '  run s3.bucket.list | grep -qw "$bucket" || run "s3.bucket.create -name $bucket"',
                '  run s3.bucket.list | grep -w "$bucket"',
                "done",
            ]
        )
        container = {
            "name": "weed",
            "image": self.platform.image(SEAWEEDFS_SHELL),
            "command": ["/bin/sh", "-c", script],
            "resources": Resources(cpu="100m", memory="128Mi").render(),
            # its image names no user, so that as it is it would be refused as root
            "security_context": {**UNPRIVILEGED, "run_as_user": SHELL_USER},
        }
        return self.run_once("make-buckets", namespace=NAMESPACE, container=container, after=[release])

    def _identities(self) -> pulumi.Output[str]:
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": bucket.access_key, "secretKey": bucket.secret_key}],
                "actions": [f"{action}:{name}" for action in ("Read", "Write", "List", "Tagging")],
            }
            for name, bucket in self.buckets.items()
        ]
        return pulumi.Output.json_dumps({"identities": identities}, sort_keys=True)

    def _values(self, monitoring: Monitoring) -> dict[str, Any]:
        settings = self.settings
        disk = {"type": "persistentVolumeClaim", "storageClass": self.platform.cluster.storage_class or ""}
        resources = settings.resources.render()
        return {
            "global": {
                "imageRegistry": self.platform.cluster.images or "",
                "seaweedfs": {"monitoring": {"enabled": monitoring.watches}},
            },
            "master": {
                "replicas": 3 if self.platform.cluster.high_availability else 1,
                "defaultReplication": f"00{settings.copies - 1}",
                "data": {**disk, "size": "5Gi"},
                "logs": {"type": "emptyDir"},
                "resources": resources,
            },
            "volume": {
                "replicas": settings.volume_servers,
                "dataDirs": [{**disk, "name": "data", "size": settings.size, "maxVolumes": 0}],
                "resources": resources,
            },
            "filer": {
                "replicas": self.platform.replicas,
                "data": {**disk, "size": "20Gi"},
                "logs": {"type": "emptyDir"},
                "resources": resources,
            },
            "s3": {
                "enabled": True,
                "replicas": self.platform.replicas,
                "port": S3_PORT,
                "enableAuth": True,
                "existingConfigSecret": "s3-identities",
                # the gateway reads its identities when it starts
                "podAnnotations": {"ironyard/secrets": fingerprint(self._identities())},
                "resources": resources,
            },
        }
