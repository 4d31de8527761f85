"""What a snapshot of the ledger becomes in a cluster."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest

from stacks.tenancy import names, reference
from stacks.tenancy.program import load, tenancy
from stacks.tenancy.queueing import API_VERSION
from stacks.tenancy.settings import PROJECT
from stacks.tenancy.snapshot import Snapshot
from tests.stacks import schemas
from tests.stacks.conftest import Recorder, Registered

H100, L40S = "NVIDIA H100 80GB HBM3", "NVIDIA L40S"
VISION, AUDIO = "0199f2c4-5f70-7d20-9f0e-6a4f5c1b2e77", "0199f2c4-5f70-7d20-9f0e-6a4f5c1b2e78"
ADA = {"email": "ada@example.org", "role": "owner"}
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
Apply = Callable[..., Recorder]


def workspace(slug: str = "vision", **change: Any) -> dict[str, Any]:
    return {
        "id": VISION if slug == "vision" else AUDIO,
        "slug": slug,
        "name": slug.title(),
        "members": [ADA],
        "quota": {"gpus": 8, "models": {}},
    } | change


def host(*models: str) -> dict[str, Any]:
    return {
        "name": "gpu-01",
        "state": "idle",
        "region": "lab",
        "models": list(models),
        "gpus": 8,
        "workspaces": [],
    }


@pytest.fixture
def apply(roll_out: Any) -> Apply:
    """`apply(*workspaces, hosts=[…], section={…})` gives what the program registers."""

    def run(*workspaces: dict[str, Any], hosts: Any = (), **config: Any) -> Recorder:
        snapshot = Snapshot.model_validate({"workspaces": list(workspaces), "hosts": list(hosts)})
        recorder: Recorder = roll_out(lambda: tenancy(snapshot, load()), project=PROJECT, **config)
        return recorder

    return run


def hard(seen: Recorder, namespace: str = "ws-vision") -> dict[str, str]:
    found: dict[str, str] = seen.one("ResourceQuota", "workspace", namespace).inputs["spec"]["hard"]
    return found


def flavors(seen: Recorder, queue: str = "ws-vision") -> dict[str, str]:
    """Flavor → GPUs of a workspace's queue."""
    groups = seen.one("ClusterQueue", queue).inputs["spec"]["resourceGroups"]
    return {
        flavor["name"]: resource["nominalQuota"]
        for group in groups
        for flavor in group["flavors"]
        for resource in flavor["resources"]
        if resource["name"] == "nvidia.com/gpu"
    }


def everything(apply: Apply) -> Recorder:
    """Two workspaces with all that can be switched on, but for the registry's project."""
    quota = {"gpus": 8, "models": {H100: 4}}
    members = [ADA, {"email": "bob@example.org", "role": "viewer"}]
    return apply(
        workspace(quota=quota, members=members),
        workspace("audio", members=[]),
        hosts=[host(H100, L40S), host("Odd (GPU) / 3")],
        registry={"mode": "harbor", "url": "https://registry.example", "password": "x" * 12},
    )


def faults(resource: Registered, contracts: Path) -> list[str]:
    """What the API server would refuse about it."""
    wanted = {key: value for key, value in resource.inputs.items() if value is not None}
    is_custom = wanted["apiVersion"] == API_VERSION
    return schemas.custom(wanted, contracts) if is_custom else schemas.built_in(wanted)


def test_every_object_is_one_that_the_api_server_takes(apply: Apply, contracts: Path) -> None:
    seen = [row for row in everything(apply).resources if "apiVersion" in row.inputs]
    assert {row.kind for row in seen} == {
        "Namespace",
        "ResourceQuota",
        "LimitRange",
        "NetworkPolicy",
        "RoleBinding",
        "ServiceAccount",
        "Secret",
        "ResourceFlavor",
        "ClusterQueue",
        "LocalQueue",
    }
    assert [fault for row in seen for fault in faults(row, contracts)] == []


