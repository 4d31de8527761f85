"""One workspace in the cluster: its namespace and everything that is in it."""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from stacks.components.base import MANAGED
from stacks.tenancy import network, queueing
from stacks.tenancy.names import WORKSPACE_ID, WORKSPACE_SLUG, name_of
from stacks.tenancy.registry import RegistryProject
from stacks.tenancy.settings import LimitsSettings, TenancySettings
from stacks.tenancy.snapshot import WorkspaceRecord

ACCOUNT = "workloads"
PULL_SECRET = "registry"  # noqa: S105 - the Secret's name


class Workspace(pulumi.ComponentResource):
    """A namespace under quota, closed to other workspaces and open to the members.

    What protects the namespace stays with it when the workspace goes and its namespace is kept.
    """

    def __init__(
        self,
        record: WorkspaceRecord,
        settings: TenancySettings,
        flavors: dict[str, str],
        *,
        after: list[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("ironyard:tenancy:Workspace", record.slug, opts=opts)
        self.record = record
        self.settings = settings
        self.name = settings.workspaces.prefix + record.slug
        self.labels = MANAGED | {WORKSPACE_ID: str(record.id), WORKSPACE_SLUG: record.slug}
        keep = not settings.workspaces.delete_namespaces
        namespace = self._namespace(self._options(keep=keep))
        inside = self._options(namespace, keep=keep)
        self._limits(inside)
        network.register(self.name, self.labels, settings.network, inside)
        self._members(self._options(namespace))
        self._account(namespace)
        if settings.queueing.mode == "kueue":
            self._queues(flavors, namespace, after)
        self.register_outputs({"namespace": self.name})

    def _options(self, *after: pulumi.Resource, keep: bool = False) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, depends_on=list(after) or None, retain_on_delete=keep)

    def _metadata(self, name: str) -> dict[str, Any]:
        return {"name": name, "namespace": self.name, "labels": self.labels}

    def _namespace(self, opts: pulumi.ResourceOptions) -> kubernetes.core.v1.Namespace:
        wanted = self.settings.workspaces
        security = {"enforce": wanted.pod_security, "warn": wanted.warn, "audit": wanted.warn}
        labels = self.labels | {
            f"pod-security.kubernetes.io/{mode}": level for mode, level in security.items()
        }
        metadata = {"name": self.name, "labels": labels}
        return kubernetes.core.v1.Namespace(self.name, metadata=metadata, opts=opts)

    def _limits(self, opts: pulumi.ResourceOptions) -> None:
        limits = self.settings.limits
        kubernetes.core.v1.ResourceQuota(
            f"{self.name}-quota",
            metadata=self._metadata("workspace"),
            spec={"hard": hard(limits, self.settings.gpus.resource, self.record.quota.gpus)},
            opts=opts,
        )
        container = {
            "type": "Container",
            "default": {"cpu": limits.container_cpu, "memory": limits.container_memory},
            "defaultRequest": {
                "cpu": limits.container_cpu_request,
                "memory": limits.container_memory_request,
            },
        }
        volume = {"type": "PersistentVolumeClaim", "max": {"storage": limits.volume}}
        kubernetes.core.v1.LimitRange(
            f"{self.name}-limits",
            metadata=self._metadata("workspace"),
            spec={"limits": [container, volume]},
            opts=opts,
        )

    def _members(self, opts: pulumi.ResourceOptions) -> None:
        """One binding a member, so that a change of one is a change of one object."""
        wanted = self.settings.workspaces
        for member in self.record.members:
            user = wanted.user_prefix + member.email
            name = name_of(member.email)
            kubernetes.rbac.v1.RoleBinding(
                f"{self.name}-{name}",
                metadata=self._metadata(name),
                role_ref={
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": getattr(wanted.roles, member.role),
                },
                subjects=[{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
                opts=pulumi.ResourceOptions.merge(
                    opts, pulumi.ResourceOptions(replace_on_changes=["roleRef"], delete_before_replace=True)
                ),
            )

    def _account(self, namespace: pulumi.Resource) -> None:
        """What workloads run as: no rights in the cluster, and the registry's key where there is one."""
        secrets = [{"name": PULL_SECRET}] if self._registry(namespace) else None
        kubernetes.core.v1.ServiceAccount(
            f"{self.name}-{ACCOUNT}",
            metadata=self._metadata(ACCOUNT),
            automount_service_account_token=False,
            image_pull_secrets=secrets,
            opts=self._options(namespace),
        )

    def _registry(self, namespace: pulumi.Resource) -> bool:
        registry = self.settings.registry
        if registry.mode == "off":
            return False
        assert registry.url is not None
        assert registry.password is not None
        url = registry.url
        project = RegistryProject(
            f"{self.record.slug}-registry",
            url=url,
            username=registry.username,
            password=pulumi.Output.secret(registry.password.get_secret_value()),
            ca_file=registry.ca_file,
            project=self.record.slug,
            storage_gib=registry.storage_gib,
            members={member.email: member.role for member in self.record.members},
            opts=self._options(keep=not registry.delete_projects),
        )
        server = url.partition("://")[2].rstrip("/")
        login: pulumi.Output[str] = pulumi.Output.all(project.robot, project.robot_secret).apply(
            lambda parts: json.dumps({"auths": {server: _login(*parts)}}, sort_keys=True)
        )
        sealed: pulumi.Output[str] = pulumi.Output.secret(login)
        kubernetes.core.v1.Secret(
            f"{self.name}-{PULL_SECRET}",
            metadata=self._metadata(PULL_SECRET),
            type="kubernetes.io/dockerconfigjson",
            string_data={".dockerconfigjson": sealed},
            opts=self._options(namespace),
        )
        return True

    def _queues(
        self, flavors: dict[str, str], namespace: pulumi.Resource, after: list[pulumi.Resource]
    ) -> None:
        settings = self.settings
        general = {
            resource: amount
            for resource, amount in requests(settings.limits, self.record.quota.gpus).items()
            if resource in ("cpu", "memory")
        }
        queue = queueing.cluster_queue(
            self.name,
            self.record,
            queueing=settings.queueing,
            gpu_resource=settings.gpus.resource,
            flavors=flavors,
            general=general,
            opts=self._options(*after),
        )
        name = settings.queueing.local_queue
        queueing.local_queue(name, self.name, self.name, self.labels, self._options(namespace, queue))


def requests(limits: LimitsSettings, gpus: int) -> dict[str, str]:
    """CPU and memory that go with a number of GPUs."""
    memory = limits.memory_gib + gpus * limits.memory_gib_per_gpu
    return {"cpu": str(limits.cpu + gpus * limits.cpu_per_gpu), "memory": f"{memory}Gi"}


def hard(limits: LimitsSettings, gpu_resource: str, gpus: int) -> dict[str, str]:
    """The namespace's quota. Ports of nodes and load balancers are the gateway's alone."""
    return {
        f"requests.{gpu_resource}": str(gpus),
        **{f"requests.{resource}": amount for resource, amount in requests(limits, gpus).items()},
        "requests.storage": limits.storage,
        "persistentvolumeclaims": str(limits.volumes),
        "pods": str(limits.pods),
        "services.nodeports": "0",
        "services.loadbalancers": "0",
        **limits.others,
    }


def _login(robot: str, secret: str) -> dict[str, str]:
    return {"username": robot, "password": secret}
