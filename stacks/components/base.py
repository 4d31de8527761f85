"""What every component shares: its settings, its place in the tree, and the few ways to register things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pulumi
import pulumi_kubernetes as kubernetes

from stacks.components.configuration import ClusterSettings, ComponentSettings, Resources, given_sections
from stacks.components.secrets import Generated
from stacks.settings import ConfigurationError, Frozen, check
from stacks.versions import Chart, Image

__all__ = [
    "MANAGED",
    "PROJECT",
    "UNPRIVILEGED",
    "ClusterSettings",
    "Component",
    "ComponentSettings",
    "Platform",
    "Resources",
    "connect",
    "given_sections",
    "read_configuration",
    "section_types",
    "without_registry",
]

PROJECT = "ironyard-platform"
MANAGED = {"app.kubernetes.io/managed-by": "pulumi", "app.kubernetes.io/part-of": "ironyard"}
PodSecurity = Literal["restricted", "baseline", "privileged"]
UNPRIVILEGED: dict[str, Any] = {
    "allow_privilege_escalation": False,
    "run_as_non_root": True,
    "capabilities": {"drop": ["ALL"]},
    "seccomp_profile": {"type": "RuntimeDefault"},
}
S = TypeVar("S", bound="ComponentSettings")


@dataclass(frozen=True)
class Platform:
    """One roll-out: the checked configuration and the provider of the cluster."""

    stack: str
    cluster: ClusterSettings
    sections: Mapping[str, Frozen]
    provider: kubernetes.Provider = field(repr=False)

    @classmethod
    def load(cls) -> Platform:
        """Read and check the whole configuration of the running stack before anything is registered.

        Raises pulumi.RunError naming the path of every wrong value and what is allowed there.
        """
        try:
            sections = read_configuration(given_sections(PROJECT))
        except ConfigurationError as refused:
            raise pulumi.RunError(str(refused)) from None
        cluster = sections["cluster"]
        assert isinstance(cluster, ClusterSettings)
        credentials = cluster.kubeconfig
        if credentials is not None and "\n" in credentials:  # content, not a path
            provider = connect(pulumi.Output.secret(credentials), cluster.context)
        else:
            provider = connect(credentials, cluster.context)
        return cls(pulumi.get_stack(), cluster, sections, provider)

    def enabled(self, component: type[Component[Any]]) -> bool:
        section = self.sections[component.section]
        return isinstance(section, ComponentSettings) and section.enabled

    def hosts(self, component: type[Component[Any]]) -> bool:
        """Whether the component runs in this cluster, so that it asks others for a bucket or a database."""
        section = self.sections[component.section]
        return isinstance(section, ComponentSettings) and section.hosted

    def image(self, image: Image | str) -> str:
        """An image's whole name, in the mirror when there is one."""
        reference = image.reference if isinstance(image, Image) else image
        if self.cluster.images is None:
            return reference
        return f"{self.cluster.images}/{without_registry(reference)}"

    @property
    def replicas(self) -> int:
        return 2 if self.cluster.high_availability else 1

    def host(self, name: str) -> str:
        """The public name of a service."""
        return f"{name}.{self.cluster.domain}"