def test_the_check_of_objects_sees_what_is_wrong(contracts: Path) -> None:
    queue = {"apiVersion": API_VERSION, "kind": "LocalQueue", "metadata": {"name": "x"}}
    for spec, why in (({"queue": "x"}, "'queue' was unexpected"), ({"clusterQueue": "X"}, "does not match")):
        (fault,) = faults(Registered("LocalQueue", "x", queue | {"spec": spec}), contracts)
        assert why in fault
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}, "automount": True}
    assert faults(Registered("ServiceAccount", "x", account), contracts)


def test_a_workspace_is_a_namespace_of_its_own(apply: Apply) -> None:
    seen = apply(workspace())
    labels = seen.one("Namespace", "ws-vision").inputs["metadata"]["labels"]
    assert labels[names.WORKSPACE_ID] == VISION
    assert labels[names.WORKSPACE_SLUG] == "vision"
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"
    assert labels["pod-security.kubernetes.io/warn"] == "restricted"
    (account,) = seen.of("ServiceAccount")
    assert account.inputs["automountServiceAccountToken"] is False


def test_the_ledger_s_quota_is_the_namespace_s(apply: Apply) -> None:
    limits = {"cpu": 4, "cpu_per_gpu": 10, "memory_gib": 16, "memory_gib_per_gpu": 100, "pods": 7}
    limits |= {"others": {"requests.nvidia.com/mig-1g.10gb": "0"}}  # type: ignore[dict-item]
    found = hard(apply(workspace(quota={"gpus": 3, "models": {}}), limits=limits))
    assert found["requests.nvidia.com/gpu"] == "3"
    assert found["requests.cpu"] == "34"
    assert found["requests.memory"] == "316Gi"
    assert found["pods"] == "7"
    assert found["services.loadbalancers"] == found["services.nodeports"] == "0"
    assert found["requests.nvidia.com/mig-1g.10gb"] == "0"


def test_a_container_that_names_no_limits_gets_some(apply: Apply) -> None:
    seen = apply(workspace(), limits={"container_memory": "3Gi", "volume": "5Gi"})
    container, volume = seen.one("LimitRange", "workspace").inputs["spec"]["limits"]
    assert container["default"] == {"cpu": "2", "memory": "3Gi"}
    assert container["defaultRequest"].keys() == {"cpu", "memory"}
    assert volume["max"] == {"storage": "5Gi"}


def test_a_model_s_share_is_its_quota_and_never_more_than_the_whole(apply: Apply) -> None:
    quota = {"gpus": 6, "models": {H100: 2, L40S: 99}}
    seen = apply(workspace(quota=quota), hosts=[host(H100, "NVIDIA A100-SXM4-80GB")])
    a100 = names.name_of("NVIDIA A100-SXM4-80GB")
    assert flavors(seen) == {names.name_of(H100): "2", names.name_of(L40S): "6", a100: "6"}


def test_nobody_borrows_what_the_ledger_does_not_lend(apply: Apply) -> None:
    spec = apply(workspace(), hosts=[host(H100)]).one("ClusterQueue", "ws-vision").inputs["spec"]
    assert spec["cohortName"] == "ironyard"
    resources = [r for g in spec["resourceGroups"] for f in g["flavors"] for r in f["resources"]]
    assert {r["name"] for r in resources} == {"cpu", "memory", "nvidia.com/gpu"}
    assert {r["borrowingLimit"] for r in resources} == {"0"}


def test_a_queue_takes_work_of_its_workspace_alone(apply: Apply) -> None:
    seen = apply(workspace(), workspace("audio"))
    for queue, owner in (("ws-vision", VISION), ("ws-audio", AUDIO)):
        spec = seen.one("ClusterQueue", queue).inputs["spec"]
        assert spec["namespaceSelector"] == {"matchLabels": {names.WORKSPACE_ID: owner}}
        assert seen.one("LocalQueue", "default", queue).inputs["spec"] == {"clusterQueue": queue}


def test_a_cluster_without_gpus_still_queues_the_rest(apply: Apply) -> None:
    seen = apply(workspace())
    assert flavors(seen) == {}
    assert [row.object_name for row in seen.of("ResourceFlavor")] == ["ironyard-general"]


