from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pulumi
import pytest

from stacks.components.base import Component, ComponentSettings, Platform
from stacks.components.database import Database, DatabaseSettings
from stacks.components.storage import Storage
from tests.lab.cluster.values import check_values
from tests.stacks.schemas import custom

EXTERNAL = {
    "mode": "external",
    "external": {
        "host": "db.example.com",
        "sslmode": "verify-full",
        "logins": {"books": {"user": "reader", "password": "p@ss/word", "database": "shelf"}},
    },
}


class LibrarySettings(ComponentSettings):
    mode: Literal["own", "external", "off"] = "own"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[Component[LibrarySettings]]:
    """A component with a database, the only one there is."""
    monkeypatch.setattr(Component, "known", {"storage": Storage, "database": Database})

    class Library(Component[LibrarySettings]):
        section = "library"
        settings_type = LibrarySettings
        namespace = "ironyard-library"
        database = "books"

    return Library


def roll(roll_out: Any, *, watches: bool = False, **config: Any) -> tuple[Any, Database]:
    made = []

    def program() -> None:
        platform = Platform.load()
        monitoring: Any = SimpleNamespace(watches=watches, definitions=[])
        made.append(
            Database(platform, storage=Storage(platform, monitoring=monitoring), monitoring=monitoring)
        )

    return roll_out(program, **config), made[0]


def spec(seen: Any, kind: str, name: str = "ironyard") -> dict[str, Any]:
    return dict(seen.one(kind, name).inputs["spec"])


@pytest.mark.usefixtures("library")
def test_each_component_gets_a_database_and_a_role_that_owns_nothing_else(roll_out: Any) -> None:
    seen, _ = roll(roll_out)
    assert spec(seen, "Database", "books") == {
        "cluster": {"name": "ironyard"},
        "name": "books",
        "owner": "books",
    }
    role = spec(seen, "DatabaseRole", "books")
    assert role["login"] is True
    assert not {"superuser", "createdb", "createrole", "inRoles"} & set(role)
    secret = seen.one("Secret", role["passwordSecret"]["name"], "ironyard-database")
    assert secret.inputs["type"] == "kubernetes.io/basic-auth"
    assert secret.inputs["stringData"]["username"] == "books"
    assert {"stringData", "stringData.password"} & secret.secrets


def test_a_login_is_an_address_and_a_secret(roll_out: Any, library: Any) -> None:
    dsn: list[str | bool] = []

    def program() -> None:
        platform = Platform.load()
        monitoring: Any = SimpleNamespace(watches=False, definitions=[])
        database = Database(platform, storage=Storage(platform, monitoring=monitoring), monitoring=monitoring)
        login = database.for_component(library)
        pulumi.Output.all(login.dsn, login.dsn.is_secret()).apply(dsn.extend)

    roll_out(program)
    shown, is_secret = dsn
    assert re.fullmatch(
        r"postgresql://books:\w+@ironyard-rw\.ironyard-database\.svc:5432/books\?sslmode=require", str(shown)
    )
    assert is_secret is True
    dsn.clear()
    roll_out(program, database=EXTERNAL)
    assert dsn == ["postgresql://reader:p%40ss%2Fword@db.example.com:5432/shelf?sslmode=verify-full", True]


@pytest.mark.usefixtures("library")
def test_backups_go_to_a_bucket_of_their_own(roll_out: Any) -> None:
    seen, _ = roll(roll_out, database={"retention": "8w", "schedule": "0 30 1 * * *"})
    cluster = spec(seen, "Cluster")
    store = cluster["backup"]["barmanObjectStore"]
    assert cluster["backup"]["retentionPolicy"] == "8w"
    assert store["destinationPath"] == "s3://database/"
    assert store["endpointURL"] == "http://seaweedfs-s3.ironyard-storage.svc:8333"
    key = seen.one("Secret", "backup-key", "ironyard-database")
    assert {reference["name"] for reference in store["s3Credentials"].values()} == {"backup-key"}
    assert {r["key"] for r in store["s3Credentials"].values()} == set(key.inputs["stringData"])
    assert spec(seen, "ScheduledBackup")["schedule"] == "0 30 1 * * *"
    assert {"AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"} == {
        variable["name"] for variable in cluster["env"]
    }


