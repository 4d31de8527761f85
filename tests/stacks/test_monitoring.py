from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from stacks.components.base import Platform
from stacks.components.monitoring import Monitoring
from stacks.components.prometheus import retention_size
from tests.lab.cluster.values import check_values
from tests.stacks.schemas import custom

WEBHOOK = "https://hooks.example.com/T0/secret-part"
EXTERNAL = {"mode": "external", "external": {"url": "https://prometheus.example.com"}}
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"cluster": {"high_availability": True, "storage_class": "fast", "images": "mirror:5000/all"}},
    {"monitoring": {"alertmanager": {"webhook": WEBHOOK}, "control_plane": True}},
    {"monitoring": {"alertmanager": {"enabled": False}, "grafana": {"enabled": False}}},
]


def roll(roll_out: Any, **config: Any) -> tuple[Any, Monitoring, list[dict[str, Any]]]:
    made, routed = [], []

    def program() -> None:
        monitoring = Monitoring(Platform.load())
        gateway: Any = SimpleNamespace(route=lambda name, **rest: routed.append({"name": name, **rest}))
        monitoring.publish(gateway)
        made.append(monitoring)

    return roll_out(program, **config), made[0], routed


def values(seen: Any) -> dict[str, Any]:
    found: dict[str, Any] = seen.one("Release", "kube-prometheus-stack").inputs["values"]
    return found


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_the_chart_has_every_value_that_is_set(config: Any, roll_out: Any, contracts: Path) -> None:
    seen, _, _ = roll(roll_out, **config)
    for release in seen.of("Release"):
        chart = release.inputs["chart"].rpartition("/")[2]
        assert check_values(chart, release.inputs["values"], contracts) == []


def test_objects_of_every_namespace_are_taken_up(roll_out: Any) -> None:
    seen, monitoring, _ = roll(roll_out)
    spec = values(seen)["prometheus"]["prometheusSpec"]
    kinds = ("rule", "serviceMonitor", "podMonitor", "probe", "scrapeConfig")
    assert [spec[f"{kind}SelectorNilUsesHelmValues"] for kind in kinds] == [False] * 5
    assert monitoring.watches
    assert len(monitoring.definitions) == 1


def test_definitions_are_a_release_of_their_own(roll_out: Any) -> None:
    seen, _, _ = roll(roll_out)
    names = [release.object_name for release in seen.of("Release")]
    assert names == ["prometheus-operator-crds", "kube-prometheus-stack"]
    assert values(seen)["crds"] == {"enabled": False}
    assert seen.one("Release", "kube-prometheus-stack").inputs["skipCrds"] is True


def test_rules_and_scrape_objects_obey_their_definitions(roll_out: Any, contracts: Path) -> None:
    seen, _, _ = roll(roll_out)
    objects = [r.inputs for kind in ("PrometheusRule", "ScrapeConfig") for r in seen.of(kind)]
    assert len(objects) == 5
    assert [fault for one in objects for fault in custom(one, contracts)] == []


def test_hosts_are_found_with_a_token_that_the_facade_gets_as_well(roll_out: Any) -> None:
    seen, monitoring, _ = roll(roll_out, monitoring={"hosts": {"facade_url": "http://facade.example.com"}})
    secret = seen.one("Secret", "ironyard-discovery", "ironyard-monitoring")
    assert {"stringData", "stringData.token"} & secret.secrets
    assert monitoring.discovery is not None
    assert monitoring.discovery.url == "http://facade.example.com"
    assert len(secret.inputs["stringData"]["token"]) == 40
    for config in seen.of("ScrapeConfig"):
        (found,) = config.inputs["spec"]["httpSDConfigs"]
        assert found["url"].startswith("http://facade.example.com/api/v1/discovery/prometheus/")
        assert found["authorization"]["credentials"] == {"name": "ironyard-discovery", "key": "token"}


def test_the_token_of_a_facade_elsewhere_is_used_and_kept_secret(roll_out: Any) -> None:
    seen, _, _ = roll(roll_out, monitoring={"hosts": {"token": "given elsewhere"}})
    secret = seen.one("Secret", "ironyard-discovery")
    assert secret.inputs["stringData"]["token"] == "given elsewhere"
    assert {"stringData", "stringData.token"} & secret.secrets