def test_flavors_point_at_the_nodes_of_their_model(apply: Apply) -> None:
    models = {H100: {"flavor": "h100"}, L40S: {"product": "NVIDIA-L40S-SHARED"}}
    seen = apply(workspace(), hosts=[host(H100, L40S)], gpus={"models": models})
    labels = {row.object_name: row.inputs["spec"].get("nodeLabels") for row in seen.of("ResourceFlavor")}
    assert labels == {
        "ironyard-general": None,
        "h100": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        names.name_of(L40S): {"nvidia.com/gpu.product": "NVIDIA-L40S-SHARED"},
    }


def test_a_flavor_of_two_models_is_refused(apply: Apply) -> None:
    models = {H100: {"flavor": names.name_of(L40S)}}
    with pytest.raises(pulumi.RunError, match=r"ironyard-tenancy:gpus.models: .* both have the flavor"):
        apply(workspace(), hosts=[host(H100, L40S)], gpus={"models": models})
    models = {H100: {"flavor": "same"}, L40S: {"flavor": "same"}}
    with pytest.raises(pulumi.RunError, match="two models have the flavor same"):
        apply(workspace(), gpus={"models": models})


def test_more_models_than_kueue_takes_are_refused(apply: Apply) -> None:
    quota = {"gpus": 1, "models": {f"model {number}": 1 for number in range(65)}}
    with pytest.raises(pulumi.RunError, match=r"workspace vision: .* 65 GPU models, Kueue takes 64"):
        apply(workspace(quota=quota))


def test_without_kueue_the_quotas_hold_alone(apply: Apply) -> None:
    seen = apply(workspace(), hosts=[host(H100)], queueing={"mode": "off"})
    assert not seen.of("ClusterQueue") + seen.of("LocalQueue") + seen.of("ResourceFlavor")
    assert hard(seen)["requests.nvidia.com/gpu"] == "8"


def policies(seen: Recorder) -> dict[str, Any]:
    return {row.object_name: row.inputs["spec"] for row in seen.of("NetworkPolicy")}


def test_other_workspaces_do_not_reach_in(apply: Apply) -> None:
    found = policies(apply(workspace()))
    assert found["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    sources = [
        source for spec in found.values() for rule in spec.get("ingress", []) for source in rule["from"]
    ]
    names_of = [
        source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for source in sources
        if "namespaceSelector" in source
    ]
    assert names_of == ["ironyard-gateway", "ironyard-monitoring"]
    assert [source for source in sources if "namespaceSelector" not in source] == [{"podSelector": {}}]


def test_names_and_the_world_are_reached_but_not_the_cloud_s_metadata(apply: Apply) -> None:
    found = policies(apply(workspace()))
    assert {(p["protocol"], p["port"]) for p in found["names"]["egress"][0]["ports"]} == {
        ("UDP", 53),
        ("TCP", 53),
    }
    assert found["world"]["egress"][0]["to"] == [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}},
        {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128"]}},
    ]
    assert "world" not in policies(apply(workspace(), network={"egress": False}))
    assert policies(apply(workspace(), network={"mode": "off"})) == {}


def test_a_role_in_the_workspace_is_a_role_in_the_namespace(apply: Apply) -> None:
    members = [
        {"email": f"{role}@example.org", "role": role} for role in ("owner", "admin", "member", "viewer")
    ]
    roles = {"viewer": "look-only"}
    seen = apply(workspace(members=members), workspaces={"user_prefix": "oidc:", "roles": roles})
    found = {
        row.inputs["subjects"][0]["name"]: row.inputs["roleRef"]["name"] for row in seen.of("RoleBinding")
    }
    assert found == {
        "oidc:owner@example.org": "admin",
        "oidc:admin@example.org": "admin",
        "oidc:member@example.org": "edit",
        "oidc:viewer@example.org": "look-only",
    }


def test_a_namespace_is_kept_with_what_protects_it_unless_told_otherwise(
    apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, bool | None] = {}
    original = pulumi.CustomResource.__init__

    def noting(
        self: Any, t: str, name: str, props: Any = None, opts: Any = None, *rest: Any, **more: Any
    ) -> None:
        asked[t.rpartition(":")[2]] = opts.retain_on_delete
        original(self, t, name, props, opts, *rest, **more)

    monkeypatch.setattr(pulumi.CustomResource, "__init__", noting)
    kept = {"Namespace", "ResourceQuota", "LimitRange", "NetworkPolicy"}
    everything(apply)
    assert {kind for kind, keep in asked.items() if keep} == kept | {"Resource"}
    asked.clear()
    apply(workspace(), workspaces={"delete_namespaces": True})
    assert {kind for kind, keep in asked.items() if keep} == set()


