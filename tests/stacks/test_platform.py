"""The whole platform as its program registers it, in several configurations."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.settings import ROOT
from stacks.components.base import Component
from tests.stacks.schemas import built_in, containers, custom, pod_of

PROGRAM = ROOT / "stacks" / "platform" / "__main__.py"
S3 = {"endpoint": "https://s3.example.com", "access_key": "AKIAEXAMPLE", "secret_key": "an external secret"}
MIRROR = "registry.example.com/mirror"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "highly available": {"cluster": {"high_availability": True, "storage_class": "fast"}},
    "air-gapped": {"cluster": {"images": MIRROR, "charts": "oci://registry.example.com/charts"}},
    "external storage": {"storage": {"mode": "external", "external": S3}},
    "nothing but the facade's needs": {
        name: {"mode": "off"}
        for name in ("access", "experiments", "gpu", "queueing", "registry", "monitoring")
    },
}
PROVIDERS_OWN = ("pulumi:providers:", "pulumi-python:dynamic", "ironyard:")
RELEASE = "kubernetes:helm.sh/v3:Release"


def program() -> None:
    runpy.run_path(str(PROGRAM), run_name="__main__")


@pytest.fixture(scope="module", params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def seen(request: pytest.FixtureRequest, roll_out: Callable[..., Any]) -> Any:
    return roll_out(program, **request.param)


def objects(seen: Any) -> list[dict[str, Any]]:
    """What was registered, as Kubernetes would get it."""
    return [
        {key: value for key, value in r.inputs.items() if value is not None}
        for r in seen.resources
        if r.type.startswith("kubernetes:") and r.type != RELEASE
    ]


def test_every_object_obeys_its_schema(seen: Any, contracts: Path) -> None:
    faults = []
    for document in objects(seen):
        group = document["apiVersion"].partition("/")[0]
        own = "." in group and not group.endswith(".k8s.io")
        faults += (
            custom(document, contracts)
            if own or group.startswith(("gateway.", "kueue."))
            else built_in(document)
        )
    assert faults == []


def test_every_pod_has_limits_a_pinned_image_and_no_privilege(seen: Any) -> None:
    faults = []
    for document in objects(seen):
        for container in containers(pod_of(document) or {}):
            where = f"{document['kind']} {document['metadata']['name']}: {container['name']}"
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= set(resources.get("limits", {})) & set(resources.get("requests", {})):
                faults.append(f"{where} has no limits or requests")
            if ":" not in container["image"].rpartition("/")[2] or container["image"].endswith(":latest"):
                faults.append(f"{where}: {container['image']} is not pinned")
            if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
                faults.append(f"{where} may gain privileges")
    assert faults == []


def test_every_pod_that_may_not_be_root_says_who_it_is(seen: Any) -> None:
    """An image without a numeric user would be refused when it starts, long after the roll-out began."""
    faults = []
    for document in objects(seen):
        pod = pod_of(document) or {}
        for container in containers(pod):
            context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
            if context.get("runAsNonRoot") and not context.get("runAsUser"):
                faults.append(f"{document['kind']} {document['metadata']['name']}: {container['name']}")
    assert faults == []


def test_every_namespace_is_closed_and_says_what_its_pods_may_do(seen: Any) -> None:
    namespaces = {
        d["metadata"]["name"]: d["metadata"]["labels"] for d in objects(seen) if d["kind"] == "Namespace"
    }
    closed = {
        d["metadata"]["namespace"]
        for d in objects(seen)
        if d["kind"] == "NetworkPolicy" and d["spec"]["podSelector"] == {} and not d["spec"].get("ingress")
    }
    assert set(namespaces) - closed == set()
    assert all("pod-security.kubernetes.io/enforce" in labels for labels in namespaces.values())


def test_no_secret_is_registered_in_the_open(seen: Any) -> None:
    for registered in seen.of("Secret"):
        for key in registered.inputs.get("stringData", {}):
            shown = {"stringData", f"stringData.{key}"}
            assert shown & registered.secrets, f"{registered.object_name}.{key}"


def test_every_release_takes_a_pinned_chart(seen: Any) -> None:
    for release in seen.of("Release"):
        assert release.inputs["version"], release.name
        assert release.inputs["chart"].startswith("oci://") or release.inputs["repositoryOpts"]["repo"]


def test_names_are_unique_within_a_kind_and_a_namespace(seen: Any) -> None:
    names = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in objects(seen)]
    assert len(names) == len(set(names))


def test_a_component_that_is_off_registers_nothing(roll_out: Callable[..., Any]) -> None:
    seen = roll_out(program, **{name: {"mode": "off"} for name in Component.known})
    assert [r.type for r in seen.resources if not r.type.startswith(PROVIDERS_OWN)] == []


def test_air_gapped_takes_everything_from_the_mirror(roll_out: Callable[..., Any]) -> None:
    seen = roll_out(program, **CONFIGURATIONS["air-gapped"])
    for release in seen.of("Release"):
        assert release.inputs["chart"].startswith("oci://registry.example.com/charts/"), release.name
    images = [c["image"] for d in objects(seen) for c in containers(pod_of(d) or {})]
    assert [image for image in images if not image.startswith(f"{MIRROR}/")] == []


def test_the_wiring_is_short() -> None:
    assert len(PROGRAM.read_text().splitlines()) < 120
