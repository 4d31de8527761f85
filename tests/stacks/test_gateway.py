from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from stacks.components.base import Platform
from stacks.components.certificates import Certificates
from stacks.components.gateway import Gateway
from tests.lab.cluster.values import check_values
from tests.stacks.schemas import custom

ACME = {"acme": {"email": "ops@example.com"}}
EXTERNAL = {"mode": "external", "external": {"name": "shared", "namespace": "edge", "section": "web"}}
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"cluster": {"high_availability": True, "images": "mirror:5000/all"}},
    {"certificates": ACME},
    {"certificates": ACME, "gateway": {"mode": "off"}},
    {"certificates": {"mode": "external", "external": {"name": "corporate"}}},
    {"certificates": {"mode": "external", "external": {"name": "public", "wildcards": False}}},
    {"certificates": {"mode": "off"}},
    {"gateway": EXTERNAL},
    {"gateway": {"service": "NodePort", "service_annotations": {"a.example/b": "c"}, "replicas": 3}},
]


def roll(roll_out: Any, *, watches: bool = True, **config: Any) -> Any:
    def program() -> None:
        platform = Platform.load()
        monitoring: Any = SimpleNamespace(watches=watches, definitions=[])
        gateway = Gateway(platform, monitoring=monitoring)
        Certificates(platform, gateway=gateway, monitoring=monitoring)
        gateway.route("shop", host="shop.example.com", namespace="shops", service="till", port=8080)

    return roll_out(program, **config)


def objects(seen: Any, *kinds: str) -> list[dict[str, Any]]:
    return [r.inputs for r in seen.resources if r.kind in kinds]


