"""The lab as a whole: the real engine rolls a small program out on the real API."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stacks.versions import PROMETHEUS_CRDS, VALKEY
from tests.lab.cluster.engine import EngineError, Stack
from tests.lab.cluster.lab import ClusterLab

# the first run on a machine builds the tools: minutes
pytestmark = [pytest.mark.platform, pytest.mark.timeout(3600)]
PROGRAM = Path(__file__).with_name("program")
DEFINITIONS = {"releases": {PROMETHEUS_CRDS.name: PROMETHEUS_CRDS.version}}
RELEASE = {"releases": {VALKEY.name: VALKEY.version}}
NUMBERS = itertools.count(1)
Make = Callable[..., Stack]


def settings(lab: ClusterLab, namespace: str, **more: Any) -> dict[str, Any]:
    return {
        "lab:settings": {
            "kubeconfig": str(lab.control_plane.kubeconfig),
            "namespace": namespace,
            "charts": lab.registry.charts,
            **more,
        }
    }


@pytest.fixture
def namespace() -> str:
    return f"space-{next(NUMBERS)}"


@pytest.fixture
def stack(cluster_lab: ClusterLab, namespace: str, tmp_path: Path) -> Iterator[Make]:
    """`stack(**settings)`: the program's stack, configured anew at each call; destroyed at the end."""
    made: list[Stack] = []

    def configured(**more: Any) -> Stack:
        if not made:
            made.append(Stack(PROGRAM, tmp_path, cluster_lab.environment))
        made[0].configure(settings(cluster_lab, namespace, **more))
        return made[0]

    yield configured
    configured().destroy()
    gone = cluster_lab.control_plane.kubectl("get", "namespace", namespace, "--ignore-not-found")
    assert gone == ""


def live(lab: ClusterLab, namespace: str, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        lab.control_plane.kubectl("get", kind, name, "-n", namespace, "-o", "json")
    )
    return found


def names(operations: Any) -> dict[str, str]:
    return {urn.rpartition("::")[2]: operation for urn, operation in operations.items()}


def test_up_from_nothing_again_changed_and_down(stack: Make, cluster_lab: ClusterLab, namespace: str) -> None:
    first = stack(**DEFINITIONS).up()
    assert first.changes == {"create": 12}
    assert live(cluster_lab, namespace, "deployment", "web")["status"]["availableReplicas"] == 1
    assert live(cluster_lab, namespace, "prometheusrule", "rule")["spec"] == {"groups": []}
    values = live(cluster_lab, namespace, "configmap", f"{namespace}-{PROMETHEUS_CRDS.name}-values")
    assert json.loads(values["data"]["values.json"])["crds"]["prometheuses"] == {"enabled": True}

    assert stack(**DEFINITIONS).up().changed == 0
    assert stack(**DEFINITIONS).drift().code == 0

    grown = stack(**DEFINITIONS, replicas=3).up()
    assert names(grown.operations) == {"web": "update"}
    assert live(cluster_lab, namespace, "deployment", "web")["spec"]["replicas"] == 3


def test_a_preview_says_what_an_up_does_and_does_nothing(
    stack: Make, cluster_lab: ClusterLab, namespace: str
) -> None:
    assert stack(**DEFINITIONS).preview().changes == {"create": 12}
    assert cluster_lab.control_plane.kubectl("get", "namespace", namespace, "--ignore-not-found") == ""


def test_drift_is_seen_and_mended(stack: Make, cluster_lab: ClusterLab, namespace: str) -> None:
    stack().up()
    cluster_lab.control_plane.kubectl("delete", "configmap", "named", "-n", namespace)
    cluster_lab.control_plane.kubectl("label", "service", "web", "-n", namespace, "someone=else")
    assert stack().drift().code != 0
    mended = stack().up("--refresh")
    assert names(mended.operations)["named"] in {"create", "replace"}
    assert live(cluster_lab, namespace, "configmap", "named")["data"] == {"greeting": "hello"}
    assert stack().drift().code == 0


