"""What Harbor's chart is told: its backends, and the size and images of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from stacks.components.base import Platform, Resources
from stacks.components.cache import Server
from stacks.components.database import Login
from stacks.components.storage import Bucket

CONNECTIONS = 40  # of each process that opens a pool: all of them stay under the server's 200
SCANNER_DATABASES = {
    "dbRepository": "aquasecurity/trivy-db",
    "javaDBRepository": "aquasecurity/trivy-java-db",
}
IMAGES = {
    ("core",): "harbor-core",
    ("portal",): "harbor-portal",
    ("jobservice",): "harbor-jobservice",
    ("registry", "registry"): "registry-photon",
    ("registry", "controller"): "harbor-registryctl",
    ("nginx",): "nginx-photon",
    ("exporter",): "harbor-exporter",
    ("trivy",): "trivy-adapter-photon",
}


@dataclass(frozen=True)
class Backends:
    """What Harbor stands on, as its chart wants to be told of it."""

    login: Login
    server: Server
    bucket: Bucket

    def passwords(self) -> list[pulumi.Output[str]]:
        return [self.login.password, self.server.password, self.bucket.access_key, self.bucket.secret_key]

    def secrets(self) -> dict[str, Mapping[str, pulumi.Input[str]]]:
        return {
            "database": {"password": self.login.password},
            "cache": {"REDIS_PASSWORD": self.server.password},
            "storage": {
                "REGISTRY_STORAGE_S3_ACCESSKEY": self.bucket.access_key,
                "REGISTRY_STORAGE_S3_SECRETKEY": self.bucket.secret_key,
            },
        }

    def values(self) -> dict[str, Any]:
        return {
            "database": {
                "type": "external",
                "maxIdleConns": CONNECTIONS // 4,
                "maxOpenConns": CONNECTIONS,
                "external": {
                    "host": self.login.host,
                    "port": str(self.login.port),
                    "username": self.login.user,
                    "coreDatabase": self.login.database,
                    "sslmode": self.login.sslmode,
                    "existingSecret": "database",
                },
            },
            "redis": {
                "type": "external",
                "external": {
                    "addr": self.server.address,
                    "existingSecret": "cache",
                    "tlsOptions": {"enable": self.server.tls},
                },
            },
        }

    def storage(self) -> dict[str, Any]:
        return {
            "type": "s3",
            "disableredirect": True,  # clients cannot reach the storage, the registry can
            "s3": {
                "bucket": self.bucket.name,
                "region": self.bucket.region,
                "regionendpoint": self.bucket.endpoint,
                "existingSecret": "storage",
            },
        }


@dataclass(frozen=True)
class Parts:
    """Replicas, resources, budgets and images of Harbor's parts."""

    platform: Platform
    resources: Resources

    def render(self) -> dict[str, dict[str, Any]]:
        large = self.resources.render()
        small = Resources(cpu="50m", memory="128Mi", cpu_limit="500m").render()
        parts: dict[str, dict[str, Any]] = {
            "core": {"resources": large},
            "jobservice": {"resources": large},
            "portal": {"resources": small},
            "nginx": {"resources": small},
            "registry": {"registry": {"resources": large}, "controller": {"resources": small}},
            "trivy": {
                "resources": Resources(cpu="200m", memory="512Mi", cpu_limit="1", memory_limit="1Gi").render()
            },
        }
        for part in parts.values():
            part["replicas"] = self.platform.replicas
            part["podDisruptionBudget"] = {"enabled": self.platform.cluster.high_availability}
        parts["exporter"] = {"resources": small}
        for path, image in IMAGES.items() if self.platform.cluster.images else ():
            part = parts
            for key in path:
                part = part[key]
            part["image"] = {"repository": self.platform.image(f"docker.io/goharbor/{image}")}
        return parts


def scanner(platform: Platform) -> dict[str, Any]:
    """Where the scanner's vulnerability databases come from when there is no internet."""
    mirror = platform.cluster.images
    if mirror is None:
        return {}
    databases = {key: [f"{mirror}/{name}"] for key, name in SCANNER_DATABASES.items()}
    return {**databases, "offlineScan": True}
