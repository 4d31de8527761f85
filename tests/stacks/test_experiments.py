from __future__ import annotations

import configparser
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pulumi
import pytest

from stacks.components.base import Component, Platform
from stacks.components.database import Database
from stacks.components.experiments import Experiments
from stacks.components.gateway import Gateway
from stacks.components.monitoring import Monitoring
from stacks.components.storage import Storage
from tests.stacks.schemas import custom

OFF = {"mode": "off"}
EXTERNAL = {
    "mode": "external",
    "external": {"url": "https://mlflow.example.com", "password": "an administrator's"},
}
# the values that the chart's templates read, of those that are set here; null: anything below
CHART: dict[str, Any] = {
    "env": None,
    "extraVolumeMounts": None,
    "extraVolumes": None,
    "fullnameOverride": None,
    "image": {"repository", "tag", "pullPolicy"},
    "metrics": {"enabled"},
    "mlflow": {
        "backendStoreUri",
        "backendStoreUriFrom",
        "registryStoreUri",
        "registryStoreUriFrom",
        "defaultArtifactRoot",
        "artifactsDestination",
    },
    "podAnnotations": None,
    "replicaCount": None,
    "resources": None,
    "server": {"value_options", "flag_options", "staticPrefix"},
    "serviceAccount": {"create", "name", "annotations", "automountServiceAccountToken"},
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[type[Component[Any]]] = [Storage, Database, Gateway, Monitoring, Experiments]
    monkeypatch.setattr(Component, "known", {part.section: part for part in parts})


def build() -> Experiments:
    platform = Platform.load()
    monitoring = Monitoring(platform)
    gateway = Gateway(platform, monitoring=monitoring)
    storage = Storage(platform, monitoring=monitoring)
    database = Database(platform, storage=storage, monitoring=monitoring)
    return Experiments(platform, database=database, storage=storage, gateway=gateway, monitoring=monitoring)


def values(seen: Any) -> dict[str, Any]:
    return dict(seen.one("Release", "mlflow").inputs["values"])


def secret(seen: Any) -> dict[str, str]:
    return dict(seen.one("Secret", "mlflow", "ironyard-experiments").inputs["stringData"])


def environment(seen: Any) -> dict[str, Any]:
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in values(seen)["env"]}


@pytest.mark.parametrize("monitoring", [{}, OFF])
def test_the_chart_knows_every_value(roll_out: Any, monitoring: dict[str, Any]) -> None:
    given = values(roll_out(build, monitoring=monitoring))
    assert set(given) <= set(CHART)
    below = {key: set(given[key]) - CHART[key] for key in given if CHART[key] is not None}
    assert {key: names for key, names in below.items() if names} == {}


def test_records_go_to_the_database_and_artifacts_through_the_server_to_the_storage(roll_out: Any) -> None:
    seen = roll_out(build)
    given = values(seen)["mlflow"]
    reference = given["backendStoreUriFrom"]["secretKeyRef"]
    assert secret(seen)[reference["key"]].startswith("postgresql://experiments:")
    assert given["artifactsDestination"] == "s3://experiments/artifacts"
    assert "defaultArtifactRoot" not in given  # else clients would need a key of the storage
    assert environment(seen)["MLFLOW_S3_ENDPOINT_URL"] == "http://seaweedfs-s3.ironyard-storage.svc:8333"
    keys = {name: environment(seen)[name]["secretKeyRef"]["key"] for name in ("AWS_ACCESS_KEY_ID",)}
    assert secret(seen)[keys["AWS_ACCESS_KEY_ID"]]