def test_a_changed_field_is_drift(stack: Make, cluster_lab: ClusterLab, namespace: str) -> None:
    stack(replicas=2).up()
    cluster_lab.control_plane.kubectl("scale", "deployment", "web", "-n", namespace, "--replicas=1")
    drift = stack(replicas=2).drift()
    assert drift.code != 0
    assert names(drift.operations)["web"] == "update"


def test_what_cannot_change_is_made_anew(stack: Make, cluster_lab: ClusterLab, namespace: str) -> None:
    stack().up()
    before = live(cluster_lab, namespace, "configmap", "named")["metadata"]["uid"]
    changed = stack(greeting="good evening").up()
    assert changed.changes["replace"] == 2
    after = live(cluster_lab, namespace, "configmap", "named")
    assert after["metadata"]["uid"] != before
    assert after["data"] == {"greeting": "good evening"}
    assert stack(greeting="good evening").up().changed == 0


def test_secrets_stay_secret(stack: Make, cluster_lab: ClusterLab, namespace: str) -> None:
    stack().up()
    state = json.dumps(stack().state())
    assert "open sesame" not in state
    assert "b3BlbiBzZXNhbWU=" not in state
    assert stack().outputs()["password"] == "[secret]"
    assert stack().outputs()["address"] == "198.51.100.1"
    assert live(cluster_lab, namespace, "secret", "login")["data"] == {"password": "b3BlbiBzZXNhbWU="}


def test_a_wrong_field_is_refused_before_anything_changes(stack: Make) -> None:
    stack().up()
    wrong = stack(more={"replicaz": 3}).preview(check=False)
    assert wrong.code != 0
    assert "replicaz" in wrong.problem


def test_what_does_not_become_ready_is_said_and_kept(stack: Make) -> None:
    impatient = {"annotations": {"pulumi.com/timeoutSeconds": "2"}}
    failed = stack(node_selector={"pool": "none"}, **impatient).up(check=False)
    assert failed.code != 0
    assert "web" in failed.problem
    assert "0 of 1" in failed.problem
    assert any(resource["urn"].endswith("Deployment::web") for resource in stack().resources())
    stack().up()
    assert stack().up().changed == 0


def test_a_cluster_that_does_not_answer_is_named(stack: Make, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "clusters: [{name: x, cluster: {server: 'https://127.0.0.1:1'}}]\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {token: t}}]\n"
    )
    failed = stack(kubeconfig=str(elsewhere)).up(check=False)
    assert failed.code != 0
    assert "127.0.0.1:1" in failed.problem
    missing = stack(kubeconfig=str(tmp_path / "no-such-file")).up(check=False)
    assert missing.code != 0
    assert "no-such-file" in missing.problem


def test_a_registry_that_does_not_answer_is_named_and_the_next_run_converges(stack: Make) -> None:
    failed = stack(**RELEASE, charts="oci://127.0.0.1:1/charts").up(check=False)
    assert failed.code != 0
    assert "oci://127.0.0.1:1/charts/valkey" in failed.problem
    stack(**RELEASE).up()
    assert stack(**RELEASE).up().changed == 0


@pytest.mark.parametrize("kind", ["deployment", "secret"])
def test_a_killed_run_is_cancelled_and_the_next_one_converges(
    stack: Make, cluster_lab: ClusterLab, namespace: str, kind: str
) -> None:
    def begun() -> bool:
        return cluster_lab.control_plane.kubectl("get", kind, "-n", namespace, "-o", "name") != ""

    stack(**RELEASE).killed_up(begun)
    with pytest.raises(EngineError, match="lock"):
        stack(**RELEASE).up()
    stack(**RELEASE).cancel()
    stack(**RELEASE).up()
    assert stack(**RELEASE).up().changed == 0
    assert stack(**RELEASE).drift().code == 0


def test_the_cluster_has_nodes_with_gpus(cluster_lab: ClusterLab) -> None:
    running = cluster_lab.control_plane.get("/api/v1/nodes")["items"]
    gpus = [node["status"]["allocatable"].get("nvidia.com/gpu") for node in running]
    assert gpus.count("8") == 2