def test_workloads_get_the_key_of_their_project(apply: Apply) -> None:
    seen = everything(apply)
    project = next(row for row in seen.resources if row.name == "vision-registry")
    assert project.inputs["project"] == "vision"
    assert project.inputs["storage"] == 100 * 1024**3
    assert project.inputs["members"] == {"ada@example.org": "owner", "bob@example.org": "viewer"}
    account = seen.one("ServiceAccount", "workloads", "ws-vision")
    assert account.inputs["imagePullSecrets"] == [{"name": "registry"}]
    assert seen.one("Secret", "registry", "ws-vision").inputs["type"] == "kubernetes.io/dockerconfigjson"


def test_the_worker_can_bring_the_registry_s_password(roll_out: Any) -> None:
    snapshot = Snapshot.model_validate({"workspaces": [workspace()], "hosts": []})
    registry = {"mode": "harbor", "url": "https://registry.example"}
    seen = roll_out(
        lambda: tenancy(snapshot, load(registry_password="of theirs")), project=PROJECT, registry=registry
    )
    project = next(row for row in seen.resources if row.name == "vision-registry")
    assert project.inputs["password"] == "of theirs"


def test_without_a_registry_there_is_none(apply: Apply) -> None:
    seen = apply(workspace())
    assert not seen.of("Secret")
    assert not [row for row in seen.resources if "registry" in row.name]


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("workspaces", {"prefix": "Team_"}, "ironyard-tenancy:workspaces.prefix: 'Team_' is not"),
        ("workspaces", {"pod_security": "open"}, "it should be 'restricted', 'baseline' or 'privileged'"),
        ("limits", {"pods": 0}, "ironyard-tenancy:limits.pods: it should be greater than or equal to 1"),
        ("limits", {"storage": "much"}, "'much' is not a Kubernetes quantity"),
        ("gpus", {"models": {H100: {"flavour": "x"}}}, "H100 80GB HBM3.flavour: there is no such key"),
        ("registry", {"mode": "harbor"}, "mode harbor needs `url` and `password`"),
        ("quotas", {}, "ironyard-tenancy:quotas: there is no such section"),
        ("facade", {"url": "ironyard.example"}, "an address that begins with http:// or https://"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_registered(
    apply: Apply, section: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(pulumi.RunError) as refused:
        apply(workspace(), **{section: given})
    assert said in str(refused.value)


def test_the_reference_page_is_the_code_s() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "tenancy.md"
    assert page.read_text() == reference.page(), "python -m stacks.tenancy.reference > docs/tenancy.md"


def test_names_are_valid_stable_and_differ() -> None:
    models = [
        H100,
        H100.lower(),
        "NVIDIA-H100-80GB-HBM3",
        "nvidia h100 80gb hbm3 ",
        "",
        "日本",
        "--",
        "x" * 300,
    ]
    made = [names.name_of(model) for model in models]
    assert len(set(made)) == len(models)
    assert made == [names.name_of(model) for model in models]
    assert names.name_of(H100).startswith("nvidia-h100-80gb-hbm3-")
    for name in made:
        assert NAME.fullmatch(name), name


@pytest.mark.parametrize(
    ("model", "product"),
    [
        (H100, "NVIDIA-H100-80GB-HBM3"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA-A100-SXM4-80GB"),
        ("Tesla T4", "Tesla-T4"),
    ],
)
def test_products_are_those_of_gpu_feature_discovery(model: str, product: str) -> None:
    assert names.product_of(model) == product


def test_models_that_are_no_label_get_labels_that_differ() -> None:
    odd = ["Odd (GPU)", "Odd [GPU]", "日本", "日 本", "-x-", "x" * 64, "x" * 65, ""]
    made = [names.product_of(model) for model in odd]
    assert len(set(made)) == len(odd)
    for value in made:
        assert LABEL.fullmatch(value), value
