"""`dcgmi diag`: both recorded forms, answers that are none, and the end of one nobody waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import diag, verdicts
from ansible.module_utils.steps import Ran

from tests.lab.simulated import Simulated
from tests.playbooks.conftest import PLAYBOOKS

UUIDS = {0: "GPU-a", 1: "GPU-b", 2: "GPU-c", 3: "GPU-d"}
DISCOVERED = """4 GPUs found.
+--------+----------------------------------------------------------------------+
| GPU ID | Device Information                                                   |
+--------+----------------------------------------------------------------------+
| 0      | Name: NVIDIA H100 80GB HBM3                                          |
|        | PCI Bus ID: 00000000:1B:00.0                                         |
|        | Device UUID: GPU-00000000-0000-0000-0000-00000000000a                |
+--------+----------------------------------------------------------------------+
| 1      | Name: NVIDIA H100 80GB HBM3                                          |
|        | PCI Bus ID: 00000000:43:00.0                                         |
|        | Device UUID: GPU-00000000-0000-0000-0000-00000000000b                |
+--------+----------------------------------------------------------------------+
0 NvSwitches found.
"""


def test_dcgm_s_numbers_are_read_from_its_own_list() -> None:
    assert diag.numbers(DISCOVERED) == {
        0: "GPU-00000000-0000-0000-0000-00000000000a",
        1: "GPU-00000000-0000-0000-0000-00000000000b",
    }


def test_the_recorded_older_form(contracts: Path) -> None:
    text = (contracts / "dcgm" / "dcgmi-diag-per-gpu-v1.7.json").read_text()
    found = diag.read(text, UUIDS)
    assert {one["scope"] for one in found} == set(UUIDS.values())
    assert {one["verdict"] for one in found} == {"PASS", "INFO", "CRITICAL"}
    failed = diag.read(text.replace('"PASS"', '"FAIL"', 1), UUIDS)
    denied = [one["scope"] for one in failed if one["detail"] == "Denylist: FAIL"]
    assert sorted(denied) == sorted(UUIDS.values())
    strange = diag.read(text.replace('"PASS"', '"MAYBE"', 1), UUIDS)
    assert [one["verdict"] for one in strange].count("UNKNOWN") == 4


def newer(status: str, **more: Any) -> dict[str, Any]:
    result = {"entity_group": "GPU", "entity_group_id": 1, "entity_id": 2, "status": status} | more
    test = {"name": "memory", "results": [result], "test_summary": {"status": status}}
    return {
        "DCGM Diagnostic": {"test_categories": [{"category": "Hardware", "tests": [test]}]},
        "metadata": {"version": "4.6.0"},
    }


@pytest.mark.parametrize(
    ("status", "severity", "verdict", "action"),
    [
        ("Pass", None, "PASS", "none"),
        ("Skip", 1, "INFO", "none"),
        ("Warn", 1, "WARNING", "none"),
        ("Fail", 2, "CRITICAL", "drain"),
        ("Fail", 6, "CRITICAL", "reset"),
        ("Fail", 4, "CRITICAL", "service"),
        ("Fail", None, "CRITICAL", "service"),
    ],
)
def test_the_newer_form(status: str, severity: int | None, verdict: str, action: str) -> None:
    warning = {"error_category": 7, "error_id": 5, "error_severity": severity, "warning": "a bit flipped"}
    document = newer(status, warnings=[warning]) if severity else newer(status)
    (found,) = diag.read(json.dumps(document), UUIDS)
    assert (found["verdict"], found["action"], found["scope"]) == (verdict, action, "GPU-c")
    assert ("a bit flipped" in found["detail"]) is (severity is not None)


def test_the_newer_form_is_what_its_schema_says(contracts: Path) -> None:
    schema = json.loads((contracts / "dcgm" / "dcgm_diag_schema-4.6.json").read_text())
    result = schema["properties"]["DCGM Diagnostic"]["properties"]["test_categories"]["items"]
    result = result["properties"]["tests"]["items"]["properties"]["results"]["items"]
    ours = newer("Pass")["DCGM Diagnostic"]["test_categories"][0]["tests"][0]["results"][0]
    assert set(result["required"]) == set(ours)


def test_results_of_no_known_gpu_are_the_host_s() -> None:
    document = newer("Fail", entity_group="CPU")
    assert diag.read(json.dumps(document), UUIDS)[0]["scope"] == verdicts.HOST
    assert diag.read(json.dumps(newer("Fail")), {})[0]["scope"] == verdicts.HOST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Error: unable to establish a connection",
        "{}",
        '{"DCGM Diagnostic": {"runtime_error": "the host engine went away"}}',
        '{"DCGM Diagnostic": {"test_categories": []}}',
        '{"DCGM Diagnostic": [',
    ],
)
def test_a_diagnostic_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json has words of its own
        diag.read(text, UUIDS)


def dcgmi(monkeypatch: pytest.MonkeyPatch, said: Ran, *, listed: str = DISCOVERED) -> None:
    monkeypatch.setattr(diag.shutil, "which", lambda *_a, **_k: "/usr/bin/dcgmi")
    monkeypatch.setattr(diag, "run", lambda *argv, **_: Ran(argv, 0, listed, ""))
    monkeypatch.setattr(diag, "watched", lambda *_a, **_k: said)


def test_a_gpu_of_which_the_diagnostic_says_nothing_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    document = newer("Pass", entity_id=1)
    dcgmi(monkeypatch, Ran(("dcgmi",), 0, json.dumps(document), ""))
    known = diag.numbers(DISCOVERED)
    found = {one["scope"]: one["verdict"] for one in diag.examine(2, [*known.values()], seconds=1)}
    assert found == {known[1]: "PASS", known[0]: "UNKNOWN"}


def test_a_failed_diagnostic_is_told_for_its_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    document = newer("Fail", entity_id=1)
    tests = document["DCGM Diagnostic"]["test_categories"][0]["tests"]
    tests.append({"name": "pcie", "results": [{"entity_group": "GPU", "entity_id": 0, "status": "Pass"}]})
    dcgmi(monkeypatch, Ran(("dcgmi",), 226, json.dumps(document), ""))
    known = diag.numbers(DISCOVERED)
    found = {one["scope"]: one["verdict"] for one in diag.examine(2, [*known.values()], seconds=1)}
    assert found == {known[0]: "PASS", known[1]: "CRITICAL"}


def test_a_diagnostic_without_an_answer_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    dcgmi(monkeypatch, Ran(("dcgmi",), 124, "", "no answer within 5 s"))
    (found,) = diag.examine(3, ["GPU-a"], seconds=5)
    assert (found["verdict"], found["scope"]) == ("UNKNOWN", verdicts.HOST)
    assert "no answer within 5 s" in found["detail"]


def test_a_host_engine_gets_a_moment_to_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["Error: Unable to connect to host engine", DISCOVERED])
    dcgmi(monkeypatch, Ran(("dcgmi",), 0, json.dumps(newer("Pass", entity_id=0)), ""))
    monkeypatch.setattr(diag, "run", lambda *argv, **_: Ran(argv, 0, next(answers), ""))
    slept: list[float] = []
    monkeypatch.setattr(diag.time, "sleep", slept.append)
    uuid = diag.numbers(DISCOVERED)[0]
    assert [one["scope"] for one in diag.examine(1, [uuid], seconds=1)] == [uuid]
    assert slept == [diag.TAKES]


WATCH = """
import sys
sys.path[:0] = {path!r}
import ansible.module_utils
ansible.module_utils.__path__.append({shared!r})
from ansible.module_utils import diag
diag.LOOK = 0.1
try:
    said = diag.watched(("sh", "-c", "echo $$ > {pid}; sleep 60"), seconds={seconds})
