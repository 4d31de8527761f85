"""What a cluster's tenancy can be told: one section a concern, each with defaults that are fit to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

from pydantic import Field, SecretStr, StringConstraints, model_validator

from stacks.settings import ConfigurationError, Frozen, HttpAddress, Name, Quantity, check

PROJECT = "ironyard-tenancy"
LONGEST_SLUG = 40  # characters of a workspace's slug
LONGEST_NAME = 63  # characters of a namespace's name

LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
Network = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+/\d{1,3}$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9-]{0,21})?$")]
Level = Literal["restricted", "baseline", "privileged"]


class FacadeSettings(Frozen):
    """Where the ledger is read from when the stack is run by hand; an operation of the worker needs none."""

    url: HttpAddress | None = Field(
        default=None, description="of the facade, such as https://ironyard.example"
    )
    token: SecretStr | None = Field(default=None, description="API key of an operator or administrator")


class ClusterSettings(Frozen):
    """The cluster that follows the ledger."""

    kubeconfig: str | None = Field(
        default=None, description="path or content; absent: what kubectl would use"
    )
    context: str | None = Field(default=None, description="absent: the current one")


class Roles(Frozen):
    """The ClusterRole that each role in a workspace has in its namespace."""

    owner: str = Field(default="admin", description="ClusterRole of an owner")
    admin: str = Field(default="admin", description="of an admin")
    member: str = Field(default="edit", description="of a member")
    viewer: str = Field(default="view", description="of a viewer")


class WorkspacesSettings(Frozen):
    """Each workspace's namespace, and who may do what there."""

    prefix: Prefix = Field(default="ws-", description="put before a slug to name the namespace")
    delete_namespaces: bool = Field(
        default=False,
        description="delete the namespace of a workspace that is gone; false: keep it, closed to members",
    )
    pod_security: Level = Field(default="baseline", description="pods are refused beyond this level")
    warn: Level = Field(default="restricted", description="pods are warned about beyond this level")
    user_prefix: str = Field(
        default="", description="put before an e-mail address to name the user, as the API server does"
    )
    roles: Roles = Roles()


class LimitsSettings(Frozen):
    """What a namespace may use beside GPUs, and what a container gets that asks for nothing."""

    cpu: int = Field(default=32, ge=1, le=100_000, description="CPUs requested in all, without GPUs")
    cpu_per_gpu: int = Field(default=16, ge=0, le=1024, description="CPUs added for each GPU of the quota")
    memory_gib: int = Field(default=128, ge=1, le=1_000_000, description="requested in all, without GPUs")
    memory_gib_per_gpu: int = Field(default=192, ge=0, le=100_000, description="added for each GPU")
    storage: Quantity = Field(default="2Ti", description="of all volumes together")
    volumes: int = Field(default=50, ge=0, le=100_000, description="persistent volume claims at once")
    pods: int = Field(default=200, ge=1, le=100_000, description="pods at once")
    volume: Quantity = Field(default="1Ti", description="the largest volume")
    container_cpu: Quantity = Field(default="2", description="limit of a container that names none")
    container_memory: Quantity = Field(default="8Gi", description="limit of a container that names none")
    container_cpu_request: Quantity = Field(default="500m", description="request where none is named")
    container_memory_request: Quantity = Field(default="1Gi", description="request where none is named")
    others: dict[str, Quantity] = Field(
        default_factory=dict,
        description="further keys of the ResourceQuota, such as requests.nvidia.com/mig-1g.10gb: 0",
    )


class GpuModel(Frozen):
    """One GPU model as the cluster knows it."""

    product: LabelValue | None = Field(
        default=None, description="the nodes' value of the label; absent: as GPU feature discovery writes it"
    )
    flavor: Name | None = Field(default=None, description="the ResourceFlavor's name; absent: made from it")


