from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from stacks.components.base import Platform
from stacks.components.queueing import Queueing
from stacks.tenancy.names import WORKSPACE_ID
from tests.lab.cluster.values import check_values, contract

CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"cluster": {"high_availability": True, "images": "mirror:5000/all"}},
    {"queueing": {"frameworks": ["batch/job"]}},
]


def roll(roll_out: Any, *, watches: bool = True, **config: Any) -> tuple[Any, Queueing]:
    made = []

    def program() -> None:
        monitoring: Any = SimpleNamespace(watches=watches, definitions=[])
        made.append(Queueing(Platform.load(), monitoring=monitoring))

    return roll_out(program, **config), made[0]


def values(seen: Any) -> dict[str, Any]:
    found: dict[str, Any] = seen.one("Release", "kueue").inputs["values"]
    return found


def configuration(seen: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(values(seen)["managerConfig"]["controllerManagerConfigYaml"])
    return found


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_the_chart_has_every_value_that_is_set(config: Any, roll_out: Any, contracts: Path) -> None:
    seen, _ = roll(roll_out, **config)
    assert check_values("kueue", values(seen), contracts) == []


def test_the_manager_gets_what_its_own_default_gives_it(roll_out: Any, contracts: Path) -> None:
    known = contract("kueue", contracts)
    assert known is not None
    default = yaml.safe_load(known["values"]["managerConfig"]["controllerManagerConfigYaml"])
    ours = configuration(roll(roll_out)[0])
    for key in ("apiVersion", "kind", "health", "webhook", "leaderElection"):
        assert ours[key] == default[key], key
    assert ours["metrics"]["bindAddress"] == default["metrics"]["bindAddress"]
    assert set(ours["integrations"]["frameworks"]) <= set(default["integrations"]["frameworks"])


def test_only_workspaces_are_queued_and_never_the_platform_itself(roll_out: Any) -> None:
    selector = configuration(roll(roll_out)[0])["managedJobsNamespaceSelector"]
    assert selector == {"matchExpressions": [{"key": WORKSPACE_ID, "operator": "Exists"}]}


def test_frameworks_are_those_that_are_named(roll_out: Any) -> None:
    seen, _ = roll(roll_out, queueing={"frameworks": ["batch/job"]})
    assert configuration(seen)["integrations"]["frameworks"] == ["batch/job"]


def test_queues_come_after_the_release(roll_out: Any) -> None:
    _, queueing = roll(roll_out)
    assert len(queueing.ready) == 1


def test_two_managers_and_a_budget_when_highly_available(roll_out: Any) -> None:
    seen, _ = roll(roll_out, cluster={"high_availability": True})
    manager = values(seen)["controllerManager"]
    assert (manager["replicas"], manager["podDisruptionBudget"]) == (2, {"enabled": True})


def test_the_image_comes_from_the_mirror(roll_out: Any) -> None:
    seen, _ = roll(roll_out, cluster={"images": "mirror:5000/all"})
    assert (
        values(seen)["controllerManager"]["manager"]["image"]["repository"] == "mirror:5000/all/kueue/kueue"
    )


def test_it_is_watched_only_where_somebody_watches(roll_out: Any) -> None:
    assert values(roll(roll_out)[0])["enablePrometheus"] is True
    assert values(roll(roll_out, watches=False)[0])["enablePrometheus"] is False


@pytest.mark.parametrize("mode", ["external", "off"])
def test_one_that_exists_and_none_at_all_register_nothing(mode: str, roll_out: Any) -> None:
    seen, queueing = roll(roll_out, queueing={"mode": mode})
    assert [r.type for r in seen.resources if r.type.startswith("kubernetes:")] == []
    assert queueing.ready == []