except diag.Abandoned:
    open({told!r}, "w").write("abandoned")
else:
    open({told!r}, "w").write(str(said.code))
"""


@pytest.mark.parametrize(("seconds", "expected"), [(50, "abandoned"), (0.2, "124")])
def test_a_diagnostic_ends_when_nobody_waits_or_time_is_over(
    tmp_path: Path, seconds: float, expected: str
) -> None:
    pid, told = tmp_path / "pid", tmp_path / "told"
    shared = str(PLAYBOOKS / "module_utils")
    script = WATCH.format(path=sys.path, shared=shared, pid=pid, told=str(told), seconds=seconds)
    reader, writer = os.pipe()
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer) as process:
        os.close(writer)
        while not pid.exists() and process.poll() is None:
            time.sleep(0.02)
        if expected == "abandoned":
            os.close(reader)
        process.wait(30)
    assert told.read_text() == expected
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def schema_faults(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What of a document is not as its JSON schema says (types, required members, members of its own)."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int}
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{where} is no {schema['type']}"]
    if schema["type"] == "array":
        return [one for item in value for one in schema_faults(item, schema["items"], f"{where}[]")]
    if schema["type"] != "object":
        return []
    known = schema.get("properties", {})
    found = [f"{where}/{name} is missing" for name in schema.get("required", []) if name not in value]
    found += [f"{where}/{name} is not in the schema" for name in value if name not in known]
    return found + [
        one
        for name in value
        if name in known
        for one in schema_faults(value[name], known[name], f"{where}/{name}")
    ]


@pytest.mark.parametrize("fault", [(), ("diag", "--gpu", "1", "--test", "pcie", "--status", "Fail")])
def test_the_stand_in_prints_what_the_schema_says(
    tmp_path: Path, contracts: Path, fault: tuple[str, ...]
) -> None:
    simulated = Simulated(tmp_path, "h100-sxm", 2)
    if fault:
        simulated.tell(*fault)
    code, said = simulated.dcgmi("diag", "-r", "3", "-j")
    assert (code != 0) is bool(fault)
    schema = json.loads((contracts / "dcgm" / "dcgm_diag_schema-4.6.json").read_text())
    assert schema_faults(json.loads(said), schema) == []


def test_the_stand_in_s_results_are_read(tmp_path: Path) -> None:
    simulated = Simulated(tmp_path, "h100-sxm", 2)
    simulated.tell("diag", "--gpu", "1", "--test", "pcie", "--severity", "6")
    listed = diag.numbers(simulated.dcgmi("discovery", "-l")[1])
    assert list(listed.values()) == [gpu["uuid"] for gpu in simulated.gpus]
    levels = [diag.read(simulated.dcgmi("diag", "-r", str(level), "-j")[1], listed) for level in (1, 2, 3)]
    assert [len(found) for found in levels] == [2, 8, 14]
    (failed,) = [one for one in levels[1] if one["verdict"] == "CRITICAL"]
    assert (failed["scope"], failed["action"]) == (simulated.gpus[1]["uuid"], "reset")


def test_the_stand_in_without_its_engine(tmp_path: Path) -> None:
    simulated = Simulated(tmp_path, "h100-sxm", 1)
    simulated.tell("no-engine")
    assert diag.NO_ENGINE.search(simulated.dcgmi("discovery", "-l")[1])