class Component(pulumi.ComponentResource, Generic[S]):
    """One capability of the platform.

    A subclass names its `section` of the configuration and its `settings_type`, says which sections it
    `needs`, which `bucket` of the storage and which `database` it uses, and registers its children in
    `__init__`; `namespace` is where its pods run. Being defined in `stacks/components/` makes its section
    known to the configuration.
    """

    section: ClassVar[str]
    settings_type: ClassVar[type[ComponentSettings]]
    namespace: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    bucket: ClassVar[str | None] = None
    database: ClassVar[str | None] = None
    known: ClassVar[dict[str, type[Component[Any]]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "section" in cls.__dict__:
            Component.known[cls.section] = cls

    def __init__(self, platform: Platform) -> None:
        super().__init__(
            f"ironyard:platform:{type(self).__name__}",
            self.section,
            opts=pulumi.ResourceOptions(providers=[platform.provider]),
        )
        self.platform = platform

    @classmethod
    def faults(cls, _sections: Mapping[str, Frozen]) -> list[str]:
        """What is wrong with this section in the light of the others, one line a fault, with its path."""
        return []

    @property
    def settings(self) -> S:
        return self.platform.sections[self.section]  # type: ignore[return-value]

    def options(
        self,
        *,
        after: Sequence[pulumi.Resource] = (),
        protect: bool | None = None,
    ) -> pulumi.ResourceOptions:
        """Options of a child of this component."""
        return pulumi.ResourceOptions(parent=self, depends_on=list(after) or None, protect=protect)

    def create_namespace(
        self, name: str, *, security: PodSecurity = "restricted", protect: bool | None = None
    ) -> kubernetes.core.v1.Namespace:
        """A namespace whose pods are held to a level of the Pod Security Standards."""
        labels = MANAGED | {
            f"pod-security.kubernetes.io/{mode}": security for mode in ("enforce", "audit", "warn")
        }
        return kubernetes.core.v1.Namespace(
            name, metadata={"name": name, "labels": labels}, opts=self.options(protect=protect)
        )

    def install(
        self,
        chart: Chart,
        *,
        namespace: str,
        values: Mapping[str, Any],
        name: str | None = None,
        after: Sequence[pulumi.Resource] = (),
        skip_crds: bool = False,
        protect: bool | None = None,
    ) -> kubernetes.helm.v3.Release:
        """A Helm release of a pinned chart, from its own repository or from the mirror."""
        mirror = self.platform.cluster.charts
        folder = mirror or chart.repository
        is_oci = folder.startswith("oci://")
        return kubernetes.helm.v3.Release(
            name or chart.name,
            name=name or chart.name,
            namespace=namespace,
            chart=f"{folder}/{chart.name}" if is_oci else chart.name,
            version=self.platform.cluster.versions.get(chart.name, chart.version),
            repository_opts=None if is_oci else {"repo": folder},
            values=dict(values),
            skip_crds=skip_crds,
            atomic=False,
            cleanup_on_fail=True,
            timeout=self.platform.cluster.release_timeout,
            opts=self.options(after=after, protect=protect),
        )

    def create_secret(
        self,
        name: str,
        *,
        namespace: str,
        data: Mapping[str, pulumi.Input[str]],
        kind: str = "Opaque",
        labels: Mapping[str, str] | None = None,
        after: Sequence[pulumi.Resource] = (),
    ) -> kubernetes.core.v1.Secret:
        """A Kubernetes Secret; its values are secrets of the state as well."""
        return kubernetes.core.v1.Secret(
            f"{namespace}-{name}",
            metadata={"name": name, "namespace": namespace, "labels": MANAGED | dict(labels or {})},
            type=kind,
            string_data={key: pulumi.Output.secret(value) for key, value in data.items()},
            opts=self.options(after=after),
        )

    def custom(
        self,
        api_version: str,
        kind: str,
        name: str,
        *,
        spec: Mapping[str, Any],
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        after: Sequence[pulumi.Resource] = (),
        protect: bool | None = None,
    ) -> kubernetes.apiextensions.CustomResource:
        """An object of a kind that an operator brings; `after` names the release with its definition."""
        metadata: dict[str, Any] = {"name": name, "labels": MANAGED | dict(labels or {})}
        if namespace:
            metadata["namespace"] = namespace
        return kubernetes.apiextensions.CustomResource(
            "-".join(part for part in (namespace, name, kind.lower()) if part),
            api_version=api_version,
            kind=kind,
            metadata=metadata,
            spec=dict(spec),
            opts=self.options(after=after, protect=protect),
        )

    def run_once(
        self,
        name: str,
        *,
        namespace: str,
        container: Mapping[str, Any],
        after: Sequence[pulumi.Resource] = (),
        **pod: Any,
    ) -> kubernetes.batch.v1.Job:
        """A Job that is run again only when its container changes: its name carries the change."""
        digest = hashlib.sha256(json.dumps([container, pod], sort_keys=True).encode()).hexdigest()[:8]
        return kubernetes.batch.v1.Job(
            f"{namespace}-{name}",
            metadata={"name": f"{name}-{digest}", "namespace": namespace, "labels": MANAGED},
            spec={
                "backoff_limit": 10,
                "template": {
                    "metadata": {"labels": {**MANAGED, "app.kubernetes.io/name": name}},
                    "spec": {"restart_policy": "OnFailure", "containers": [dict(container)], **pod},
                },
            },
            opts=self.options(after=after),
        )

    def generate(
        self, name: str, *, length: int = 32, alphabet: str = "letters", protect: bool | None = None
    ) -> pulumi.Output[str]:
        """A secret made once and kept in the state: see `Generated`.

        Protect one that kept data is encrypted with: it must outlive what is destroyed around the data.
        """
        made = Generated(
            f"{self.section}-{name}",
            length=length,
            alphabet=alphabet,
            opts=self.options(protect=protect),
        )
        return pulumi.Output.secret(made.value)


def connect(kubeconfig: pulumi.Input[str] | None, context: str | None) -> kubernetes.Provider:
    """A provider whose word counts: what somebody else changed is put back, Secrets change in place."""
    return kubernetes.Provider(
        "cluster",
        kubeconfig=kubeconfig,
        context=context,
        enable_server_side_apply=True,
        enable_patch_force=True,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
    )


def without_registry(reference: str) -> str:
    """An image's name without its registry: `quay.io/a/b:1` → `a/b:1`, `redis:7` → `redis:7`."""
    first, slash, rest = reference.partition("/")
    return rest if slash and ("." in first or ":" in first or first == "localhost") else reference


def read_configuration(given: Mapping[str, Any]) -> dict[str, Frozen]:
    """Check `given` against every known component, one by one and together.

    Raises ConfigurationError; also where a component that runs here needs one that is off.
    """
    sections = check(PROJECT, section_types(), given)
    faults = [
        f"{PROJECT}:{name}.mode: {name} needs {need}, which is off; switch it on, name an external one, "
        f"or switch {name} off"
        for name, component in Component.known.items()
        if _is(sections[name], "hosted")
        for need in component.needs
        if not _is(sections[need], "enabled")
    ]
    faults += [fault for component in Component.known.values() for fault in component.faults(sections)]
    if faults:
        raise ConfigurationError(PROJECT, faults)
    return sections


def _is(section: Frozen, what: Literal["enabled", "hosted"]) -> bool:
    return isinstance(section, ComponentSettings) and bool(getattr(section, what))


def section_types() -> dict[str, type[Frozen]]:
    """Section → model of everything that can be configured, in a stable order."""
    components = {name: component.settings_type for name, component in sorted(Component.known.items())}
    return {"cluster": ClusterSettings, **components}
