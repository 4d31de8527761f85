"""The program of the stack: a snapshot of the ledger in, the tenants of a cluster out."""

from __future__ import annotations

import pulumi

from stacks.components.base import connect, given_sections
from stacks.settings import ConfigurationError
from stacks.tenancy import queueing
from stacks.tenancy.settings import PROJECT, TenancySettings, facade_of, read
from stacks.tenancy.snapshot import FacadeError, Snapshot, fetch
from stacks.tenancy.workspace import Workspace


def load(*, registry_password: str = "") -> TenancySettings:
    """The running stack's configuration, checked whole. Raises pulumi.RunError naming every fault.

    `registry_password` takes the place of the configuration's own.
    """
    given = given_sections(PROJECT)
    registry = given.get("registry", {})
    if registry_password and isinstance(registry, dict):
        given["registry"] = registry | {"password": registry_password}
    try:
        return read(given)
    except ConfigurationError as refused:
        raise pulumi.RunError(str(refused)) from None


def read_facade(settings: TenancySettings) -> Snapshot:
    """The ledger over REST. Raises pulumi.RunError where the facade does not tell."""
    try:
        return fetch(*facade_of(settings))
    except (ConfigurationError, FacadeError) as error:
        raise pulumi.RunError(str(error)) from None


def tenancy(snapshot: Snapshot, settings: TenancySettings) -> list[Workspace]:
    """Register everything that the snapshot asks for. Raises pulumi.RunError before the first resource."""
    try:
        flavors = _flavors(snapshot, settings)
    except ConfigurationError as refused:
        raise pulumi.RunError(str(refused)) from None
    provider = connect(settings.cluster.kubeconfig, settings.cluster.context)
    opts = pulumi.ResourceOptions(providers=[provider])
    shared: list[pulumi.Resource] = []
    if settings.queueing.mode == "kueue":
        on_cluster = pulumi.ResourceOptions(provider=provider)
        shared += queueing.resource_flavors(settings.queueing, settings.gpus, flavors, on_cluster)
    workspaces = []
    for record in snapshot.workspaces:
        own = {model: flavors[model] for model in snapshot.models(record)}
        workspaces.append(Workspace(record, settings, own, after=shared, opts=opts))
    pulumi.export("namespaces", {made.record.slug: made.name for made in workspaces})
    return workspaces


def _flavors(snapshot: Snapshot, settings: TenancySettings) -> dict[str, str]:
    """Model → flavor, of all models that a workspace may ask for."""
    models: set[str] = {model for host in snapshot.hosts for model in host.models}
    for record in snapshot.workspaces:
        own = snapshot.models(record)
        queueing.check_number(record, own)
        models.update(own)
    return queueing.flavor_names(settings.gpus, models)