@pytest.mark.usefixtures("library")
def test_without_backups_the_storage_is_not_asked(roll_out: Any) -> None:
    seen, _ = roll(roll_out, database={"backups": False}, storage={"mode": "off"})
    assert "backup" not in spec(seen, "Cluster")
    assert seen.of("ScheduledBackup") == []


@pytest.mark.usefixtures("library")
def test_backups_without_a_storage_are_refused(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError, match=r"database\.backups: database needs storage, which is off"):
        roll(roll_out, storage={"mode": "off"})


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("available", "instances"), [(False, 1), (True, 3)])
def test_instances_follow_availability(roll_out: Any, *, available: bool, instances: int) -> None:
    seen, _ = roll(roll_out, cluster={"high_availability": available, "storage_class": "fast"})
    cluster = spec(seen, "Cluster")
    assert cluster["instances"] == instances
    assert cluster["enablePDB"] is available
    assert cluster["storage"] == {"size": "20Gi", "storageClass": "fast"}


@pytest.mark.usefixtures("library")
def test_only_the_components_with_a_database_reach_it_and_only_encrypted(roll_out: Any) -> None:
    seen, _ = roll(roll_out)
    clients = spec(seen, "NetworkPolicy", "clients")["ingress"]
    named = [peer["namespaceSelector"]["matchLabels"] for rule in clients for peer in rule["from"]]
    assert named == [{"kubernetes.io/metadata.name": "ironyard-library"}]
    assert spec(seen, "Cluster")["postgresql"]["pg_hba"] == ["hostnossl all all all reject"]


@pytest.mark.usefixtures("library")
def test_an_external_one_must_have_a_login_for_each_component(roll_out: Any) -> None:
    given: dict[str, Any] = {"mode": "external", "external": {"host": "db.example.com"}}
    with pytest.raises(pulumi.RunError) as refused:
        roll(roll_out, database=given)
    said = "ironyard-platform:database.external.logins.books: library needs a login here: user, password"
    assert said in str(refused.value)
    seen, _ = roll(roll_out, database=given, library={"mode": "off"}, storage={"mode": "off"})
    assert [r for r in seen.resources if r.type.startswith("kubernetes:")] == []


@pytest.mark.usefixtures("library")
def test_it_is_off_altogether(roll_out: Any) -> None:
    seen, database = roll(roll_out, database={"mode": "off"}, storage={"mode": "off"})
    assert [r for r in seen.resources if r.type.startswith("kubernetes:")] == []
    assert database.logins == {}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("watches", [True, False])
def test_what_is_registered_obeys_the_operator(roll_out: Any, contracts: Path, *, watches: bool) -> None:
    seen, _ = roll(roll_out, watches=watches)
    kinds = ("Cluster", "ScheduledBackup", "Database", "DatabaseRole", "PodMonitor")
    documents = [
        {key: value for key, value in registered.inputs.items() if value is not None}
        for registered in seen.resources
        if registered.kind in kinds and registered.type.startswith("kubernetes:")
    ]
    assert {d["kind"] for d in documents} == set(kinds) - (set() if watches else {"PodMonitor"})
    assert [fault for document in documents for fault in custom(document, contracts)] == []
    release = seen.one("Release", "cloudnative-pg")
    assert check_values("cloudnative-pg", release.inputs["values"], contracts) == []


@pytest.mark.usefixtures("library")
def test_air_gapped_images_come_from_the_mirror(roll_out: Any) -> None:
    seen, _ = roll(roll_out, cluster={"images": "mirror.example.com/all"})
    assert spec(seen, "Cluster")["imageName"].startswith("mirror.example.com/all/cloudnative-pg/postgresql:")
    values = seen.one("Release", "cloudnative-pg").inputs["values"]
    assert values["image"]["repository"] == "mirror.example.com/all/cloudnative-pg/cloudnative-pg"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("key", "value"), [("retention", "30"), ("retention", "0d"), ("schedule", "0 3 * * *")]
)
def test_a_wrong_plan_for_backups_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=key):
        DatabaseSettings.model_validate({key: value})


def test_secrets_of_an_external_server_are_not_shown() -> None:
    assert "p@ss/word" not in str(DatabaseSettings.model_validate(EXTERNAL))
