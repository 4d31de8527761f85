"""The facade in the cluster: what is registered, in which order, and that it obeys its readers' schemas."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes
import pytest
import yaml

from api.settings import Settings
from stacks.components.base import Component, Platform
from stacks.components.database import Database
from stacks.components.facade import Facade
from stacks.components.gateway import Gateway
from stacks.components.storage import Storage
from stacks.versions import IRONYARD
from tests.stacks.schemas import built_in, containers, custom, pod_of

NAMESPACE = "ironyard-system"
TENANCY = {
    "enabled": True,
    "stack": "gpu-cluster",
    "backend": "s3://states?endpoint=s3.example.com",
    "credentials": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "open sesame"},
    "sections": {"workspaces": {"prefix": "team-"}},
}


@pytest.fixture(autouse=True)
def only_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {c.section: c for c in (Storage, Database, Gateway, Facade)}
    monkeypatch.setattr(Component, "known", known)


def roll(
    roll_out: Any,
    *,
    watches: bool = True,
    discovery: Any = None,
    prometheus: str | None = None,
    **config: Any,
) -> tuple[Any, Facade]:
    made = []

    def program() -> None:
        platform = Platform.load()
        monitoring: Any = SimpleNamespace(
            watches=watches, definitions=[], discovery=discovery, url=prometheus
        )
        gateway = Gateway(platform, monitoring=monitoring)
        gateway.encrypt(None)
        storage = Storage(platform, monitoring=monitoring)
        database = Database(platform, storage=storage, monitoring=monitoring)
        made.append(Facade(platform, database=database, gateway=gateway, monitoring=monitoring))

    return roll_out(program, **config), made[0]


def spec(seen: Any, kind: str, name: str) -> dict[str, Any]:
    return dict(seen.one(kind, name, NAMESPACE).inputs["spec"])


def pod(seen: Any, name: str) -> dict[str, Any]:
    return dict(spec(seen, "Deployment", name)["template"]["spec"])


def registered(seen: Any) -> list[dict[str, Any]]:
    """The facade's own objects as the API server gets them."""
    return [
        {key: value for key, value in resource.inputs.items() if value is not None}
        for resource in seen.resources
        if resource.type.startswith("kubernetes:")
        and (resource.namespace == NAMESPACE or resource.object_name in (NAMESPACE, "ironyard-tenancy"))
    ]


@pytest.mark.parametrize("config", [{}, {"max_replicas": 2, "tenancy": TENANCY, "keys_secret": "fleet"}])
def test_every_object_obeys_its_schema(roll_out: Any, contracts: Path, config: dict[str, Any]) -> None:
    seen, _ = roll(roll_out, facade=config)
    documents = registered(seen)
    kinds = {document["kind"] for document in documents}
    assert kinds >= {
        *("Namespace", "NetworkPolicy", "ConfigMap", "Secret", "Job", "Deployment", "Service"),
        *("PodDisruptionBudget", "ServiceMonitor", "HTTPRoute"),
    }
    assert ("HorizontalPodAutoscaler" in kinds) == (not config)
    faults = []
    for document in documents:
        if document["kind"] in ("ServiceMonitor", "HTTPRoute"):
            faults += custom(document, contracts)
        else:
            faults += built_in(document)
    assert faults == []


