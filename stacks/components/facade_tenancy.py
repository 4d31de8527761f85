"""What the facade's worker needs to make the cluster follow the ledger: rights, and a stack of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import pulumi
import pulumi_kubernetes as kubernetes
import yaml
from pydantic import Field, SecretStr, model_validator

from stacks.components.base import MANAGED, Component
from stacks.settings import Frozen
from stacks.tenancy.settings import PROJECT

ACCOUNT = "ironyard-worker"
CONFIG_FILE = "tenancy.yaml"
CONFIG_FOLDER = "/etc/ironyard/tenancy"
EVERYTHING = ["get", "list", "watch", "create", "update", "patch", "delete"]


class TenancySettings(Frozen):
    """The worker turns each workspace into a namespace, whenever the ledger changes.

    The image must have the Pulumi command line and its Kubernetes provider.
    """

    enabled: bool = False
    stack: str = Field(default="production", pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    backend: str = Field(
        default="",
        pattern=r"^((s3|gs|azblob|postgres|https?)://\S+)?$",
        description="URL of Pulumi's state, outside the pods: s3://bucket?endpoint=…; needed where enabled",
    )
    credentials: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="secret variables: the backend's, such as AWS_ACCESS_KEY_ID, "
        "and IRONYARD_TENANCY_REGISTRY_PASSWORD where `sections` has a registry",
    )
    sections: dict[str, Any] = Field(
        default_factory=dict, description=f"configuration of {PROJECT}: section to object"
    )
    pull_secrets: bool = Field(
        default=False, description="whether it may write Secrets: for a registry's robots, in every namespace"
    )
    roles: list[str] = Field(
        default=["admin", "edit", "view"], description="ClusterRoles that it may give to members"
    )

    @model_validator(mode="after")
    def _no_password_in_the_open(self) -> Self:
        registry = self.sections.get("registry")
        if isinstance(registry, dict) and registry.get("password"):
            raise ValueError(
                "sections.registry.password would be readable in a ConfigMap; "
                "set credentials.IRONYARD_TENANCY_REGISTRY_PASSWORD"
            )
        return self

    def configuration(self) -> str:
        """The stack's configuration file."""
        named = {f"{PROJECT}:{section}": value for section, value in self.sections.items()}
        return yaml.safe_dump({"config": named}, sort_keys=True)


def grant(
    component: Component[Any],
    settings: TenancySettings,
    namespace: str,
    after: Sequence[pulumi.Resource] = (),
) -> list[pulumi.Resource]:
    """A service account with the rights that the tenancy stack uses, and no others."""
    account = kubernetes.core.v1.ServiceAccount(
        f"{namespace}-{ACCOUNT}",
        metadata={"name": ACCOUNT, "namespace": namespace, "labels": MANAGED},
        automount_service_account_token=False,
        opts=component.options(after=after),
    )
    name = "ironyard-tenancy"
    role = kubernetes.rbac.v1.ClusterRole(
        name,
        metadata={"name": name, "labels": MANAGED},
        rules=rules(settings),
        opts=component.options(),
    )
    binding = kubernetes.rbac.v1.ClusterRoleBinding(
        name,
        metadata={"name": name, "labels": MANAGED},
        role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        subjects=[{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
        opts=component.options(after=[account, role]),
    )
    return [account, binding]


def rules(settings: TenancySettings) -> list[dict[str, Any]]:
    core = ["namespaces", "resourcequotas", "limitranges", "serviceaccounts"]
    written = {
        "": core + (["secrets"] if settings.pull_secrets else []),
        "networking.k8s.io": ["networkpolicies"],
        "rbac.authorization.k8s.io": ["rolebindings"],
        "kueue.x-k8s.io": ["clusterqueues", "localqueues", "resourceflavors"],
    }
    given: list[dict[str, Any]] = [
        {"api_groups": [group], "resources": resources, "verbs": EVERYTHING}
        for group, resources in written.items()
    ]
    # to bind a role it needs either the role's own rights or this
    bind = {"resources": ["clusterroles"], "resource_names": settings.roles, "verbs": ["bind"]}
    return [*given, {"api_groups": ["rbac.authorization.k8s.io"], **bind}]
