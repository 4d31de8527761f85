from __future__ import annotations

from typing import Any, Literal

import pytest

from stacks.components import base
from stacks.components.base import Component, ComponentSettings, Platform
from stacks.components.network import Allow, guard, metrics


class HouseSettings(ComponentSettings):
    mode: Literal["on", "off"] = "on"


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> type[Component[HouseSettings]]:
    monkeypatch.setattr(Component, "known", dict(Component.known))

    class House(Component[HouseSettings]):
        section = "house"
        settings_type = HouseSettings

        def __init__(self, platform: Platform) -> None:
            super().__init__(platform)
            space = self.create_namespace("house")
            allows = [
                Allow("callers", namespaces=["street", "yard"], ports=[80], pods={"app": "door"}),
                Allow("webhook", anywhere=True, ports=[9443]),
                metrics(9090),
            ]
            guard(self, "house", allows, after=[space])

    return House


def test_a_namespace_is_closed_but_for_what_is_named(
    roll_out: Any, house: type[Component[HouseSettings]]
) -> None:
    seen = roll_out(lambda: house(base.Platform.load()))
    specs = {p.object_name: p.inputs["spec"] for p in seen.of("NetworkPolicy")}
    assert set(specs) == {"default-deny", "same-namespace", "callers", "webhook", "metrics"}
    assert specs["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert specs["same-namespace"]["ingress"] == [{"from": [{"podSelector": {}}]}]
    callers = specs["callers"]
    assert callers["podSelector"] == {"matchLabels": {"app": "door"}}
    assert [peer["namespaceSelector"]["matchLabels"] for peer in callers["ingress"][0]["from"]] == [
        {"kubernetes.io/metadata.name": "street"},
        {"kubernetes.io/metadata.name": "yard"},
    ]
    assert callers["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 80}]
    assert "from" not in specs["webhook"]["ingress"][0]
    assert all(p.namespace == "house" for p in seen.of("NetworkPolicy"))


def test_a_rule_that_would_let_everybody_in_must_say_so() -> None:
    with pytest.raises(ValueError, match="callers: name the namespaces, or say anywhere"):
        Allow("callers", ports=[80]).spec()
