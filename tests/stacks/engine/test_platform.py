"""The platform by the real engine on a real Kubernetes API: from nothing, again, changed, broken, down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.cluster.engine import EngineError, Result, Stack
from tests.lab.cluster.lab import ClusterLab
from tests.lab.cluster.platform import POLICIES, left_over, only
from tests.lab.run import run

# the first run on a machine builds the tools: minutes
pytestmark = [pytest.mark.platform, pytest.mark.timeout(3600)]
New = Callable[..., Stack]


def releases(lab: ClusterLab) -> dict[str, str]:
    """`namespace/name` → status of every Helm release in the cluster."""
    kubeconfig = f"--kubeconfig={lab.control_plane.kubeconfig}"
    listed = run(lab.tools["helm"], "list", "--all-namespaces", "--all", "--output=json", kubeconfig)
    return {f"{row['namespace']}/{row['name']}": row["status"] for row in json.loads(listed)}


def touched(result: Result) -> set[str]:
    """Names of what a run created, changed, replaced or deleted.

    The engine tells the provider of generated secrets the whole configuration, so it changes with any part.
    """
    return {urn.rpartition("::")[2] for urn in result.operations if "::pulumi:providers:" not in urn}


def test_the_whole_platform_from_nothing_again_and_down(platform: New, cluster_lab: ClusterLab) -> None:
    stack = platform()
    planned = stack.preview()
    first = stack.up()
    assert first.changes == planned.changes
    assert set(releases(cluster_lab).values()) == {"deployed"}
    assert stack.up().changed == 0
    assert stack.drift().code == 0
    down = stack.destroy("--exclude-protected")
    assert down.changes["delete"] > 0
    assert left_over(stack) == []


def test_no_secret_is_readable_in_the_state_or_in_values(platform: New, cluster_lab: ClusterLab) -> None:
    stack = platform(**only("storage", "cache"))
    stack.up()
    secrets = json.loads(cluster_lab.control_plane.kubectl("get", "secrets", "-A", "-o", "json"))["items"]
    ours = [
        s
        for s in secrets
        if (s["metadata"].get("labels") or {}).get("app.kubernetes.io/part-of") == "ironyard"
    ]
    assert ours
    values = cluster_lab.control_plane.kubectl("get", "configmaps", "-A", "-o", "json")
    state = json.dumps(stack.state())
    for encoded in (data for secret in ours for data in secret["data"].values()):
        assert encoded not in state
        assert encoded not in values


def test_a_changed_value_touches_what_it_should(platform: New) -> None:
    stack = platform(**only("cache"))
    stack.up()
    stack.configure({**stack.config, "ironyard-platform:cache": {"memory": "768Mi"}})
    assert touched(stack.up()) == {"valkey"}
    assert stack.up().changed == 0


def test_drift_is_seen_and_mended(platform: New, cluster_lab: ClusterLab) -> None:
    stack = platform(**only("cache"))
    stack.up()
    there = ("-n", "ironyard-cache")
    cluster_lab.control_plane.kubectl("delete", "networkpolicy", "default-deny", *there)
    other = json.dumps({"spec": {"policyTypes": ["Ingress", "Egress"]}})
    cluster_lab.control_plane.kubectl("patch", "networkpolicy", "same-namespace", f"--patch={other}", *there)
    drift = stack.drift()
    assert drift.code != 0
    assert {"ironyard-cache-default-deny", "ironyard-cache-same-namespace"} <= touched(drift)
    stack.up("--refresh")
    assert stack.drift().code == 0


def test_a_wrong_value_is_refused_with_its_path(platform: New, cluster_lab: ClusterLab) -> None:
    stack = platform(**{**only("cache"), "cache": {"mode": "memcached"}})
    refused = stack.up(check=False)
    assert refused.code != 0
    assert "ironyard-platform:cache.mode" in refused.problem
    assert "valkey" in refused.problem
    assert releases(cluster_lab) == {}


def test_a_cluster_that_does_not_answer(platform: New, tmp_path: Path) -> None:
    stack = platform(**only("cache"), cluster={"kubeconfig": str(tmp_path / "no-such-kubeconfig")})
    failed = stack.up(check=False)
    assert failed.code != 0
    assert "no-such-kubeconfig" in failed.problem


def test_a_registry_that_does_not_answer_then_one_that_does(platform: New, cluster_lab: ClusterLab) -> None:
    stack = platform(**only("cache"), cluster={"charts": "oci://127.0.0.1:1/charts"})
    failed = stack.up(check=False)
    assert failed.code != 0
    assert "127.0.0.1:1" in failed.problem
    cluster = {**stack.config["ironyard-platform:cluster"], "charts": cluster_lab.registry.charts}
    stack.configure({**stack.config, "ironyard-platform:cluster": cluster})
    stack.up()
    assert stack.up().changed == 0


def test_a_killed_run_is_cancelled_and_the_next_one_converges(platform: New, cluster_lab: ClusterLab) -> None:
    def begun() -> bool:
        return bool(releases(cluster_lab))

    stack = platform(**only("cache", "queueing"))
    stack.killed_up(begun)
    with pytest.raises(EngineError, match="lock"):
        stack.up()
    stack.cancel()
    stack.up()
    assert set(releases(cluster_lab).values()) == {"deployed"}
    assert stack.up().changed == 0


def test_the_policies_pass_the_platform(platform: New, cluster_lab: ClusterLab) -> None:
    result = platform().preview_under(POLICIES, environment=cluster_lab.policy_environment)
    assert result.code == 0, result.text


def test_the_policies_refuse_a_bad_stack_with_the_reason(
    platform: New, cluster_lab: ClusterLab, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "Pulumi.yaml").write_text("name: bad\nruntime: python\n")
    (bad / "__main__.py").write_text(
        "import pulumi_kubernetes as kubernetes\n"
        "container = {'name': 'web', 'image': 'web:latest'}\n"
        "kubernetes.core.v1.Pod('web', metadata={'namespace': 'a'}, spec={'containers': [container]})\n"
    )
    stack = Stack(bad, tmp_path / "state", cluster_lab.environment)
    refused = stack.preview_under(POLICIES, environment=cluster_lab.policy_environment)
    assert refused.code != 0
    assert "mandatory" in refused.text
    assert "latest" in refused.text
    assert "limits" in refused.text
