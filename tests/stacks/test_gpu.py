from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stacks.components.base import Platform
from stacks.components.gpu import COUNTERS, Gpu
from tests.lab.cluster.values import check_values, contract

OPERATOR = {"mode": "gpu-operator"}
MIRROR = "mirror:5000/all"
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"gpu": {"runtime_class": "nvidia", "node_selector": {"pool": "gpu"}}},
    {"cluster": {"images": MIRROR}},
    {"gpu": OPERATOR},
    {"gpu": OPERATOR | {"install_driver": False, "install_toolkit": False, "discover_nodes": False}},
    {"gpu": OPERATOR, "cluster": {"images": MIRROR}},
]


def roll(roll_out: Any, *, watches: bool = True, **config: Any) -> Any:
    def program() -> None:
        monitoring: Any = SimpleNamespace(watches=watches, definitions=[])
        Gpu(Platform.load(), monitoring=monitoring)

    return roll_out(program, **config)


def values(seen: Any) -> dict[str, Any]:
    (release,) = seen.of("Release")
    found: dict[str, Any] = release.inputs["values"]
    return found


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_the_chart_has_every_value_that_is_set(config: Any, roll_out: Any, contracts: Path) -> None:
    (release,) = roll(roll_out, **config).of("Release")
    chart = release.inputs["chart"].rpartition("/")[2]
    assert check_values(chart, release.inputs["values"], contracts) == []


def test_the_exporter_reads_our_counters(roll_out: Any) -> None:
    seen = roll(roll_out)
    (counters,) = seen.of("ConfigMap")
    ((key, text),) = counters.inputs["data"].items()
    assert text == COUNTERS.read_text()
    given = values(seen)
    (volume,), (mount,) = given["extraConfigMapVolumes"], given["extraVolumeMounts"]
    assert volume["configMap"]["name"] == counters.object_name
    assert mount["name"] == volume["name"]
    assert given["arguments"] == ["-f", f"{mount['mountPath']}/{key}"]


def test_the_operator_s_exporter_reads_the_same_counters(roll_out: Any) -> None:
    seen = roll(roll_out, gpu=OPERATOR)
    (counters,) = seen.of("ConfigMap")
    assert list(counters.inputs["data"]) == ["dcgm-metrics.csv"]  # the key that the operator mounts
    assert values(seen)["dcgmExporter"]["config"] == {"name": counters.object_name}
    assert seen.of("Release")[0].namespace == counters.namespace


def test_another_list_starts_the_exporters_again(
    roll_out: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = roll(roll_out).of("ConfigMap")[0].object_name
    other = tmp_path / "counters.csv"
    other.write_text("DCGM_FI_DEV_GPU_TEMP, gauge, temperature\n")
    monkeypatch.setattr("stacks.components.gpu.COUNTERS", other)
    assert roll(roll_out).of("ConfigMap")[0].object_name != before


def test_it_runs_on_gpu_nodes_only_whatever_their_taints(roll_out: Any) -> None:
    given = values(roll(roll_out))
    assert given["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert given["tolerations"] == [{"operator": "Exists"}]


def test_series_are_told_by_the_node_s_name_as_those_of_hosts_are(roll_out: Any) -> None:
    monitor = values(roll(roll_out))["serviceMonitor"]
    assert [one["targetLabel"] for one in monitor["relabelings"]] == ["hostname"]
    assert monitor["metricRelabelings"] == [{"action": "labeldrop", "regex": "Hostname"}]


@pytest.mark.parametrize("config", [{}, {"gpu": OPERATOR}])
def test_it_is_watched_only_where_somebody_watches(config: Any, roll_out: Any) -> None:
    for watches in (True, False):
        given = values(roll(roll_out, watches=watches, **config))
        monitor = given.get("serviceMonitor") or given["dcgmExporter"]["serviceMonitor"]
        assert monitor["enabled"] is watches


def test_driver_and_toolkit_can_stay_the_node_s_own(roll_out: Any) -> None:
    given = values(roll(roll_out, gpu=OPERATOR | {"install_driver": False, "install_toolkit": False}))
    assert (given["driver"]["enabled"], given["toolkit"]["enabled"]) == (False, False)
    assert values(roll(roll_out, gpu=OPERATOR))["driver"]["enabled"] is True


def test_only_this_namespace_is_privileged(roll_out: Any) -> None:
    (space,) = roll(roll_out).of("Namespace")
    assert space.inputs["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_the_operator_takes_every_image_that_is_on_from_the_mirror(roll_out: Any, contracts: Path) -> None:
    known = contract("gpu-operator", contracts)
    assert known is not None
    given = values(roll(roll_out, gpu=OPERATOR, cluster={"images": MIRROR}))
    unmirrored = []
    for part, defaults in known["values"].items():
        used = isinstance(defaults, dict) and defaults.get("repository") and defaults.get("enabled", True)
        sandboxed = part.startswith(("sandbox", "kata", "vfio", "vgpu", "cc"))
        if used and not sandboxed and part != "draDriver":  # those are not deployed
            mine = given.get(part, {}).get("repository")
            if mine != defaults["repository"].replace("nvcr.io", MIRROR):
                unmirrored.append(part)
    assert unmirrored == []
    assert given["driver"]["manager"]["repository"] == f"{MIRROR}/nvidia/cloud-native"
    assert given["node-feature-discovery"]["image"]["repository"].startswith(MIRROR)


def test_the_exporter_s_image_comes_from_the_mirror(roll_out: Any) -> None:
    given = values(roll(roll_out, cluster={"images": MIRROR}))
    assert given["image"]["repository"] == f"{MIRROR}/nvidia/k8s/dcgm-exporter"


def test_off_registers_nothing(roll_out: Any) -> None:
    seen = roll(roll_out, gpu={"mode": "off"})
    assert [r.type for r in seen.resources if r.type.startswith("kubernetes:")] == []