def test_every_pod_is_as_confined_as_the_strictest_level_asks(roll_out: Any) -> None:
    seen, _ = roll(roll_out, facade={"tenancy": TENANCY})
    namespace = seen.one("Namespace", NAMESPACE).inputs["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = [found for document in registered(seen) if (found := pod_of(document))]
    assert len(pods) == 3
    for found in pods:
        assert found["securityContext"]["runAsNonRoot"] is True
        assert found["securityContext"]["runAsUser"] == 10001
        assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert found["enableServiceLinks"] is False
        for container in containers(found):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
            assert container["image"] == IRONYARD.reference
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/var/lib/ironyard"} <= mounted


def test_only_the_worker_of_a_cluster_that_follows_the_ledger_has_an_account(roll_out: Any) -> None:
    for config, account in (({}, False), ({"tenancy": TENANCY}, True)):
        seen, _ = roll(roll_out, facade=config)
        assert pod(seen, "ironyard-worker")["automountServiceAccountToken"] is account
        assert pod(seen, "ironyard-api")["automountServiceAccountToken"] is False
        assert bool(seen.of("ClusterRole")) is account
        assert bool(seen.of("ServiceAccount")) is account


def test_a_new_image_migrates_first_under_another_name(roll_out: Any) -> None:
    def job(**config: Any) -> Any:
        (found,) = [r for r in roll(roll_out, facade=config)[0].of("Job") if r.namespace == NAMESPACE]
        return found

    first, same, new = job(), job(replicas=3), job(image="registry.example.com/ironyard:0.2.0")
    assert first.object_name == same.object_name != new.object_name
    (container,) = containers(new.inputs["spec"]["template"]["spec"])
    assert container["image"] == "registry.example.com/ironyard:0.2.0"
    assert container["command"][-1] == "ironyard db upgrade && ironyard db bootstrap"


def test_both_deployments_wait_for_the_migration_and_it_for_the_database(
    roll_out: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: dict[str, list[str]] = {}

    def spy(kind: Any) -> Any:
        class Spied(kind):  # type: ignore[misc]
            def __init__(self, name: str, *arguments: Any, opts: pulumi.ResourceOptions, **more: Any) -> None:
                waits[name] = [str(other._name) for other in opts.depends_on or ()]
                super().__init__(name, *arguments, opts=opts, **more)

        return Spied

    monkeypatch.setattr(kubernetes.apps.v1, "Deployment", spy(kubernetes.apps.v1.Deployment))
    monkeypatch.setattr(kubernetes.batch.v1, "Job", spy(kubernetes.batch.v1.Job))
    roll(roll_out)
    migration = f"{NAMESPACE}-ironyard-migration"
    assert migration in waits[f"{NAMESPACE}-ironyard-api"]
    assert migration in waits[f"{NAMESPACE}-ironyard-worker"]
    assert {"ironyard-database-ironyard-database", f"{NAMESPACE}-settings"} <= set(waits[migration])


def environment(seen: Any) -> dict[str, Any]:
    plain = dict(seen.one("ConfigMap", "settings", NAMESPACE).inputs["data"])
    return plain | dict(seen.one("Secret", "settings", NAMESPACE).inputs["stringData"])


def facade_settings(seen: Any) -> Settings:
    """As the facade would read them; every name must be one that it knows."""
    known = {f"IRONYARD_{name.upper()}": name for name in Settings.model_fields}
    given = {key: value for key, value in environment(seen).items() if key.startswith("IRONYARD_")}
    assert given.keys() <= known.keys()
    return Settings(_env_file=None, **{known[key]: value for key, value in given.items()})


def test_the_settings_are_the_facade_s_and_fit_for_production(roll_out: Any) -> None:
    options = {"default_gpu_quota": 16, "expiry_interval": 2.5, "node_exporter_port": 19100}
    seen, _ = roll(roll_out, facade={"options": options, "administrator_email": "ops@example.com"})
    settings = facade_settings(seen)
    assert settings.mode == "production"
    assert settings.administrator_email == "ops@example.com"
    assert (settings.default_gpu_quota, settings.expiry_interval, settings.node_exporter_port) == (
        16,
        2.5,
        19100,
    )
    assert settings.database.startswith("postgresql+psycopg://ironyard:")
    assert settings.database.endswith("@ironyard-rw.ironyard-database.svc:5432/ironyard?sslmode=require")
    assert settings.tenancy_stack == ""


def test_tenancy_s_settings(roll_out: Any) -> None:
    seen, _ = roll(roll_out, facade={"tenancy": TENANCY})
    settings = facade_settings(seen)
    assert settings.tenancy_stack == "gpu-cluster"
    assert len(settings.tenancy_key) >= 32
    assert environment(seen)["AWS_SECRET_ACCESS_KEY"] == "open sesame"
    found = pod(seen, "ironyard-worker")
    (volume,) = [volume for volume in found["volumes"] if volume["name"] == "tenancy"]
    (container,) = containers(found)
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "tenancy"]
    (item,) = volume["configMap"]["items"]
    assert settings.tenancy_config == f"{mount['mountPath']}/{item['path']}"
    written = seen.one("ConfigMap", volume["configMap"]["name"], NAMESPACE).inputs["data"][item["key"]]
    assert yaml.safe_load(written) == {"config": {"ironyard-tenancy:workspaces": {"prefix": "team-"}}}


def test_secrets_are_secrets_of_the_state_and_in_no_config_map(roll_out: Any) -> None:
    seen, _ = roll(roll_out, facade={"tenancy": TENANCY})
    secret = seen.one("Secret", "settings", NAMESPACE)
    for name in secret.inputs["stringData"]:
        assert {"stringData", f"stringData.{name}"} & secret.secrets, name
    hidden = set(secret.inputs["stringData"].values())
    assert len(hidden) == len(secret.inputs["stringData"])
    for resource in seen.of("ConfigMap") + seen.of("Deployment") + seen.of("Job"):
        assert not any(value in str(resource.inputs) for value in hidden)


def test_pods_start_anew_when_a_setting_or_a_secret_changes(roll_out: Any) -> None:
    def stamps(**config: Any) -> Any:
        seen, _ = roll(roll_out, facade=config)
        found = [
            spec(seen, "Deployment", name)["template"]["metadata"]["annotations"]
            for name in ("ironyard-api", "ironyard-worker")
        ]
        assert found[0] == found[1]
        return found[0]

    before = stamps()
    setting = stamps(options={"default_gpu_quota": 3})
    assert setting["ironyard.io/settings"] != before["ironyard.io/settings"]
    assert setting["ironyard.io/secrets"] == before["ironyard.io/secrets"]
    secret = stamps(tenancy=TENANCY)
    assert secret["ironyard.io/secrets"] != before["ironyard.io/secrets"]
    sections = stamps(tenancy=TENANCY | {"sections": {}})
    assert sections["ironyard.io/settings"] != secret["ironyard.io/settings"]


def test_the_key_of_what_the_database_keeps_is_protected(
    roll_out: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    protected: dict[str, bool | None] = {}
    generate = Component.generate

    def spying(self: Any, name: str, **more: Any) -> Any:
        protected[name] = more.get("protect")
        return generate(self, name, **more)

    monkeypatch.setattr(Component, "generate", spying)
    roll(roll_out, facade={"tenancy": TENANCY})
    assert protected["encryption-secret"] is True
    assert protected["proof-secret"] is True
    assert protected["tenancy-passphrase"] is True
    assert protected["token-secret"] is None


def test_the_discovery_token_is_prometheus_s(roll_out: Any) -> None:
    token = "the-token-that-monitoring-has-made-0123456789"
    seen, facade = roll(roll_out, discovery=SimpleNamespace(token=pulumi.Output.secret(token)))
    assert environment(seen)["IRONYARD_DISCOVERY_TOKEN"] == token
    assert facade.discovery_token is not None
    seen, _ = roll(roll_out)
    assert len(environment(seen)["IRONYARD_DISCOVERY_TOKEN"]) == 40


def test_leaks_are_measured_by_the_platform_s_prometheus(roll_out: Any) -> None:
    url = "http://kube-prometheus-stack-prometheus.ironyard-monitoring.svc:9090"
    seen, _ = roll(roll_out, prometheus=url)
    assert facade_settings(seen).prometheus_url == url
    other = {"options": {"prometheus_url": "https://thanos.example.com"}}
    assert facade_settings(roll(roll_out, prometheus=url, facade=other)[0]).prometheus_url == (
        "https://thanos.example.com"
    )
    assert facade_settings(roll(roll_out)[0]).prometheus_url == ""


def test_nobody_reaches_the_api_but_the_gateway_and_prometheus(roll_out: Any) -> None:
    seen, _ = roll(roll_out)
    policies = {r.object_name: r.inputs["spec"] for r in seen.of("NetworkPolicy") if r.namespace == NAMESPACE}
    assert policies.keys() == {"default-deny", "same-namespace", "gateway", "metrics"}
    assert "ingress" not in policies["default-deny"]
    for name, namespace in (("gateway", "ironyard-gateway"), ("metrics", "ironyard-monitoring")):
        (rule,) = policies[name]["ingress"]
        assert rule["from"] == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        ]
        assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]
        assert policies[name]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "ironyard-api"}}
    clients = seen.one("NetworkPolicy", "clients", "ironyard-database").inputs["spec"]["ingress"][0]["from"]
    assert clients == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}]


