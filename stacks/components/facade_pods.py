"""The facade's pods, as plain data: one image, three commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stacks.components.base import MANAGED, UNPRIVILEGED, Resources

PORT = 8080
UID = 10001  # of the account in the image
DATA = "/var/lib/ironyard"
KEYS = "/etc/ironyard/keys"
SETTINGS = "settings"
MIGRATE = "ironyard db upgrade && ironyard db bootstrap"
DRAIN = 5  # seconds for proxies to hear that a pod leaves


@dataclass(frozen=True)
class Volume:
    """A volume and where it is mounted; `source` as in a pod."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = False


@dataclass(frozen=True)
class Role:
    """One of the facade's parts: what its container runs and how it is watched."""

    name: str
    command: Sequence[str]
    resources: Resources
    probes: Mapping[str, Any] = field(default_factory=dict)
    ports: Sequence[Mapping[str, Any]] = ()
    volumes: Sequence[Volume] = ()
    lifecycle: Mapping[str, Any] | None = None
    grace: int = 30
    account: str | None = None

    @property
    def selector(self) -> dict[str, str]:
        return {"app.kubernetes.io/name": self.name}

    @property
    def labels(self) -> dict[str, str]:
        return MANAGED | self.selector

    def container(self, image: str) -> dict[str, Any]:
        """A container that may write to its own volumes alone."""
        made: dict[str, Any] = {
            "name": self.name.removeprefix("ironyard-"),
            "image": image,
            "image_pull_policy": "IfNotPresent",
            "command": list(self.command),
            "env_from": [
                {"config_map_ref": {"name": SETTINGS}},
                {"secret_ref": {"name": SETTINGS}},
            ],
            "resources": self.resources.render(),
            "security_context": UNPRIVILEGED | {"read_only_root_filesystem": True},
            "volume_mounts": [
                {"name": volume.name, "mount_path": volume.path, "read_only": volume.read_only}
                for volume in self._volumes()
            ],
            **self.probes,
        }
        if self.ports:
            made["ports"] = [dict(port) for port in self.ports]
        if self.lifecycle:
            made["lifecycle"] = dict(self.lifecycle)
        return made

    def surroundings(self) -> dict[str, Any]:
        """The rest of the pod's specification."""
        return {
            # a Service called ironyard would otherwise set a variable IRONYARD_PORT
            "enable_service_links": False,
            "service_account_name": self.account or "default",
            "automount_service_account_token": self.account is not None,
            "security_context": {
                "run_as_non_root": True,
                "run_as_user": UID,
                "run_as_group": UID,
                "fs_group": UID,
                "seccomp_profile": {"type": "RuntimeDefault"},
            },
            "termination_grace_period_seconds": self.grace,
            "volumes": [{"name": volume.name, **volume.source} for volume in self._volumes()],
        }

    def spread(self) -> list[dict[str, Any]]:
        """Over nodes and zones, as far as there are several."""
        return [
            {
                "max_skew": 1,
                "topology_key": key,
                "when_unsatisfiable": "ScheduleAnyway",
                "label_selector": {"match_labels": self.selector},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ]

    def _volumes(self) -> list[Volume]:
        return [
            Volume("tmp", "/tmp", {"empty_dir": {"size_limit": "1Gi"}}),  # noqa: S108  # of the container
            Volume("data", DATA, {"empty_dir": {"size_limit": "1Gi"}}),
            *self.volumes,
        ]


def api(resources: Resources) -> Role:
    """Answers without a worker as well; a pod that leaves still answers while proxies learn of it."""
    live = {"http_get": {"path": "/health/live", "port": "http"}}
    ready = {"http_get": {"path": "/health/ready?worker=false", "port": "http"}}
    return Role(
        "ironyard-api",
        ironyard("serve"),
        resources,
        probes={
            "startup_probe": live | {"period_seconds": 2, "timeout_seconds": 5, "failure_threshold": 60},
            "liveness_probe": live | {"period_seconds": 15, "timeout_seconds": 10, "failure_threshold": 4},
            "readiness_probe": ready | {"period_seconds": 5, "timeout_seconds": 5, "failure_threshold": 2},
        },
        ports=[{"name": "http", "container_port": PORT, "protocol": "TCP"}],
        lifecycle={"pre_stop": {"exec_": {"command": ["sleep", str(DRAIN)]}}},
        grace=DRAIN + 30,
    )


def worker(resources: Resources, *, volumes: Sequence[Volume], account: str | None) -> Role:
    """It gives back what it runs when it is stopped.

    Its check asks the database, so only ten minutes of silence restart it.
    """
    check = {"exec_": {"command": ["ironyard", "health", "--worker"]}}
    return Role(
        "ironyard-worker",
        ironyard("worker"),
        resources,
        probes={
            "liveness_probe": check
            | {
                "initial_delay_seconds": 60,
                "period_seconds": 60,
                "timeout_seconds": 30,
                "failure_threshold": 10,
            },
            "readiness_probe": check
            | {
                "initial_delay_seconds": 5,
                "period_seconds": 20,
                "timeout_seconds": 15,
                "failure_threshold": 3,
            },
        },
        volumes=volumes,
        grace=60,
        account=account,
    )


def migration() -> Role:
    """Brings the schema up to date; on an empty database it also makes the first administrator."""
    command = ["tini", "--", "sh", "-ec", MIGRATE]
    return Role("ironyard-migration", command, Resources(cpu="200m", memory="512Mi", cpu_limit="1"))


def ironyard(command: str) -> list[str]:
    return ["tini", "--", "ironyard", command]
