"""Dashboards ask only for what somebody measures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import ROOT
from stacks.components.gpu import COUNTERS

BOARDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "templates" / "grafana").glob("*.json")}
RULES = ROOT / "templates" / "prometheus"
FIELDS = {
    line.partition(",")[0].strip()
    for line in COUNTERS.read_text().splitlines()
    if line.strip() and not line.startswith("#")
}
FACADE = {
    "ironyard_hosts",
    "ironyard_host_info",
    "ironyard_gpus",
    "ironyard_operations",
    "ironyard_workers_alive",
    "ironyard_http_requests_total",
    "ironyard_http_request_seconds_bucket",
}
NODE = re.compile(r"node_(boot_time|cpu|memory|load|filesystem|disk|network)\w*")
METRIC = re.compile(r"\b(?:DCGM_\w+|ironyard[_:][\w:]+|node_\w+)\b")
RECORDED = {
    rule["record"]
    for path in RULES.glob("*.yaml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}


def queries(board: dict[str, Any]) -> list[str]:
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return asked + [v["definition"] for v in board["templating"]["list"] if v["type"] == "query"]


def unknown(text: str) -> list[str]:
    return [
        name
        for name in METRIC.findall(text)
        if name not in FIELDS | FACADE | RECORDED and not NODE.fullmatch(name)
    ]


def test_the_four_boards_are_there_under_their_own_names() -> None:
    assert set(BOARDS) == {"fleet", "host", "gpu", "facade"}
    assert {board["uid"] for board in BOARDS.values()} == {f"ironyard-{name}" for name in BOARDS}


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_asks_only_for_what_is_measured(name: str) -> None:
    assert [fault for query in queries(BOARDS[name]) for fault in unknown(query)] == []


@pytest.mark.parametrize("name", BOARDS)
def test_prometheus_can_parse_every_query(name: str, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    asked = [target["expr"] for panel in BOARDS[name]["panels"] for target in panel["targets"]]
    rules = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(asked)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap_and_take_the_chosen_prometheus(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        taken |= cells
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", BOARDS)
def test_a_variable_that_is_used_is_declared(name: str) -> None:
    declared = {variable["name"] for variable in BOARDS[name]["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(BOARDS[name])))
    assert used <= declared


def test_alerts_are_about_what_is_measured() -> None:
    for path in RULES.glob("*.yaml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                assert unknown(rule["expr"]) == [], path.name


def test_the_facade_measures_what_is_asked_of_it(client: Any) -> None:
    client.get("/health/live")
    shown = client.get("/metrics").text
    missing = [name for name in FACADE if not re.search(rf"^# TYPE {_family(name)} ", shown, re.MULTILINE)]
    assert missing == []


def _family(name: str) -> str:
    return name.removesuffix("_bucket")


def test_errors_throttling_and_remapping_are_counted() -> None:
    """The exporter's own list leaves these out."""
    assert {
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
        "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
        "DCGM_FI_DEV_ROW_REMAP_PENDING",
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
    } <= FIELDS


def test_every_counter_has_three_parts_and_a_known_kind() -> None:
    for line in COUNTERS.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            parts = [part.strip() for part in line.split(",")]
            assert len(parts) == 3, line
            assert parts[1] in ("gauge", "counter", "label"), line


def test_what_the_exporter_reads_by_itself_is_read_here_too(contracts: Path) -> None:
    ours = FIELDS | {"DCGM_FI_DEV_VGPU_LICENSE_STATUS"}  # of virtual GPUs, which are not lent
    for name in ("default-counters.csv", "dcp-metrics-included.csv"):
        lines = (contracts / "dcgm" / name).read_text().splitlines()
        fields = {line.partition(",")[0].strip() for line in lines if line.startswith("DCGM_")}
        assert fields <= ours
