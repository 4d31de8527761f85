"""The facade rolled out by the real engine: migrated before it runs, changed as little as a change asks."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.cluster.engine import Result, Stack
from tests.lab.cluster.lab import ClusterLab
from tests.stacks.engine.test_platform import only

pytestmark = pytest.mark.platform
NAMESPACE = "ironyard-system"
SECTIONS = {**only("database", "facade"), "database": {"backups": False}}
DEPLOYMENTS = {f"{NAMESPACE}-ironyard-api", f"{NAMESPACE}-ironyard-worker"}


def changed(result: Result) -> set[str]:
    """Names of what was created, changed, replaced or deleted.

    The provider of generated secrets is told the whole configuration, so it changes with any part of it.
    """
    return {
        urn.rpartition("::")[2]
        for urn, operation in result.operations.items()
        if operation != "read" and "::pulumi:providers:" not in urn
    }


def objects(lab: ClusterLab, kind: str) -> dict[str, Any]:
    listed = json.loads(lab.control_plane.kubectl("get", kind, "--namespace", NAMESPACE, "-o", "json"))[
        "items"
    ]
    return {item["metadata"]["name"]: item for item in listed}


def secrets(lab: ClusterLab) -> dict[str, str]:
    data = objects(lab, "secrets")["settings"]["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def wait_for_pods(lab: ClusterLab) -> None:
    """Two of each; the autoscaler looks every fifteen seconds how many there are."""
    deadline = time.monotonic() + 120
    while (ready := _ready(lab)) != {"ironyard-api": 2, "ironyard-worker": 2}:
        assert time.monotonic() < deadline, ready
        time.sleep(1)


def _ready(lab: ClusterLab) -> dict[str, int]:
    found = objects(lab, "deployments")
    return {name: deployment["status"].get("readyReplicas", 0) for name, deployment in found.items()}


def test_up_again_and_changed(platform: Callable[..., Stack], cluster_lab: ClusterLab) -> None:
    stack = platform(**SECTIONS)
    stack.up()
    (job,) = objects(cluster_lab, "jobs").values()
    assert job["status"]["succeeded"] == 1
    wait_for_pods(cluster_lab)
    deployments = objects(cluster_lab, "deployments")
    done = job["status"]["completionTime"]
    assert all(done <= found["metadata"]["creationTimestamp"] for found in deployments.values())
    assert stack.up().changed == 0
    assert stack.drift().code == 0, "the autoscaler's decisions are no drift"
    before = secrets(cluster_lab)

    facade: dict[str, Any] = {"options": {"default_gpu_quota": 16}}
    stack.configure({**stack.config, "ironyard-platform:facade": facade})
    assert changed(stack.up()) == {f"{NAMESPACE}-settings", *DEPLOYMENTS}
    assert secrets(cluster_lab) == before

    facade["image"] = "registry.example.com/ironyard:0.2.0"
    stack.configure({**stack.config, "ironyard-platform:facade": facade})
    assert changed(stack.up()) == {f"{NAMESPACE}-ironyard-migration", *DEPLOYMENTS}
    (new,) = objects(cluster_lab, "jobs").values()
    assert new["metadata"]["name"] != job["metadata"]["name"]
    assert secrets(cluster_lab) == before


def test_tenancy_s_account_may_do_what_its_program_does_and_no_more(
    platform: Callable[..., Stack], cluster_lab: ClusterLab
) -> None:
    tenancy = {"enabled": True, "backend": "s3://states"}
    platform(**SECTIONS | {"facade": {"tenancy": tenancy}}).up()

    def may(verb: str, resource: str, name: str = "") -> bool:
        kind, _, group = resource.partition(".")
        asked = {"verb": verb, "resource": kind, "group": group, "name": name}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": account, "resourceAttributes": asked},
        }
        answer = cluster_lab.control_plane.kubectl(
            "create", "-f", "-", "-o", "json", stdin=json.dumps(review)
        )
        return bool(json.loads(answer)["status"]["allowed"])

    account = f"system:serviceaccount:{NAMESPACE}:ironyard-worker"
    rbac = "rbac.authorization.k8s.io"
    core = ("namespaces", "resourcequotas", "limitranges", "serviceaccounts")
    for kind in (*core, "networkpolicies.networking.k8s.io", f"rolebindings.{rbac}"):
        assert may("create", kind), kind
    assert may("create", "clusterqueues.kueue.x-k8s.io")
    assert may("bind", f"clusterroles.{rbac}", "edit")
    assert not may("bind", f"clusterroles.{rbac}", "cluster-admin")
    for kind in ("secrets", "pods", "deployments.apps", f"clusterroles.{rbac}"):
        assert not may("create", kind), kind
    assert not may("get", "secrets")
