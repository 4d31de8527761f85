from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pulumi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from stacks.components.base import Component, Platform
from stacks.components.cache import Cache
from stacks.components.database import Database
from stacks.components.gateway import Gateway
from stacks.components.keys import PairProvider, fingerprint, make_pair
from stacks.components.monitoring import Monitoring
from stacks.components.registry import Registry
from stacks.components.storage import Storage
from tests.lab.cluster.values import check_values

EXTERNAL = {
    "mode": "external",
    "external": {"url": "https://harbor.example.com", "password": "an administrator's"},
}
OFF = {"mode": "off"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the registry and what it stands on."""
    parts: list[type[Component[Any]]] = [Storage, Database, Cache, Gateway, Monitoring, Registry]
    monkeypatch.setattr(Component, "known", {part.section: part for part in parts})


def build() -> Registry:
    platform = Platform.load()
    monitoring = Monitoring(platform)
    gateway = Gateway(platform, monitoring=monitoring)
    storage = Storage(platform, monitoring=monitoring)
    database = Database(platform, storage=storage, monitoring=monitoring)
    cache = Cache(platform, monitoring=monitoring)
    return Registry(
        platform, database=database, cache=cache, storage=storage, gateway=gateway, monitoring=monitoring
    )


def values(seen: Any) -> dict[str, Any]:
    return dict(seen.one("Release", "harbor").inputs["values"])


def data(seen: Any, name: str) -> dict[str, str]:
    return dict(seen.one("Secret", name, "ironyard-registry").inputs["stringData"])


def test_it_stands_on_the_platform_s_database_cache_and_storage(roll_out: Any) -> None:
    seen = roll_out(build)
    given = values(seen)
    assert given["database"]["type"] == given["redis"]["type"] == "external"
    database = given["database"]["external"]
    assert (database["host"], database["port"]) == ("ironyard-rw.ironyard-database.svc", "5432")
    assert (database["coreDatabase"], database["username"]) == ("registry", "registry")
    login = seen.one("Secret", "login-registry", "ironyard-database").inputs["stringData"]
    assert data(seen, database["existingSecret"])["password"] == login["password"]
    cache = given["redis"]["external"]
    assert cache["addr"] == "valkey.ironyard-cache.svc:6379"
    password = seen.one("Secret", "users", "ironyard-cache").inputs["stringData"]["default"]
    assert data(seen, cache["existingSecret"])["REDIS_PASSWORD"] == password
    store = given["persistence"]["imageChartStorage"]
    assert (store["type"], store["s3"]["bucket"], store["disableredirect"]) == ("s3", "registry", True)
    assert store["s3"]["regionendpoint"] == "http://seaweedfs-s3.ironyard-storage.svc:8333"
    assert set(data(seen, store["s3"]["existingSecret"])) == {
        "REGISTRY_STORAGE_S3_ACCESSKEY",
        "REGISTRY_STORAGE_S3_SECRETKEY",
    }


def test_no_secret_of_the_chart_s_own_making_is_left(roll_out: Any) -> None:
    """What a chart draws at random it draws anew at each upgrade; what it has as default is known to all."""
    seen = roll_out(build)
    given = values(seen)
    keys = data(seen, "keys")
    assert given["existingSecretAdminPassword"] == given["existingSecretSecretKey"] == "keys"
    assert given["core"]["existingSecret"] == given["core"]["existingXsrfSecret"] == "keys"
    assert given["jobservice"]["existingSecret"] == given["registry"]["existingSecret"] == "keys"
    assert set(keys) == {
        "HARBOR_ADMIN_PASSWORD",
        "secretKey",
        "secret",
        "CSRF_KEY",
        "JOBSERVICE_SECRET",
        "REGISTRY_HTTP_SECRET",
    }
    assert len(keys["secretKey"]) == 16  # Harbor takes no other length
    assert len(keys["CSRF_KEY"]) == 32
    assert given["core"]["secretName"] == "token-signer"
    assert "values" in seen.one("Release", "harbor").secrets or any(
        path.startswith("values.registry.credentials") for path in seen.one("Release", "harbor").secrets
    )
    assert given["registry"]["credentials"]["password"] != "harbor_registry_password"


def test_it_is_reached_by_the_gateway_under_its_public_name(roll_out: Any) -> None:
    seen = roll_out(build, cluster={"domain": "gpu.example.com"})
    assert values(seen)["externalURL"] == "https://registry.gpu.example.com"
    assert values(seen)["expose"] == {
        "type": "clusterIP",
        "tls": {"enabled": False},
        "clusterIP": {"name": "harbor"},
    }
    route = seen.one("HTTPRoute", "registry", "ironyard-registry").inputs["spec"]
    assert route["hostnames"] == ["registry.gpu.example.com"]
    assert route["rules"][0]["backendRefs"] == [{"name": "harbor", "port": 80}]
    peers = seen.one("NetworkPolicy", "entrance", "ironyard-registry").inputs["spec"]["ingress"][0]["from"]
    names = [p["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for p in peers]
    assert names == ["ironyard-gateway", "ironyard-system"]


@pytest.mark.parametrize("cluster", [{}, {"high_availability": True, "images": "mirror.example.com/all"}])
@pytest.mark.parametrize("monitoring", [{}, OFF])
def test_the_chart_knows_every_value(
    roll_out: Any, contracts: Path, cluster: dict[str, Any], monitoring: dict[str, Any]
) -> None:
    seen = roll_out(build, cluster=cluster, monitoring=monitoring)
    assert check_values("harbor", values(seen), contracts) == []
    assert values(seen)["metrics"]["serviceMonitor"]["enabled"] is (not monitoring)


def test_every_part_has_limits_and_as_many_replicas_as_availability_asks(roll_out: Any) -> None:
    given = values(roll_out(build, cluster={"high_availability": True}))
    for part in ("core", "jobservice", "portal", "nginx", "registry", "trivy"):
        assert given[part]["replicas"] == 2, part
        assert given[part]["podDisruptionBudget"] == {"enabled": True}
    assert given["jobservice"]["jobLoggers"] == ["database"]  # files would need a disk of one writer
    containers = [given[p] for p in ("core", "jobservice", "portal", "nginx", "trivy", "exporter")]
    containers += [given["registry"]["registry"], given["registry"]["controller"]]
    assert all({"cpu", "memory"} == set(c["resources"]["limits"]) for c in containers)


def test_air_gapped_every_image_and_vulnerability_database_comes_from_the_mirror(
    roll_out: Any, contracts: Path
) -> None:
    given = values(roll_out(build, cluster={"images": "mirror.example.com/all"}))
    images = [given[p]["image"] for p in ("core", "jobservice", "portal", "nginx", "trivy", "exporter")]
    images += [given["registry"][p]["image"] for p in ("registry", "controller")]
    assert all(i["repository"].startswith("mirror.example.com/all/goharbor/") for i in images)
    assert given["trivy"]["dbRepository"] == ["mirror.example.com/all/aquasecurity/trivy-db"]
    assert given["trivy"]["offlineScan"] is True


def test_the_names_of_the_images_are_the_chart_s(roll_out: Any, contracts: Path) -> None:
    known = json.loads((contracts / "charts" / "harbor.json").read_text())["values"]
    given = values(roll_out(build, cluster={"images": "m.example.com"}))
    for part in ("core", "jobservice", "portal", "nginx", "trivy", "exporter"):
        own = known[part]["image"]["repository"].replace("docker.io/", "m.example.com/")
        assert given[part]["image"]["repository"] == own
    for part in ("registry", "controller"):
        own = known["registry"][part]["image"]["repository"].replace("docker.io/", "m.example.com/")
        assert given["registry"][part]["image"]["repository"] == own


@pytest.mark.parametrize("config", [EXTERNAL, OFF])
def test_an_external_one_or_none_registers_nothing_and_asks_for_nothing(
    roll_out: Any, config: dict[str, Any]
) -> None:
    rest = dict.fromkeys(("storage", "database", "cache", "gateway", "monitoring"), OFF)
    made: list[Registry] = []
    seen = roll_out(lambda: made.append(build()), registry=config, **rest)
    assert [r for r in seen.resources if r.type.startswith("kubernetes:")] == []
    account = made[0].account
    assert (account.url if account else None) == (config.get("external", {}).get("url"))


def test_what_it_needs_must_be_there(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError) as refused:
        roll_out(build, cache=OFF, database=OFF, storage=OFF)
    assert all(f"registry needs {need}, which is off" in str(refused.value) for need in Registry.needs)


def test_without_a_gateway_there_is_no_route(roll_out: Any) -> None:
    assert [r.object_name for r in roll_out(build, gateway=OFF).of("HTTPRoute")] == []


def test_a_key_pair_is_made_once_and_fits_together() -> None:
    private, certificate = make_pair("harbor-token")
    key = serialization.load_pem_private_key(private.encode(), password=None)
    shown = x509.load_pem_x509_certificate(certificate.encode())
    spki = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*spki) == shown.public_key().public_bytes(*spki)
    provider = PairProvider()
    made = provider.create({"name": "a", "private_key": None, "certificate": None})
    assert made.outs is not None
    assert "BEGIN RSA PRIVATE KEY" in made.outs["private_key"]
    assert provider.diff(made.id, made.outs, {"name": "a"}).changes is False
    assert provider.diff(made.id, made.outs, {"name": "b"}).replaces == ["name"]


def test_a_fingerprint_changes_with_any_of_its_secrets_and_shows_none(roll_out: Any) -> None:
    said: list[str] = []
    secrets = [("a", "b"), ("a", "c"), ("ab", ""), ("a", "b")]

    def program() -> None:
        pulumi.Output.all(*(fingerprint(*pair) for pair in secrets)).apply(said.extend)

    roll_out(program)
    assert said[0] == said[3]
    assert len(set(said)) == 3
    assert all(len(digest) == 16 for digest in said)
