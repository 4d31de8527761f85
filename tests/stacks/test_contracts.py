"""What the whole platform tells its charts, held to what is recorded of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stacks.versions import CHARTS
from tests.lab.cluster.values import check_values, contract
from tests.stacks.test_platform import CONFIGURATIONS, program

UNRECORDED = {"gateway-crds-helm", "mlflow"}  # charts of which no default values are recorded


@pytest.fixture(scope="module", params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def seen(request: pytest.FixtureRequest, roll_out: Any) -> Any:
    return roll_out(program, **request.param)


def chart_of(release: Any) -> str:
    return str(release.inputs["chart"]).rpartition("/")[2]


def test_every_value_exists_in_its_chart_and_obeys_its_schema(seen: Any, contracts: Path) -> None:
    faults = [
        fault
        for release in seen.of("Release")
        for fault in check_values(chart_of(release), release.inputs["values"], contracts)
    ]
    assert faults == []


def test_every_secret_that_a_chart_is_told_of_is_there_before_it(seen: Any) -> None:
    made = {(secret.namespace, secret.object_name) for secret in seen.of("Secret")}
    named = [
        (release.namespace, name, f"{chart_of(release)}.{path}")
        for release in seen.of("Release")
        for path, name in existing_secrets(release.inputs["values"])
    ]
    assert [path for namespace, name, path in named if (namespace, name) not in made] == []
    if seen.of("Release"):
        assert named


def existing_secrets(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and name of every Secret that values name as existing."""
    if isinstance(values, list):
        for at, inner in enumerate(values):
            yield from existing_secrets(inner, f"{path}[{at}]")
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        lower = key.lower()
        if (
            isinstance(value, str)
            and value
            and "existing" in lower
            and lower.endswith(("secret", "password"))
        ):
            yield f"{path}.{key}".lstrip("."), value
        else:
            yield from existing_secrets(value, f"{path}.{key}")


def test_a_secret_that_is_named_as_existing_is_found_wherever_it_is() -> None:
    values = {"a": {"existingSecret": "one"}, "b": [{"usersExistingSecret": "two"}], "existingSecret": ""}
    assert sorted(name for _, name in existing_secrets(values)) == ["one", "two"]


@pytest.mark.parametrize("pin", CHARTS, ids=[chart.name for chart in CHARTS])
def test_what_is_recorded_of_a_chart_is_of_its_pinned_version(pin: Any, contracts: Path) -> None:
    known = contract(pin.name, contracts)
    if pin.name in UNRECORDED:
        assert known is None
    else:
        assert known is not None
        assert known["version"].lstrip("v") == pin.version.lstrip("v")
