from __future__ import annotations

from typing import Any

import pulumi
import pytest

from stacks.components.access import Access
from stacks.components.base import Component, Platform
from stacks.components.gateway import Gateway
from stacks.components.monitoring import Monitoring
from tests.stacks.schemas import built_in

OFF = {"mode": "off"}
HEX = "4c0b569e4c96df157eee1b65dd0e4d41"
EXTERNAL = {
    "mode": "external",
    "external": {"url": "https://desks.example.com", "json_secret_key": HEX},
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[type[Component[Any]]] = [Gateway, Monitoring, Access]
    monkeypatch.setattr(Component, "known", {part.section: part for part in parts})


def build() -> Access:
    platform = Platform.load()
    return Access(platform, gateway=Gateway(platform, monitoring=Monitoring(platform)))


def pod(seen: Any, name: str) -> dict[str, Any]:
    return dict(seen.one("Deployment", name, "ironyard-access").inputs["spec"]["template"]["spec"])


def environment(seen: Any, name: str) -> dict[str, Any]:
    return {
        variable["name"]: variable.get("value", variable.get("valueFrom"))
        for variable in pod(seen, name)["containers"][0]["env"]
    }


def test_connections_come_from_links_signed_with_a_generated_key(roll_out: Any) -> None:
    seen = roll_out(build)
    reference = environment(seen, "guacamole")["JSON_SECRET_KEY"]["secretKeyRef"]
    secret = seen.one("Secret", reference["name"], "ironyard-access")
    assert set(secret.inputs["stringData"]) == {reference["key"]}
    assert {"stringData", f"stringData.{reference['key']}"} & secret.secrets
    drawn = [r.inputs for r in seen.resources if r.name == "access-json-secret-key"]
    assert [(d["length"], d["alphabet"]) for d in drawn] == [(32, "hex")]
    others = {"MYSQL", "POSTGRESQL", "SQLSERVER", "LDAP", "OPENID"}
    assert not [name for name in environment(seen, "guacamole") if name.split("_")[0] in others]


def test_the_web_application_finds_its_proxy_and_no_variable_of_a_service_misleads_it(roll_out: Any) -> None:
    seen = roll_out(build)
    given = environment(seen, "guacamole")
    service = seen.one("Service", given["GUACD_HOSTNAME"], "ironyard-access").inputs["spec"]
    assert [str(int(port["port"])) for port in service["ports"]] == [given["GUACD_PORT"]]
    assert pod(seen, "guacamole")["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["guacd", "guacamole"])
def test_pods_are_confined_and_write_to_their_scratch_only(roll_out: Any, name: str) -> None:
    given = pod(roll_out(build), name)
    context = given["containers"][0]["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["runAsNonRoot"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert given["securityContext"]["runAsUser"] > 0
    assert given["automountServiceAccountToken"] is False
    assert [m["mountPath"] for m in given["containers"][0]["volumeMounts"]] == ["/tmp"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(given["containers"][0])


def test_only_the_gateway_reaches_the_web_application_and_nobody_else_the_proxy(roll_out: Any) -> None:
    seen = roll_out(build, cluster={"domain": "gpu.example.com"})
    policies = {
        p.object_name: p.inputs["spec"] for p in seen.of("NetworkPolicy") if p.namespace == "ironyard-access"
    }
    assert set(policies) == {"default-deny", "same-namespace", "entrance"}
    assert policies["entrance"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "guacamole"}}
    route = seen.one("HTTPRoute", "access", "ironyard-access").inputs["spec"]
    assert route["hostnames"] == ["access.gpu.example.com"]
    assert route["rules"][0]["backendRefs"] == [{"name": "guacamole", "port": 8080}]


def test_availability_doubles_the_proxies_and_never_the_sessions(roll_out: Any) -> None:
    seen = roll_out(build, cluster={"high_availability": True})
    replicas = {d.object_name: d.inputs["spec"]["replicas"] for d in seen.of("Deployment")}
    assert replicas == {"guacd": 2, "guacamole": 1}
    assert seen.one("PodDisruptionBudget", "guacd").inputs["spec"]["minAvailable"] == 1
    assert roll_out(build).of("PodDisruptionBudget") == []


@pytest.mark.parametrize("available", [True, False])
def test_every_object_obeys_kubernetes(roll_out: Any, *, available: bool) -> None:
    seen = roll_out(build, gateway=OFF, monitoring=OFF, cluster={"high_availability": available})
    documents = [
        {key: value for key, value in registered.inputs.items() if value is not None}
        for registered in seen.resources
        if registered.type.startswith("kubernetes:")
    ]
    assert len(documents) > 7
    assert [fault for document in documents for fault in built_in(document)] == []


@pytest.mark.parametrize("config", [EXTERNAL, OFF])
def test_an_external_one_or_none_registers_nothing(roll_out: Any, config: dict[str, Any]) -> None:
    made: list[Access] = []
    seen = roll_out(lambda: made.append(build()), access=config, gateway=OFF, monitoring=OFF)
    assert [r for r in seen.resources if r.type.startswith("kubernetes:")] == []
    console = made[0].console
    assert (console.url if console else None) == config.get("external", {}).get("url")


@pytest.mark.parametrize("key", ["short", HEX + "0"])
def test_a_key_of_another_length_is_refused_and_not_shown(roll_out: Any, key: str) -> None:
    wrong = {"mode": "external", "external": {"url": "https://a.example", "json_secret_key": key}}
    with pytest.raises(pulumi.RunError) as refused:
        roll_out(build, access=wrong)
    assert "access.external.json_secret_key" in str(refused.value)
    assert key not in str(refused.value)


def test_air_gapped_images_come_from_the_mirror(roll_out: Any) -> None:
    seen = roll_out(build, cluster={"images": "mirror.example.com/all"})
    images = [pod(seen, name)["containers"][0]["image"] for name in ("guacd", "guacamole")]
    assert all(image.startswith("mirror.example.com/all/guacamole/") for image in images)
