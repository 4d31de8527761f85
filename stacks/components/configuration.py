"""Settings that every component has, the cluster's own, and where a running stack's values come from."""

from __future__ import annotations

import json
from typing import Any, Self

import pulumi
from pydantic import Field, model_validator

from stacks.settings import Frozen, Hostname, Name, Quantity
from stacks.versions import CHARTS


class ClusterSettings(Frozen):
    """The cluster that the platform is rolled out on, and where charts and images come from."""

    kubeconfig: str | None = Field(
        default=None, description="path or content; absent: what kubectl would use"
    )
    context: str | None = Field(
        default=None, description="context of the kubeconfig; absent: the current one"
    )
    domain: Hostname = Field(default="ironyard.local", description="every public name is under it")
    storage_class: Name | None = Field(default=None, description="absent: the cluster's default")
    high_availability: bool = Field(default=False, description="several replicas and disruption budgets")
    versions: dict[str, str] = Field(
        default_factory=dict, description="chart → version, where another than the pinned one is wanted"
    )
    release_timeout: int = Field(default=600, ge=10, le=7200, description="seconds a release may take")
    charts: str | None = Field(
        default=None, pattern=r"^oci://\S+$", description="take every chart from this OCI folder (air-gapped)"
    )
    images: str | None = Field(
        default=None,
        pattern=r"^[^\s:/]+(:\d+)?(/\S+)?$",
        description="take every image from here (air-gapped)",
    )

    @model_validator(mode="after")
    def _versions_of_known_charts(self) -> Self:
        known = sorted(chart.name for chart in CHARTS)
        if unknown := sorted(set(self.versions) - set(known)):
            raise ValueError(f"no chart is called {', '.join(unknown)} (known: {', '.join(known)})")
        return self


class ComponentSettings(Frozen):
    """Base of a component's settings. Each overrides `mode`; `off` leaves the component out."""

    mode: str

    @property
    def enabled(self) -> bool:
        return self.mode != "off"

    @property
    def hosted(self) -> bool:
        """Whether it runs in this cluster: neither off nor somebody else's."""
        return self.mode not in ("off", "external")


class Resources(Frozen):
    """Requests and limits of one container; memory is limited to what it requests unless told otherwise."""

    cpu: Quantity = "100m"
    memory: Quantity = "256Mi"
    cpu_limit: Quantity | None = None
    memory_limit: Quantity | None = None

    def render(self) -> dict[str, dict[str, str]]:
        """As a container's `resources`."""
        limits = {"memory": self.memory_limit or self.memory, "cpu": self.cpu_limit or self.cpu}
        return {"requests": {"cpu": self.cpu, "memory": self.memory}, "limits": limits}


def given_sections(project: str) -> dict[str, Any]:
    """The running stack's own configuration: section → value, objects parsed, secrets decrypted."""
    config = pulumi.runtime.config
    everything = {**config.get_config_env(), **config.CONFIG.get()}
    return {
        key.removeprefix(f"{project}:"): _parsed(value)
        for key, value in everything.items()
        if key.startswith(f"{project}:")
    }


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
