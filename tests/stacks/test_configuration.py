"""The platform's configuration: what is refused, how it is said, and the page that is made from it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from api.settings import ROOT
from stacks import reference
from stacks.components.base import PROJECT, Component, read_configuration, without_registry
from stacks.settings import ConfigurationError
from stacks.versions import CHARTS, IMAGES

STACKS = sorted((ROOT / "stacks" / "platform").glob("Pulumi.*.yaml"))


def faults(**given: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        read_configuration(given)
    return refused.value.faults


def test_without_any_configuration_everything_is_on() -> None:
    sections = read_configuration({})
    assert [name for name in Component.known if sections[name].mode == "off"] == []  # type: ignore[attr-defined]


def test_every_fault_is_named_at_once_with_its_path() -> None:
    said = faults(
        storage={"mode": "minio", "copies": 2, "resources": {"cpu": "lots"}},
        cluster={"domain": "No Domain", "release_timeout": 1, "versions": {"harbour": "1"}},
    )
    assert any(f"{PROJECT}:storage.mode: it should be 'seaweedfs', 'external' or 'off'" in s for s in said)
    assert any(f"{PROJECT}:storage.resources.cpu: 'lots' is not a Kubernetes quantity" in s for s in said)
    assert any(f"{PROJECT}:cluster.domain: 'No Domain' is not a host name" in s for s in said)
    late = "cluster.release_timeout: it should be greater than or equal to 10 (given: 1)"
    assert any(late in s for s in said)


def test_a_section_that_is_no_object_is_refused() -> None:
    assert "it should be a valid dictionary" in faults(storage="seaweedfs")[0].replace("Input", "it")


def test_an_external_part_needs_its_address() -> None:
    assert faults(storage={"mode": "external"}) == [
        f"{PROJECT}:storage: mode external needs `external`: endpoint, access_key, secret_key"
    ]


def test_a_component_whose_need_is_off_is_refused() -> None:
    said = faults(storage={"mode": "off"})
    needing = [name for name, component in Component.known.items() if "storage" in component.needs]
    assert {*needing, "database"} == {s.split(":")[1].split(".")[0] for s in said}
    assert all("needs storage, which is off" in s for s in said)


def test_a_secret_that_is_refused_is_not_shown() -> None:
    external = {"endpoint": "https://s3.example", "access_key": "a", "secret_key": 17}
    said = faults(storage={"mode": "external", "external": external})
    assert said == [f"{PROJECT}:storage.external.secret_key: it should be a valid string (given: a secret)"]


def test_a_chart_s_other_version_must_be_of_a_chart_that_is_known() -> None:
    assert "no chart is called harbour" in faults(cluster={"versions": {"harbour": "1.0.0"}})[0]


@pytest.mark.parametrize("place", STACKS, ids=lambda place: place.name)
def test_the_stacks_that_come_along_are_valid(place: Any) -> None:
    config = yaml.safe_load(place.read_text())["config"]
    assert all(key.startswith(f"{PROJECT}:") for key in config)
    read_configuration({key.removeprefix(f"{PROJECT}:"): value for key, value in config.items()})


def test_there_is_a_stack_for_each_environment() -> None:
    names = {place.name for place in STACKS}
    assert {f"Pulumi.{name}.yaml" for name in ("local", "production", "staging")} <= names


def test_the_reference_page_is_what_the_types_say() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == reference.page(), "python -m stacks.reference > docs/configuration.md"


def test_every_pin_is_exact_and_named_once() -> None:
    assert len({chart.name for chart in CHARTS}) == len(CHARTS)
    for chart in CHARTS:
        assert chart.version.removeprefix("v").count(".") == 2, chart
        assert not set("^~*<> x") & set(chart.version), chart
    for image in IMAGES:
        assert image.tag not in {"", "latest"}, image
        assert image.name.partition("/")[0].count("."), f"{image}: the registry is part of the name"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("quay.io/a/b:1", "a/b:1"),
        ("localhost/a:1", "a:1"),
        ("127.0.0.1:5000/a/b@sha256:00", "a/b@sha256:00"),
        ("library/redis:7", "library/redis:7"),
        ("redis:7", "redis:7"),
    ],
)
def test_a_mirror_keeps_an_image_s_name_without_its_registry(reference: str, name: str) -> None:
    assert without_registry(reference) == name