def test_the_public_name_leads_to_the_api_but_not_to_its_metrics(roll_out: Any) -> None:
    seen, facade = roll(roll_out, cluster={"domain": "gpu.example.com"})
    route = spec(seen, "HTTPRoute", "ironyard-api")
    assert route["hostnames"] == ["api.gpu.example.com"]
    paths = [match["path"]["value"] for match in route["rules"][0]["matches"]]
    assert not any("/metrics".startswith(path) for path in paths)
    assert "/api" in paths
    (backend,) = route["rules"][0]["backendRefs"]
    (port,) = spec(seen, "Service", backend["name"])["ports"]
    assert backend["port"] == port["port"]
    assert facade.url == "https://api.gpu.example.com"
    assert facade.internal_url == "http://ironyard-api.ironyard-system.svc:8080"


def test_without_a_gateway_the_address_is_inside_the_cluster(roll_out: Any) -> None:
    seen, facade = roll(roll_out, gateway={"mode": "off"})
    assert [r for r in seen.of("HTTPRoute") if r.namespace == NAMESPACE] == []
    assert facade.url == facade.internal_url == "http://ironyard-api.ironyard-system.svc:8080"
    assert "gateway" not in {r.object_name for r in seen.of("NetworkPolicy")}


def test_everything_selects_the_pods_that_it_means(roll_out: Any) -> None:
    seen, _ = roll(roll_out)
    for name in ("ironyard-api", "ironyard-worker"):
        deployment = spec(seen, "Deployment", name)
        labels = deployment["template"]["metadata"]["labels"].items()
        assert deployment["selector"]["matchLabels"].items() <= labels
        assert spec(seen, "PodDisruptionBudget", name)["selector"]["matchLabels"].items() <= labels
        for spread in deployment["template"]["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"].items() <= labels
    api = pod(seen, "ironyard-api")["containers"][0]
    service = seen.one("Service", "ironyard-api", NAMESPACE).inputs
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in api["ports"]}
    monitor = spec(seen, "ServiceMonitor", "ironyard-api")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_the_autoscaler_decides_how_many_where_there_is_one(roll_out: Any) -> None:
    seen, _ = roll(roll_out, facade={"replicas": 3, "max_replicas": 9})
    scaler = spec(seen, "HorizontalPodAutoscaler", "ironyard-api")
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 9)
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "ironyard-api"}
    assert "replicas" not in spec(seen, "Deployment", "ironyard-api"), "an up would undo its decision"
    fixed, _ = roll(roll_out, facade={"replicas": 2, "max_replicas": 2})
    assert fixed.of("HorizontalPodAutoscaler") == []
    assert spec(fixed, "Deployment", "ironyard-api")["replicas"] == 2


