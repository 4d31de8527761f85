from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pulumi
import pytest

from stacks.components.base import Component, ComponentSettings, Platform
from stacks.components.cache import Cache, Server
from tests.lab.cluster.values import check_values

EXTERNAL = {"mode": "external", "external": {"host": "redis.example.com", "password": "a/b"}}


class QueueSettings(ComponentSettings):
    mode: Literal["own", "external", "off"] = "own"


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A component that needs the cache, the only one there is."""
    monkeypatch.setattr(Component, "known", {"cache": Cache})

    class Queue(Component[QueueSettings]):
        section = "queue"
        settings_type = QueueSettings
        namespace = "ironyard-queue"
        needs = ("cache",)


def roll(roll_out: Any, *, watches: bool = False, **config: Any) -> Any:
    monitoring: Any = SimpleNamespace(watches=watches, definitions=[])
    return roll_out(lambda: Cache(Platform.load(), monitoring=monitoring), **config)


def values(seen: Any) -> dict[str, Any]:
    return dict(seen.one("Release", "valkey").inputs["values"])


def test_nobody_is_let_in_without_the_password(roll_out: Any) -> None:
    seen = roll(roll_out)
    auth = values(seen)["auth"]
    secret = seen.one("Secret", auth["usersExistingSecret"], "ironyard-cache")
    assert auth["enabled"] is True
    assert set(auth["aclUsers"]) == set(secret.inputs["stringData"]) == {"default"}
    assert "password" not in auth["aclUsers"]["default"]
    assert len(secret.inputs["stringData"]["default"]) == 32
    assert {"stringData", "stringData.default"} & secret.secrets


def test_only_components_that_need_it_reach_it(roll_out: Any) -> None:
    peers = roll(roll_out).one("NetworkPolicy", "clients").inputs["spec"]["ingress"][0]["from"]
    assert [p["namespaceSelector"]["matchLabels"] for p in peers] == [
        {"kubernetes.io/metadata.name": "ironyard-queue"}
    ]
    alone = roll(roll_out, queue={"mode": "off"})
    assert {p.object_name for p in alone.of("NetworkPolicy")} == {"default-deny", "same-namespace", "metrics"}


@pytest.mark.parametrize("watches", [True, False])
def test_the_chart_knows_every_value(roll_out: Any, contracts: Path, *, watches: bool) -> None:
    kept = {"persistent": True, "memory": "2Gi", "size": "8Gi"}
    seen = roll(roll_out, watches=watches, cache=kept, cluster={"storage_class": "fast"})
    assert check_values("valkey", values(seen), contracts) == []
    assert values(seen)["metrics"]["serviceMonitor"]["enabled"] is watches
    assert values(seen)["dataStorage"] == {
        "enabled": True,
        "requestedSize": "8Gi",
        "className": "fast",
        "keepPvc": True,
    }


def test_the_server_refuses_writes_before_it_is_killed_for_its_memory(roll_out: Any) -> None:
    given = values(roll(roll_out, cache={"memory": "2Gi"}))
    assert "maxmemory 1536mb" in given["valkeyConfig"].splitlines()
    assert given["resources"]["limits"]["memory"] == "2Gi"
    with pytest.raises(pulumi.RunError, match=r"cache\.memory"):
        roll(roll_out, cache={"memory": "2G"})


def test_air_gapped_images_come_from_the_mirror(roll_out: Any) -> None:
    seen = roll(roll_out, cluster={"images": "mirror.example.com/all"})
    assert values(seen)["global"]["imageRegistry"] == "mirror.example.com/all"


@pytest.mark.parametrize("config", [EXTERNAL, {"mode": "off"}])
def test_nothing_is_installed_where_it_is_external_or_off(roll_out: Any, config: dict[str, Any]) -> None:
    given: dict[str, Any] = {"cache": config, "queue": {"mode": "off"}}
    assert [r for r in roll(roll_out, **given).resources if r.type.startswith("kubernetes:")] == []


def test_an_external_one_needs_its_address(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError, match="mode external needs `external`: host, password"):
        roll(roll_out, cache={"mode": "external"})


def test_a_component_that_needs_it_is_refused_without(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError, match="queue needs cache, which is off"):
        roll(roll_out, cache={"mode": "off"})


def test_the_address_carries_the_password_as_a_secret(roll_out: Any) -> None:
    said: list[Any] = []

    def program() -> None:
        monitoring: Any = SimpleNamespace(watches=False, definitions=[])
        server = Cache(Platform.load(), monitoring=monitoring).server
        assert isinstance(server, Server)
        url = server.url(3)
        pulumi.Output.all(server.address, url, url.is_secret()).apply(said.extend)

    roll_out(program, cache=EXTERNAL)
    assert said == ["redis.example.com:6379", "rediss://:a%2Fb@redis.example.com:6379/3", True]
