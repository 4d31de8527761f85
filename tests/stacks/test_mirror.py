"""What a mirror needs: which images a stack and its charts name, and where the stack will look for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

from stacks import mirror
from stacks.versions import CHARTS, IMAGES

PROGRAM = Path(mirror.__file__).with_name("platform") / "__main__.py"
MIRROR = "mirror.example:5000/gpu"


def render_nothing(_release: mirror.Release) -> list[Mapping[str, Any]]:
    return []


def container(image: str, **more: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "main", "image": image, **more}]}
    return {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": {"spec": pod}}}


def found(value: Any) -> set[str]:
    return {image for _, image in mirror.images_in(value)}


def test_images_are_found_wherever_objects_name_them() -> None:
    digest = "sha256:" + "0" * 64
    prometheus = container(
        "quay.io/prometheus-operator/prometheus-operator:v0.93.1",
        args=["--prometheus-config-reloader=quay.io/prometheus-operator/prometheus-config-reloader:v0.93.1"],
        env=[{"name": "RELATED_IMAGE", "value": f"registry.k8s.io/a/b@{digest}"}],
    )
    assert found(prometheus) == {
        "quay.io/prometheus-operator/prometheus-operator:v0.93.1",
        "quay.io/prometheus-operator/prometheus-config-reloader:v0.93.1",
        f"registry.k8s.io/a/b@{digest}",
    }
    policy = {"spec": {"driver": {"repository": "nvcr.io/nvidia", "image": "driver", "version": "580.65"}}}
    assert found(policy) == {"nvcr.io/nvidia/driver:580.65"}
    assert found({"spec": {"imageName": "ghcr.io/cloudnative-pg/postgresql:17"}}) == {
        "ghcr.io/cloudnative-pg/postgresql:17"
    }


def test_what_only_looks_like_an_image_is_none() -> None:
    others = [
        "https://quay.io/v2/a:1",
        "apps.example.org/name",
        "nvidia.com/gpu",
        "pod-security.kubernetes.io/enforce",
        "a text with quay.io/a/b:1 in it",
        "10.0.0.1:9400",
        "--leader-election-id=a.b.io",
        "",
    ]
    assert found({"args": others, "image": "", "metadata": {"labels": {"a.io/b": "c:1"}}}) == set()


RELEASE = {
    "name": "web",
    "namespace": "shop",
    "chart": "harbor",
    "version": "1.0.0",
    "repositoryOpts": {"repo": "https://charts.example.org"},
}
PLAIN = [(mirror.RELEASE, "web", {**RELEASE, "values": {}})]
MOVED = [(mirror.RELEASE, "web", {**RELEASE, "values": {"registry": MIRROR}})]


def chart(release: mirror.Release) -> list[dict[str, Any]]:
    """Takes its first image from the registry that the values name, under another path; the second always
    from the same place.
    """
    registry = release.values.get("registry")
    first = f"{registry}/renamed/web:1.2" if registry else "quay.io/team/web:1.2"
    return [container(first), {**container("docker.io/library/busybox:1.36"), "kind": "Job"}]


def test_an_image_goes_where_the_stack_will_ask_for_it() -> None:
    images = mirror.images(PLAIN, MOVED, MIRROR, chart)
    assert mirror.Copy("quay.io/team/web:1.2", f"{MIRROR}/renamed/web:1.2") in images.copies
    assert images.strays == ["docker.io/library/busybox:1.36"]
    pinned = {pin.reference for pin in IMAGES}
    assert pinned <= {copy.source for copy in images.copies}
    assert all(copy.target.startswith(f"{MIRROR}/") for copy in images.copies)


def test_an_image_that_only_the_mirrored_stack_names_is_told() -> None:
    def render(release: mirror.Release) -> list[dict[str, Any]]:
        return [container(f"{MIRROR}/a:1")] if release.values else []

    assert mirror.images(PLAIN, MOVED, MIRROR, render).strays == [f"{MIRROR}/a:1"]


def test_an_image_that_only_the_plain_stack_names_is_copied_by_its_path() -> None:
    def render(release: mirror.Release) -> list[dict[str, Any]]:
        return [] if release.values else [container("quay.io/team/hook:1")]

    copies = mirror.images(PLAIN, MOVED, MIRROR, render).copies
    assert mirror.Copy("quay.io/team/hook:1", f"{MIRROR}/team/hook:1") in copies


def test_charts_that_the_stack_leaves_out_are_there_on_request() -> None:
    more = mirror.left_out(mirror.releases(PLAIN))
    assert {one.chart for one in more} == {pin.name for pin in CHARTS} - {"harbor"}
    pin = next(pin for pin in CHARTS if pin.name == more[0].chart)
    assert (more[0].version, more[0].repository) == (pin.version, pin.repository)

    def render(release: mirror.Release) -> list[dict[str, Any]]:
        return [container(f"quay.io/{release.chart}:1")] if release in more else []

    copies = mirror.images(PLAIN, MOVED, MIRROR, render, more).copies
    assert {f"{MIRROR}/{one.chart}:1" for one in more} <= {copy.target for copy in copies}


@pytest.fixture(scope="module")
def platform() -> tuple[mirror.Objects, mirror.Objects]:
    """The platform's own program without a mirror and with one."""
    plain = mirror.registered(mirror.mirrored({}, None), program=PROGRAM)
    return plain, mirror.registered(mirror.mirrored({}, MIRROR), program=PROGRAM)


def test_the_platform_s_charts_are_the_pinned_ones(platform: tuple[mirror.Objects, mirror.Objects]) -> None:
    pins = {pin.name: pin for pin in CHARTS}
    releases = mirror.releases(platform[0])
    assert releases
    for release in releases:
        pin = pins[release.chart]
        assert (release.version, release.repository) == (pin.version, pin.repository)


def test_the_platform_s_own_objects_take_every_image_from_the_mirror(
    platform: tuple[mirror.Objects, mirror.Objects],
) -> None:
    images = mirror.images(*platform, MIRROR, render_nothing)
    assert images.strays == []
    named = [image for kind, _, inputs in platform[0] if kind != mirror.RELEASE for image in found(inputs)]
    assert set(named) <= {copy.source for copy in images.copies}


def test_the_mirror_that_a_stack_has_already_is_not_where_copies_come_from() -> None:
    config = {
        "cluster": {"domain": "a.example", "charts": "oci://m/charts", "images": "m"},
        "cache": {"mode": "off"},
    }
    assert mirror.mirrored(config, None) == {"cluster": {"domain": "a.example"}, "cache": {"mode": "off"}}
    assert mirror.mirrored(config, "n")["cluster"] == {"domain": "a.example", "images": "n"}


def test_a_wrong_configuration_is_refused() -> None:
    with pytest.raises(pulumi.RunError, match="ironyard-platform:storrage: there is no such section"):
        mirror.registered({"storrage": {}}, program=PROGRAM)
