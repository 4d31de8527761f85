"""Alerting rules, by the program that Prometheus's own makers check rules with."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.settings import ROOT
from tests.stacks.alerts import CASES, GPU, Case, gpu, state

RULES = sorted((ROOT / "templates" / "prometheus").glob("*.yaml"))
GROUPS = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    return found


def run(promtool: str, *arguments: str) -> str:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_every_rule(promtool: str) -> None:
    run(promtool, "check", "rules", *(str(path) for path in RULES))


def test_every_alert_says_how_bad_what_and_what_to_do() -> None:
    page = (ROOT / "docs" / "operate.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    }
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"]["summary"], name
        page_name, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page_name == "docs/operate.md", name
        assert anchor in anchors, name


def test_every_alert_is_seen_firing_and_quiet() -> None:
    assert {case.alert for case in CASES} == set(ALERTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, promtool: str, tmp_path: Path) -> None:
    firing = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    evaluate(
        promtool,
        tmp_path,
        [
            _unit(case.firing, [(firing, [("{}", 1)])], case.minutes),
            _unit(case.quiet, [(firing, [])], case.minutes),
        ],
    )


def test_an_alert_names_the_gpu_and_its_host(promtool: str, tmp_path: Path) -> None:
    labels = dict(re.findall(r'(\w+)="([^"]*)"', GPU))
    rule = ALERTS["GPUTooHot"]
    summary = "GPU 3 of gpu-7 is at 91 °C"
    alert = {
        "exp_labels": labels | rule["labels"],
        "exp_annotations": {"summary": summary, "runbook": rule["annotations"]["runbook"]},
    }
    unit = _unit(gpu("DEV_GPU_TEMP", "91x60"), [], 30)
    unit["alert_rule_test"] = [{"alertname": "GPUTooHot", "eval_time": "30m", "exp_alerts": [alert]}]
    evaluate(promtool, tmp_path, [unit])


def test_an_idle_gpu_of_an_allocated_host_is_counted(promtool: str, tmp_path: Path) -> None:
    idle = ("ironyard:gpus_held_idle:count", [('ironyard:gpus_held_idle:count{region="east"}', 1)])
    busy = ("ironyard:gpus_held_idle:count", [('ironyard:gpus_held_idle:count{region="east"}', 0)])
    held, free = state("1x120", "allocated"), state("1x120", "idle")
    evaluate(
        promtool,
        tmp_path,
        [
            _unit(gpu("DEV_GPU_UTIL", "0x120") | held, [idle], 90),
            _unit(gpu("DEV_GPU_UTIL", "97x120") | held, [busy], 90),
            _unit(gpu("DEV_GPU_UTIL", "0x120") | free, [("ironyard:gpus_held_idle:count", [])], 90),
        ],
    )


def test_eight_healthy_gpus_as_recorded_raise_nothing(promtool: str, contracts: Path, tmp_path: Path) -> None:
    series, shown = {}, set()
    for line in (contracts / "dcgm" / "h100-8gpu.prom").read_text().splitlines():
        found = SAMPLE.fullmatch(line.strip())
        if found:
            series[f'{found[1]}{{{found[2]},hostname="gpu-1"}}'] = f"{found[3]}x120"
            shown |= set(re.findall(r'(\w+)="', found[2]))
    assert len(series) >= 24
    ours = set(re.findall(r'(\w+)="', GPU)) | {"Hostname", "container", "namespace", "pod", "pod_uid"}
    assert shown <= ours, "the exporter has labels that the cases here lack"
    fired = 'count(ALERTS{alertname=~"GPU.*", alertstate="firing"})'
    evaluate(promtool, tmp_path, [_unit(series, [(fired, [])], 90)])


Sample = tuple[str, float]


def evaluate(promtool: str, folder: Path, units: list[dict[str, Any]]) -> None:
    path = folder / "test.yaml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(p) for p in RULES], "evaluation_interval": "1m", "tests": units})
    )
    run(promtool, "test", "rules", str(path))


def _unit(series: dict[str, str], asked: list[tuple[str, list[Sample]]], minutes: int) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in expected],
            }
            for expression, expected in asked
        ],
    }