def test_grafana_gets_its_password_from_a_secret_and_its_dashboards_from_maps(roll_out: Any) -> None:
    seen, monitoring, routed = roll(roll_out)
    secret = seen.one("Secret", "grafana-admin")
    grafana = values(seen)["grafana"]
    assert grafana["admin"]["existingSecret"] == "grafana-admin"
    assert grafana["admin"]["passwordKey"] in secret.inputs["stringData"]
    assert {"stringData", "stringData.admin-password"} & secret.secrets
    assert "adminPassword" not in grafana
    assert monitoring.grafana_password is not None
    maps = [m for m in seen.of("ConfigMap") if m.inputs["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert {m.object_name for m in maps} == {f"dashboard-{n}" for n in ("fleet", "host", "gpu", "facade")}
    for one in maps:
        ((name, text),) = one.inputs["data"].items()
        assert name.endswith(".json")
        assert json.loads(text)["panels"]
    (route,) = routed
    assert (route["host"], route["service"]) == ("grafana.ironyard.local", "kube-prometheus-stack-grafana")


def test_a_webhook_is_told_and_its_address_stays_secret(roll_out: Any) -> None:
    seen, _, _ = roll(roll_out, monitoring={"alertmanager": {"webhook": WEBHOOK}})
    told = values(seen)["alertmanager"]
    assert WEBHOOK not in json.dumps(told)
    secret = seen.one("Secret", "alertmanager-receivers")
    assert secret.inputs["stringData"] == {"webhook": WEBHOOK}
    assert {"stringData", "stringData.webhook"} & secret.secrets
    assert told["alertmanagerSpec"]["secrets"] == ["alertmanager-receivers"]
    (receiver,) = [r for r in told["config"]["receivers"] if r["name"] == "webhook"]
    mounted = "/etc/alertmanager/secrets/alertmanager-receivers/webhook"
    assert receiver["webhook_configs"][0]["url_file"] == mounted
    receivers = {r["name"] for r in told["config"]["receivers"]}
    assert {r["receiver"] for r in told["config"]["route"]["routes"]} <= receivers


def test_two_of_each_and_their_volumes_when_highly_available(roll_out: Any) -> None:
    seen, _, _ = roll(roll_out, cluster={"high_availability": True, "storage_class": "fast"})
    given = values(seen)
    prometheus = given["prometheus"]["prometheusSpec"]
    assert (prometheus["replicas"], given["alertmanager"]["alertmanagerSpec"]["replicas"]) == (2, 2)
    claim = prometheus["storageSpec"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "fast"
    assert given["grafana"]["persistence"]["storageClassName"] == "fast"


def test_images_come_from_the_mirror(roll_out: Any) -> None:
    seen, _, _ = roll(roll_out, cluster={"images": "mirror:5000/all"})
    assert values(seen)["global"]["imageRegistry"] == "mirror:5000/all"


@pytest.mark.parametrize(("size", "kept"), [("100Gi", "87040MiB"), ("1Ti", "891289MiB"), ("10G", "8106MiB")])
def test_the_oldest_goes_before_the_volume_is_full(size: str, kept: str) -> None:
    assert retention_size(size) == kept


def test_a_prometheus_that_exists_gets_nothing_unless_asked(roll_out: Any) -> None:
    seen, monitoring, routed = roll(roll_out, monitoring=EXTERNAL)
    assert [r.type for r in seen.resources if r.type.startswith("kubernetes:")] == []
    assert (monitoring.url, monitoring.watches) == ("https://prometheus.example.com", False)
    assert routed == []


def test_a_prometheus_that_exists_may_take_rules_and_scrape_objects(roll_out: Any) -> None:
    external = EXTERNAL["external"] | {  # type: ignore[operator]
        "install_objects": True,
        "namespace": "observability",
        "labels": {"release": "prometheus"},
    }
    seen, monitoring, _ = roll(roll_out, monitoring={"mode": "external", "external": external})
    assert seen.of("Release") == []
    assert seen.of("Namespace") == []
    objects = [*seen.of("PrometheusRule"), *seen.of("ScrapeConfig")]
    assert len(objects) == 5
    assert {one.namespace for one in objects} == {"observability"}
    assert all(one.inputs["metadata"]["labels"]["release"] == "prometheus" for one in objects)
    assert monitoring.watches


def test_off_registers_nothing(roll_out: Any) -> None:
    seen, monitoring, _ = roll(roll_out, monitoring={"mode": "off"})
    assert [r.type for r in seen.resources if r.type.startswith("kubernetes:")] == []
    assert not monitoring.watches


def test_external_without_an_address_is_refused(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError, match="mode external needs `external`: url"):
        roll(roll_out, monitoring={"mode": "external"})
