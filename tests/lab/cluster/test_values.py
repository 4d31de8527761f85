"""The check of chart values finds what the real chart would not read or would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster.values import check_values, merged


@pytest.mark.parametrize(
    ("chart", "values", "fault"),
    [
        ("harbor", {"expose": {"kind": "ingress"}}, "harbor.expose.kind: the chart has no such value"),
        ("harbor", {"metrics": True}, "harbor.metrics: the chart has a map here, not True"),
        (
            "harbor",
            {"core": {"tolerations": "all"}},
            "harbor.core.tolerations: the chart has a list here, not 'all'",
        ),
        ("harbor", {"logLevel": {"core": "info"}}, "harbor.logLevel: the chart has text here, not a dict"),
        ("harbor", {"trivy": {"enabled": [1]}}, "harbor.trivy.enabled: the chart has True here, not a list"),
        ("harbor", {"portal": {"ressources": {}}}, "harbor.portal.ressources: the chart has no such value"),
        (
            "kube-prometheus-stack",
            {"kube-state-metrics": {"replica": 2}},
            "kube-prometheus-stack.kube-state-metrics.replica: the chart has no such value",
        ),
        (
            "cert-manager",
            {"crds": {"enabled": "yes"}},
            "cert-manager.crds.enabled: 'yes' is not of type 'boolean'",
        ),
        (
            "valkey",
            {"deploymentStrategy": "Never"},
            "valkey.deploymentStrategy: 'Never' is not one of ['RollingUpdate', 'Recreate']",
        ),
    ],
)
def test_finds(chart: str, values: dict[str, Any], fault: str, contracts: Path) -> None:
    assert fault in check_values(chart, values, contracts)


@pytest.mark.parametrize(
    ("chart", "values"),
    [
        ("harbor", {"core": {"resources": {"limits": {"cpu": "1"}}, "nodeSelector": {"pool": "system"}}}),
        ("harbor", {"metrics": None}),
        ("kube-prometheus-stack", {"kube-state-metrics": {"replicas": 2}}),
        ("kube-prometheus-stack", {"grafana": {"persistence": {"enabled": True}}}),
        ("gateway-helm", {"deployment": {"envoyGateway": {"resources": {"limits": {"cpu": "1"}}}}}),
        ("a-chart-of-which-nothing-is-recorded", {"anything": 1}),
    ],
)
def test_lets_pass(chart: str, values: dict[str, Any], contracts: Path) -> None:
    assert check_values(chart, values, contracts) == []


def test_values_are_laid_over_defaults_as_helm_does() -> None:
    under = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 5}
    assert merged(under, {"a": {"c": 3}, "d": [9], "e": None}) == {"a": {"b": 1, "c": 3}, "d": [9]}