def spec(seen: Any, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = seen.one(kind, name).inputs["spec"]
    return found


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_values_and_objects_are_what_charts_and_definitions_take(
    config: Any, roll_out: Any, contracts: Path
) -> None:
    seen = roll(roll_out, **config)
    faults = []
    for release in seen.of("Release"):
        chart = release.inputs["chart"].rpartition("/")[2]
        faults += check_values(chart, release.inputs["values"], contracts)
    for one in seen.resources:
        if "." in str(one.inputs.get("apiVersion", "")).partition("/")[0] and one.kind != "NetworkPolicy":
            faults += custom(one.inputs, contracts)
    assert faults == []


def test_http_goes_to_https_and_tls_ends_at_the_gateway(roll_out: Any) -> None:
    seen = roll(roll_out, cluster={"domain": "example.com"})
    http, https = spec(seen, "Gateway", "ironyard")["listeners"]
    assert (http["protocol"], http["port"]) == ("HTTP", 80)
    assert (https["hostname"], https["port"], https["tls"]["mode"]) == ("*.example.com", 443, "Terminate")
    secret = https["tls"]["certificateRefs"][0]["name"]
    certificate = spec(seen, "Certificate", "wildcard")
    assert certificate["secretName"] == secret
    assert certificate["dnsNames"] == ["*.example.com", "example.com"]
    redirect = spec(seen, "HTTPRoute", "to-https")
    assert redirect["parentRefs"][0]["sectionName"] == http["name"]
    assert redirect["rules"][0]["filters"][0]["requestRedirect"]["scheme"] == "https"
    assert spec(seen, "ClientTrafficPolicy", "ironyard")["tls"]["minVersion"] == "1.2"


def test_workspaces_cannot_take_a_public_name(roll_out: Any) -> None:
    _, https = spec(roll(roll_out), "Gateway", "ironyard")["listeners"]
    selector = https["allowedRoutes"]["namespaces"]["selector"]
    assert {"key": "ironyard.io/workspace-id", "operator": "DoesNotExist"} in selector["matchExpressions"]


def test_a_route_sends_a_name_to_a_service_without_a_time_limit(roll_out: Any) -> None:
    route = spec(roll(roll_out), "HTTPRoute", "shop")
    assert route["hostnames"] == ["shop.example.com"]
    (rule,) = route["rules"]
    assert rule["backendRefs"] == [{"name": "till", "port": 8080}]
    assert rule["timeouts"] == {"request": "0s"}
    (parent,) = route["parentRefs"]
    assert (parent["name"], parent["namespace"], parent["sectionName"]) == (
        "ironyard",
        "ironyard-gateway",
        "https",
    )


def test_the_platform_s_own_authority_signs_by_default(roll_out: Any) -> None:
    seen = roll(roll_out)
    assert spec(seen, "ClusterIssuer", "ironyard-root") == {"selfSigned": {}}
    root = spec(seen, "Certificate", "ironyard-root")
    assert root["isCA"] is True
    assert root["issuerRef"]["name"] == "ironyard-root"
    # a ClusterIssuer looks for its secret in cert-manager's own namespace
    assert seen.one("Certificate", "ironyard-root").namespace == "cert-manager"
    assert spec(seen, "ClusterIssuer", "ironyard") == {"ca": {"secretName": root["secretName"]}}
    assert spec(seen, "Certificate", "wildcard")["issuerRef"]["name"] == "ironyard"


def test_acme_signs_no_wildcards_so_each_name_has_a_listener_and_a_certificate(roll_out: Any) -> None:
    seen = roll(roll_out, certificates=ACME)
    issuer = spec(seen, "ClusterIssuer", "ironyard")["acme"]
    assert issuer["email"] == "ops@example.com"
    (parent,) = issuer["solvers"][0]["http01"]["gatewayHTTPRoute"]["parentRefs"]
    assert (parent["name"], parent["namespace"]) == ("ironyard", "ironyard-gateway")
    assert [one["name"] for one in spec(seen, "Gateway", "ironyard")["listeners"]] == ["http"]
    names = [n for c in objects(seen, "Certificate") for n in c["spec"]["dnsNames"]]
    assert names == ["shop.example.com"]
    (listener,) = spec(seen, "ListenerSet", "shop")["listeners"]
    assert listener["hostname"] == "shop.example.com"
    assert listener["tls"]["certificateRefs"][0]["name"] == spec(seen, "Certificate", "shop")["secretName"]
    assert spec(seen, "HTTPRoute", "shop")["parentRefs"][0]["kind"] == "ListenerSet"
    config = seen.one("Release", "cert-manager").inputs["values"]["config"]
    assert config["enableGatewayAPI"] is True


def test_an_issuer_that_exists_signs_and_nothing_is_installed_for_it(roll_out: Any) -> None:
    seen = roll(roll_out, certificates={"mode": "external", "external": {"name": "corporate"}})
    assert [r.object_name for r in seen.of("Release")] == ["gateway-helm"]
    assert objects(seen, "ClusterIssuer") == []
    assert spec(seen, "Certificate", "wildcard")["issuerRef"]["name"] == "corporate"


def test_without_certificates_the_operator_s_own_secret_is_used(roll_out: Any) -> None:
    seen = roll(roll_out, certificates={"mode": "off"})
    assert objects(seen, "Certificate") == []
    _, https = spec(seen, "Gateway", "ironyard")["listeners"]
    assert https["tls"]["certificateRefs"][0]["name"] == "ironyard-tls"


def test_a_gateway_that_exists_gets_routes_and_nothing_else(roll_out: Any) -> None:
    seen = roll(roll_out, gateway=EXTERNAL, certificates={"mode": "off"})
    kinds = {r.kind for r in seen.resources if r.type.startswith("kubernetes:")}
    assert kinds == {"HTTPRoute"}
    (parent,) = spec(seen, "HTTPRoute", "shop")["parentRefs"]
    assert (parent["name"], parent["namespace"], parent["sectionName"]) == ("shared", "edge", "web")


def test_off_registers_nothing(roll_out: Any) -> None:
    seen = roll(roll_out, gateway={"mode": "off"}, certificates={"mode": "off"})
    assert [r.type for r in seen.resources if r.type.startswith("kubernetes:")] == []


def test_two_of_each_and_a_budget_when_highly_available(roll_out: Any) -> None:
    seen = roll(roll_out, cluster={"high_availability": True})
    proxy = spec(seen, "EnvoyProxy", "ironyard")["provider"]["kubernetes"]
    assert proxy["envoyDeployment"]["replicas"] == 2
    assert proxy["envoyPDB"] == {"minAvailable": 1}
    assert seen.one("Release", "gateway-helm").inputs["values"]["deployment"]["replicas"] == 2
    certificates = seen.one("Release", "cert-manager").inputs["values"]
    assert [certificates[p]["replicaCount"] for p in ("webhook", "cainjector")] == [2, 2]
    assert certificates["podDisruptionBudget"]["enabled"] is True


def test_images_come_from_the_mirror(roll_out: Any) -> None:
    seen = roll(roll_out, cluster={"images": "mirror:5000/all"})
    envoy = spec(seen, "EnvoyProxy", "ironyard")["provider"]["kubernetes"]["envoyDeployment"]["container"]
    assert envoy["image"].startswith("mirror:5000/all/envoyproxy/envoy:")
    assert (
        seen.one("Release", "gateway-helm").inputs["values"]["global"]["imageRegistry"] == "mirror:5000/all"
    )
    assert seen.one("Release", "cert-manager").inputs["values"]["imageRegistry"] == "mirror:5000/all"


def test_cert_manager_is_watched_only_where_somebody_watches(roll_out: Any) -> None:
    for watches in (True, False):
        seen = roll(roll_out, watches=watches)
        values = seen.one("Release", "cert-manager").inputs["values"]
        assert values["prometheus"]["servicemonitor"]["enabled"] is watches


def test_the_proxies_are_watched_where_somebody_watches(roll_out: Any) -> None:
    (monitor,) = objects(roll(roll_out), "PodMonitor")
    assert monitor["metadata"]["namespace"] == "ironyard-gateway"
    assert objects(roll(roll_out, watches=False), "PodMonitor") == []


def test_only_the_gateway_s_service_is_open_to_the_world(roll_out: Any) -> None:
    seen = roll(roll_out, gateway={"service": "NodePort"})
    service = spec(seen, "EnvoyProxy", "ironyard")["provider"]["kubernetes"]["envoyService"]
    assert service["type"] == "NodePort"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("gateway", "mode external needs `external`: name, namespace"),
        ("certificates", "needs `external`: name"),
    ],
)
def test_external_without_its_name_is_refused(section: str, words: str, roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError, match=words):
        roll(roll_out, **{section: {"mode": "external"}})