def test_nobody_gets_in_without_logging_in_nor_sees_what_is_not_theirs(roll_out: Any) -> None:
    seen = roll_out(build)
    assert values(seen)["server"]["value_options"]["app_name"] == "basic-auth"
    settings = configparser.ConfigParser()
    settings.read_string(secret(seen)["basic_auth.ini"])
    assert settings["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert settings["mlflow"]["admin_password"] == secret(seen)["password"]
    assert settings["mlflow"]["database_uri"] == secret(seen)["uri"]
    mounted = values(seen)["extraVolumeMounts"][0]["mountPath"]
    assert environment(seen)["MLFLOW_AUTH_CONFIG_PATH"] == f"{mounted}/basic_auth.ini"
    assert environment(seen)["MLFLOW_FLASK_SERVER_SECRET_KEY"]["secretKeyRef"]["key"] in secret(seen)


def test_a_percent_sign_in_a_password_survives_the_settings_file(roll_out: Any) -> None:
    login = {"user": "books", "password": "100% sure"}
    external = {"host": "db.example.com", "logins": {"experiments": login}}
    seen = roll_out(build, database={"mode": "external", "external": external})
    settings = configparser.ConfigParser()
    settings.read_string(secret(seen)["basic_auth.ini"])
    assert "100%25%20sure" in settings["mlflow"]["database_uri"]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("experiments.gpu.example.com", True),
        ("experiments.gpu.example.com:30443", True),
        ("mlflow.ironyard-experiments.svc:5000", True),
        ("10.42.0.17:5000", True),
        ("172.20.1.1:5000", True),
        ("172.32.1.1:5000", False),
        ("evil.example.com", False),
    ],
)
def test_requests_for_other_hosts_are_refused(roll_out: Any, host: str, *, allowed: bool) -> None:
    options = values(roll_out(build, cluster={"domain": "gpu.example.com"}))["server"]["value_options"]
    patterns = options["allowed_hosts"].split(",")
    assert any(fnmatch(host, pattern) for pattern in patterns) is allowed
    assert options["cors_allowed_origins"] == "https://experiments.gpu.example.com"


def test_prometheus_logs_in_too(roll_out: Any, contracts: Path) -> None:
    seen = roll_out(build)
    monitor = next(m for m in seen.of("ServiceMonitor") if m.namespace == "ironyard-experiments")
    login = monitor.inputs["spec"]["endpoints"][0]["basicAuth"]
    assert {login[k]["key"] for k in ("username", "password")} <= set(secret(seen))
    document = {key: value for key, value in monitor.inputs.items() if value is not None}
    assert custom(document, contracts) == []
    unwatched = roll_out(build, monitoring=OFF)
    assert not [m for m in unwatched.of("ServiceMonitor") if m.namespace == "ironyard-experiments"]
    assert values(unwatched)["metrics"] == {"enabled": False}


def test_the_account_that_it_runs_under_is_there_first_and_has_no_token(roll_out: Any) -> None:
    seen = roll_out(build)
    given = values(seen)["serviceAccount"]
    account = seen.one("ServiceAccount", given["name"], "ironyard-experiments")
    assert given["create"] is False
    assert account.inputs["automountServiceAccountToken"] is False


def test_it_is_reached_by_the_gateway(roll_out: Any) -> None:
    seen = roll_out(build, cluster={"domain": "gpu.example.com"})
    route = seen.one("HTTPRoute", "experiments", "ironyard-experiments").inputs["spec"]
    assert route["hostnames"] == ["experiments.gpu.example.com"]
    assert route["rules"][0]["backendRefs"] == [{"name": "mlflow", "port": 5000}]


def test_every_secret_is_one(roll_out: Any) -> None:
    registered = roll_out(build).one("Secret", "mlflow", "ironyard-experiments")
    for key in registered.inputs["stringData"]:
        assert {"stringData", f"stringData.{key}"} & registered.secrets, key


@pytest.mark.parametrize("config", [EXTERNAL, OFF])
def test_an_external_one_or_none_registers_nothing_and_asks_for_nothing(
    roll_out: Any, config: dict[str, Any]
) -> None:
    made: list[Experiments] = []
    rest = dict.fromkeys(("storage", "database", "gateway", "monitoring"), OFF)
    seen = roll_out(lambda: made.append(build()), experiments=config, **rest)
    assert [r for r in seen.resources if r.type.startswith("kubernetes:")] == []
    tracking = made[0].tracking
    assert (tracking.url if tracking else None) == config.get("external", {}).get("url")


def test_what_it_needs_must_be_there(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError) as refused:
        roll_out(build, database=OFF, storage=OFF)
    assert all(f"experiments needs {need}, which is off" in str(refused.value) for need in Experiments.needs)


def test_air_gapped_and_available(roll_out: Any) -> None:
    given = values(roll_out(build, cluster={"images": "mirror.example.com/all", "high_availability": True}))
    assert given["image"]["repository"] == "mirror.example.com/all/mlflow/mlflow"
    assert given["image"]["tag"].endswith("-full")  # the other has neither driver nor S3 client
    assert given["replicaCount"] == 2