def test_a_single_pod_has_no_budget_that_would_block_its_node(roll_out: Any) -> None:
    seen, _ = roll(roll_out, facade={"replicas": 1, "workers": 1})
    assert [r for r in seen.of("PodDisruptionBudget") if r.namespace == NAMESPACE] == []


def test_probes_ask_what_the_image_answers(roll_out: Any) -> None:
    seen, _ = roll(roll_out)
    (api,) = pod(seen, "ironyard-api")["containers"]
    assert api["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert api["readinessProbe"]["httpGet"]["path"] == "/health/ready?worker=false"
    (worker,) = pod(seen, "ironyard-worker")["containers"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert worker[probe]["exec"]["command"] == ["ironyard", "health", "--worker"]


def test_air_gapped_the_image_comes_from_the_mirror(roll_out: Any) -> None:
    seen, _ = roll(roll_out, cluster={"images": "mirror.example.com/all"})
    (container,) = pod(seen, "ironyard-api")["containers"]
    assert container["image"] == f"mirror.example.com/all/ironyard/ironyard:{IRONYARD.tag}"


def test_keys_of_the_fleet_are_mounted_for_the_worker_alone(roll_out: Any) -> None:
    seen, _ = roll(roll_out, facade={"keys_secret": "fleet"})
    (mount,) = [
        m for m in pod(seen, "ironyard-worker")["containers"][0]["volumeMounts"] if m["name"] == "keys"
    ]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/ironyard/keys", True)
    assert "fleet" not in str(pod(seen, "ironyard-api"))


def test_tenancy_s_rights_are_those_of_its_program(roll_out: Any) -> None:
    rules = (
        roll(roll_out, facade={"tenancy": TENANCY})[0].one("ClusterRole", "ironyard-tenancy").inputs["rules"]
    )
    assert not any("*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] for rule in rules)
    assert not any("secrets" in rule["resources"] for rule in rules)
    (bind,) = [rule for rule in rules if rule["verbs"] == ["bind"]]
    assert (bind["resources"], bind["resourceNames"]) == (["clusterroles"], ["admin", "edit", "view"])
    pulls = {"tenancy": TENANCY | {"pull_secrets": True}}
    more = roll(roll_out, facade=pulls)[0].one("ClusterRole", "ironyard-tenancy").inputs["rules"]
    assert any("secrets" in rule["resources"] for rule in more)


def test_it_can_be_left_out(roll_out: Any) -> None:
    seen, facade = roll(roll_out, facade={"mode": "off"})
    assert registered(seen) == []
    assert (facade.url, facade.discovery_token, facade.ready) == (None, None, [])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"replicas": 3, "max_replicas": 2}, "max_replicas must be at least replicas, which is 3"),
        ({"image": "ironyard"}, "facade.image"),
        ({"image": "ironyard:latest"}, "latest"),
        ({"options": {"gpu_quota": 3}}, "options.gpu_quota cannot be set here (known: "),
        ({"options": {"token_secret": "x"}}, "options.token_secret cannot be set here"),
        ({"options": {"tenancy_stack": "x"}}, "options.tenancy_stack cannot be set here"),
        ({"options": {"default_gpu_quota": -1}}, "options.default_gpu_quota: Input should be greater than"),
        ({"tenancy": {"enabled": True}}, "tenancy.enabled needs tenancy.backend"),
        ({"tenancy": {"sections": {"registry": {"password": "x"}}}}, "registry.password would be readable"),
        ({"administrator_email": "me"}, "facade.administrator_email"),
    ],
)
def test_what_cannot_work_is_refused(roll_out: Any, config: dict[str, Any], said: str) -> None:
    with pytest.raises(pulumi.RunError) as refused:
        roll(roll_out, facade=config)
    assert said in str(refused.value)


def test_it_needs_a_database(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError, match="facade needs database, which is off"):
        roll(roll_out, database={"mode": "off"})
