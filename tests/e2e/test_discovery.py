"""A real Prometheus finds the enrolled hosts by service discovery and reads their node exporters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from stacks.scrape import scrape_configs
from tests.e2e.conftest import Platform
from tests.lab import Host, Lab, LabError
from tests.lab.fleet import load
from tests.support.postgres import free_port
from tests.support.scrape import own_form
from tests.support.server import ROOT, environment, running, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
ENGINE = "sqlite"
TOKEN = "a-discovery-token-of-the-tests-own-0123456789"
SETTINGS = {"discovery_token": TOKEN}
PREFIX = f"disc{os.environ.get('PYTEST_XDIST_WORKER', '')}"
NAMES = [f"{PREFIX}-{number}" for number in (1, 2)]
NODES = 'up{job="node-exporter"}'
BY_STATE = f"{NODES} * on(hostname) group_left(state) ironyard_host_info"


@pytest.fixture(scope="module")
def prometheus_program() -> str:
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("Prometheus is not installed (`make setup` as root installs it)")
    return found


@pytest.fixture(scope="module")
def lab(prometheus_program: str) -> Iterator[Lab]:
    made = Lab(ROOT / ".ironyard" / PREFIX, prefix=PREFIX)
    try:
        made.ensure_engine()
        made.down()
    except LabError as error:
        pytest.skip(str(error))
    yield made
    made.down()


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> list[Host]:
    big, _, small = load()
    return lab.up([big, small])


def configuration(url: str) -> dict[str, Any]:
    """What the operator makes of the platform's ScrapeConfigs, at a test's pace."""
    jobs = [own_form(made["spec"]) for made in scrape_configs(url)]
    for job in jobs:
        job |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
        for source in job["http_sd_configs"]:
            source["refresh_interval"] = "1s"
            source["authorization"]["credentials"] = TOKEN
    address = url.removeprefix("http://")
    facade = {"job_name": "ironyard", "scrape_interval": "1s", "scrape_timeout": "1s"}
    jobs.append(facade | {"static_configs": [{"targets": [address]}]})
    return {"scrape_configs": jobs}


@dataclass
class Prometheus:
    url: str
    platform: Platform

    def query(self, expression: str) -> dict[str, tuple[str, dict[str, str]]]:
        """hostname → (value, labels)"""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        found = answer["data"]["result"]
        assert len({row["metric"]["hostname"] for row in found}) == len(found), "two series of a host"
        return {row["metric"]["hostname"]: (row["value"][1], row["metric"]) for row in found}

    def targets(self, job: str) -> dict[str, dict[str, Any]]:
        active = httpx.get(f"{self.url}/api/v1/targets").json()["data"]["activeTargets"]
        return {row["labels"]["hostname"]: row for row in active if row["labels"]["job"] == job}

    def until(self, true: Callable[[], bool]) -> None:
        self.platform.until(true, seconds=60, what=lambda: (self.query(NODES), self.targets("node-exporter")))

    def states(self) -> dict[str, str]:
        return {name: labels["state"] for name, (_, labels) in self.query("ironyard_host_info").items()}

    def up(self) -> set[str]:
        return {name for name, (value, _) in self.query(NODES).items() if value == "1"}


@pytest.fixture(scope="module")
def prometheus(prometheus_program: str, platform: Platform) -> Iterator[Prometheus]:
    written = platform.data_dir / "prometheus.yml"
    written.write_text(yaml.safe_dump(configuration(platform.url)))
    with server(prometheus_program, written) as url:
        yield Prometheus(url, platform)


@contextmanager
def server(program: str, written: Path) -> Iterator[str]:
    """The URL of a Prometheus with the configuration `written`."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={written}",
        f"--storage.tsdb.path={written.parent / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    log = written.with_suffix(".log")
    with running(command, log, environment(written.parent, "")) as process:
        wait_for(lambda: httpx.get(f"http://{address}/-/ready").status_code == 200, process, log)
        yield f"http://{address}"


@pytest.fixture(scope="module")
def fleet(platform: Platform) -> dict[str, str]:
    """The lab hosts, enrolled and clean; their ids by name."""
    ids = {name: platform.enroll(name)["host"]["id"] for name in NAMES}
    for name, host_id in ids.items():
        found = platform.settled(host_id, seconds=600)
        assert found["state"] == "idle", (name, found["failed_step"], found["failed_reason"])
    return ids


def test_every_enrolled_host_is_up(prometheus: Prometheus, fleet: dict[str, str]) -> None:
    prometheus.until(lambda: prometheus.up() == set(NAMES))
    for name, (_, labels) in prometheus.query(NODES).items():
        assert labels["host_id"] == fleet[name]
        assert labels["region"] == "lab"
        assert labels["instance"] == f"{prometheus.platform.hosts[name].address}:9100"
    kernels = prometheus.query("node_uname_info")
    assert {name: labels["nodename"] for name, (_, labels) in kernels.items()} == {n: n for n in NAMES}
    ports = {
        row["labels"]["instance"].rsplit(":", 1)[1] for row in prometheus.targets("dcgm-exporter").values()
    }
    assert ports == {"9400"}
    assert prometheus.targets("dcgm-exporter").keys() == set(NAMES)


def test_a_loan_shows_and_the_exporter_survives_reclaim(
    prometheus: Prometheus, platform: Platform, fleet: dict[str, str]
) -> None:
    small = NAMES[-1]
    started = platform.lab.exec(small, "systemctl", "show", "-P", "MainPID", "prometheus-node-exporter")
    claim = {"gpus": 2, "same_host": True, "model": "NVIDIA L40S"}
    allocation = platform.ok("POST", "/api/v1/allocations", 201, json=claim)
    prometheus.until(lambda: prometheus.states()[small] == "allocated")
    assert prometheus.query(BY_STATE)[small][1]["state"] == "allocated"
    platform.ok("POST", f"/api/v1/allocations/{allocation['id']}/release")
    found = platform.settled(fleet[small], seconds=600)
    assert found["state"] == "idle", (found["failed_step"], found["failed_reason"])
    prometheus.until(lambda: prometheus.states()[small] == "idle")
    prometheus.until(lambda: prometheus.up() == set(NAMES))
    running_now = platform.lab.exec(small, "systemctl", "show", "-P", "MainPID", "prometheus-node-exporter")
    assert running_now == started != "0\n"


def test_a_retired_host_goes(prometheus: Prometheus, platform: Platform, fleet: dict[str, str]) -> None:
    gone, *left = NAMES
    platform.retire(fleet[gone])
    prometheus.until(lambda: prometheus.targets("node-exporter").keys() == set(left))
    prometheus.until(lambda: prometheus.query(NODES).keys() == set(left))
    assert prometheus.up() == set(left)
