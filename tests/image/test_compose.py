"""compose.yaml: what can be checked of it without its images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import Settings
from stacks.scrape import JOBS, scrape_configs
from stacks.versions import SEAWEEDFS_SHELL
from tests.support.scrape import own_form

ROOT = Path(__file__).resolve().parents[2]
# of the Compose specification, what a service may have here
KEYS = {
    *("image", "build", "environment", "read_only", "tmpfs", "cap_drop", "security_opt", "entrypoint"),
    *("command", "restart", "healthcheck", "depends_on", "ports", "volumes", "shm_size", "stop_grace_period"),
}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
EXACT = re.compile(r"^(?P<name>[a-z0-9./-]+):(?P<tag>v?\d+(\.\d+)+[a-z0-9.-]*)$")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[?-][^}]*)?\}")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def services(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def test_the_facade_and_everything_it_needs(services: dict[str, Any]) -> None:
    assert services.keys() == {"migration", "api", "worker", "database", "cache", "storage", "prometheus"}
    for name, service in services.items():
        assert service.keys() <= KEYS, name


def test_every_image_is_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert EXACT.match(service["image"]), f"{name}: {service['image']}"
    assert services["storage"]["image"] == SEAWEEDFS_SHELL.reference


def test_every_service_that_stays_has_a_health_check(services: dict[str, Any]) -> None:
    for name, service in services.items():
        check = service["healthcheck"]
        if service["restart"] == "no":
            assert check == {"disable": True}, name
        else:
            assert check["test"][0] == "CMD", name
            assert {"interval", "timeout", "retries"} <= check.keys(), name


def test_what_depends_on_what_is_there(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in CONDITIONS, name
            checked = services[other]["healthcheck"] != {"disable": True}
            assert (how["condition"] == "service_healthy") == checked, f"{name} waits for {other}"


def test_data_is_in_named_volumes(document: dict[str, Any], services: dict[str, Any]) -> None:
    used = {
        volume.partition(":")[0]
        for service in services.values()
        for volume in service.get("volumes", ())
        if not volume.startswith("./")
    }
    assert used == document["volumes"].keys() == {"database", "cache", "storage", "prometheus"}
    bound = [v for s in services.values() for v in s.get("volumes", ()) if v.startswith("./")]
    assert all((ROOT / volume.split(":")[0]).is_file() and volume.endswith(":ro") for volume in bound)


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_facade_s_settings_exist_and_make_production(services: dict[str, Any]) -> None:
    known = {f"IRONYARD_{name.upper()}" for name in Settings.model_fields}
    for name in ("migration", "api", "worker"):
        given = services[name]["environment"]
        assert given.keys() <= known, name
        values = {
            key.removeprefix("IRONYARD_").lower(): filled(text, f"{key}-{'x' * 40}")
            for key, text in given.items()
        }
        settings = Settings(_env_file=None, **values)
        assert settings.mode == "production"
        assert settings.database.startswith("postgresql+psycopg://ironyard:IRONYARD_DATABASE_URL-x")


def filled(text: str, secret: str) -> str:
    """With `secret` for every variable that has no default."""
    return VARIABLE.sub(
        lambda found: (found[2] or "")[2:] if (found[2] or "").startswith(":-") else secret, text
    )


def test_secrets_come_from_the_environment_file_alone(services: dict[str, Any]) -> None:
    example = (ROOT / ".env.example").read_text()
    listed = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    asked = {
        found[1]
        for found in VARIABLE.finditer((ROOT / "compose.yaml").read_text())
        if (found[2] or "").startswith(":?")
    }
    assert asked == {name for name, text in listed.items() if not text}, (
        "no secret has a value in the example"
    )
    for name, service in services.items():
        for key, text in service.get("environment", {}).items():
            if any(word in key for word in ("PASSWORD", "SECRET", "TOKEN", "KEY", "AUTH", "URL")):
                assert VARIABLE.search(text), f"{name}: {key}"


def test_the_facade_is_as_closed_as_its_image_allows(services: dict[str, Any]) -> None:
    for name in ("migration", "api", "worker"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert {entry.partition(":")[0] for entry in service["tmpfs"]} == {"/tmp", "/var/lib/ironyard"}


def test_prometheus_finds_hosts_as_in_the_cluster(services: dict[str, Any]) -> None:
    """Its configuration and the platform's ScrapeConfigs say the same."""
    written = yaml.safe_load((ROOT / "templates" / "prometheus" / "compose.yml").read_text())
    jobs = {job["job_name"]: job for job in written["scrape_configs"]}
    assert jobs.pop("ironyard")["static_configs"] == [{"targets": ["api:8080"]}]
    assert jobs.keys() == set(JOBS.values())
    for made in scrape_configs("http://api:8080"):
        wanted = own_form(made["spec"])
        assert written["global"] == {name: wanted.pop(name) for name in ("scrape_interval", "scrape_timeout")}
        for source in wanted["http_sd_configs"]:
            source["authorization"] = {"type": "Bearer", "credentials_file": "/tmp/discovery-token"}
        assert jobs[wanted["job_name"]] == wanted
    assert "> /tmp/discovery-token" in services["prometheus"]["command"][0]


def test_promtool_takes_prometheus_s_configuration(tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (`make setup` as root installs it)")
    text = (ROOT / "templates" / "prometheus" / "compose.yml").read_text()
    token = tmp_path / "token"
    token.write_text("x")
    (tmp_path / "prometheus.yml").write_text(text.replace("/tmp/discovery-token", str(token)))
    done = subprocess.run(
        [program, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_compose_itself_takes_it(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (`make setup` as root installs it)")
    example = (ROOT / ".env.example").read_text()
    (tmp_path / "env").write_text(re.sub(r"=$", f"={'x' * 40}", example, flags=re.MULTILINE))
    command = [program, "--file", ROOT / "compose.yaml", "--project-directory", ROOT]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("IRONYARD_")}
    done = subprocess.run(
        [*command, "--env-file", tmp_path / "env", "config"],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"]["api"]["environment"]["IRONYARD_MODE"] == "production"
    refused = subprocess.run(
        [*command, "--env-file", ROOT / ".env.example", "config"],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    assert "see .env.example" in refused.stderr