class GpusSettings(Frozen):
    """GPU models of the ledger and the nodes that have them."""

    resource: str = Field(
        default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9_.-]+$", description="counted as GPUs"
    )
    label: str = Field(
        default="nvidia.com/gpu.product", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9_.-]+$", description="of the nodes"
    )
    models: dict[str, GpuModel] = Field(
        default_factory=dict, description="model in the ledger → product and flavor, where they differ"
    )

    @model_validator(mode="after")
    def _flavors_differ(self) -> Self:
        named = [model.flavor for model in self.models.values() if model.flavor]
        twice = sorted({flavor for flavor in named if named.count(flavor) > 1})
        if twice:
            raise ValueError(f"two models have the flavor {twice[0]}")
        return self


class QueueingSettings(Frozen):
    """Kueue's queues. Without Kueue the namespaces' quotas hold alone."""

    mode: Literal["kueue", "off"] = Field(default="kueue", description="`off`: no flavors and no queues")
    cohort: Name = Field(default="ironyard", description="of all queues; nobody borrows from it")
    local_queue: Name = Field(default="default", description="Kueue takes this name where a job names none")
    default_flavor: Name = Field(default="ironyard-general", description="of CPU and memory, on any node")


class NetworkSettings(Frozen):
    """What reaches a workspace's pods, and what they reach; another workspace's pods never."""

    mode: Literal["isolated", "off"] = Field(default="isolated", description="`off`: no network policies")
    egress: bool = Field(default=True, description="pods reach the world outside the namespace")
    egress_except: list[Network] = Field(
        default=["169.254.169.254/32", "fd00:ec2::254/128"],
        description="but not these networks: cloud metadata, which hands out credentials",
    )
    gateway_namespace: Name = Field(default="ironyard-gateway", description="its pods reach in")
    monitoring_namespace: Name = Field(default="ironyard-monitoring", description="its pods reach in")


class RegistrySettings(Frozen):
    """A Harbor project for each workspace."""

    mode: Literal["harbor", "off"] = Field(default="off", description="`off`: no projects")
    url: HttpAddress | None = Field(default=None, description="of Harbor, as nodes reach it")
    username: str = Field(default="admin", description="an administrator's")
    password: SecretStr | None = Field(default=None, description="that account's; set it with --secret")
    storage_gib: int = Field(default=100, ge=1, le=1_000_000, description="quota of a project")
    delete_projects: bool = Field(
        default=False, description="delete the project of a workspace that is gone, if it is empty"
    )
    ca_file: str | None = Field(default=None, description="certificates to trust; absent: the system's")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "harbor" and (self.url is None or self.password is None):
            raise ValueError("mode harbor needs `url` and `password`")
        return self


SECTIONS: dict[str, type[Frozen]] = {
    "facade": FacadeSettings,
    "cluster": ClusterSettings,
    "workspaces": WorkspacesSettings,
    "limits": LimitsSettings,
    "gpus": GpusSettings,
    "queueing": QueueingSettings,
    "network": NetworkSettings,
    "registry": RegistrySettings,
}


class TenancySettings(NamedTuple):
    facade: FacadeSettings
    cluster: ClusterSettings
    workspaces: WorkspacesSettings
    limits: LimitsSettings
    gpus: GpusSettings
    queueing: QueueingSettings
    network: NetworkSettings
    registry: RegistrySettings


def read(given: Mapping[str, Any]) -> TenancySettings:
    """Check a stack's whole configuration: section → object. Raises ConfigurationError naming every fault."""
    return TenancySettings(**cast("dict[str, Any]", check(PROJECT, SECTIONS, given)))


def facade_of(settings: TenancySettings) -> tuple[str, str]:
    """URL and token of the facade. Raises ConfigurationError where one is not set."""
    found = settings.facade
    missing = [name for name in ("url", "token") if getattr(found, name) is None]
    if missing:
        raise ConfigurationError(PROJECT, [f"{PROJECT}:facade.{name}: a value is needed" for name in missing])
    assert found.url is not None
    assert found.token is not None
    return found.url, found.token.get_secret_value()
