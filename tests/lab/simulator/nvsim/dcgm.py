"""`dcgmi discovery -l` and `dcgmi diag -r LEVEL -j`, in the form of DCGM 4."""

from __future__ import annotations

import json
import time
from typing import Any

from .models import DRIVER
from .state import Gpu, Machine, read

VERSION = "4.6.0"
FAILED = 226  # the tool's exit code when a test failed
NO_ENGINE = "Error: Unable to connect to host engine. Generic DCGM error.\n"
# Each level runs the tests of those below it, too.
TESTS = {
    1: (("Deployment", "software"),),
    2: (("Integration", "pcie"), ("Hardware", "memory"), ("Hardware", "memory_bandwidth")),
    3: (("Hardware", "diagnostic"), ("Stress", "targeted_stress"), ("Stress", "targeted_power")),
}
RULE = "+--------+----------------------------------------------------------------------+\n"


def discovery(gpus: list[Gpu]) -> str:
    lines = [f"{len(gpus)} GPUs found.\n", RULE, f"| GPU ID | {'Device Information':<68} |\n", RULE]
    for gpu in gpus:
        told = (f"Name: {gpu.model.name}", f"PCI Bus ID: {gpu.smi_bus}", f"Device UUID: {gpu.uuid}")
        lines += [f"| {'' if n else str(gpu.index):<6} | {text:<68} |\n" for n, text in enumerate(told)]
        lines.append(RULE)
    return "".join([*lines, "0 NvSwitches found.\n"])


def _result(gpu: Gpu, test: str) -> dict[str, Any]:
    asked = gpu.state["diag"] if gpu.state["diag"].get("test") == test else {}
    result = {"entity_group": "GPU", "entity_group_id": 1, "entity_id": gpu.index}
    if not asked:
        return {**result, "status": "Pass"}
    warning = {
        "error_category": 7,
        "error_id": 5,
        "error_severity": asked["severity"],
        "warning": f"GPU {gpu.index} did not do as expected in {test}.",
    }
    return {**result, "status": asked["status"], "warnings": [warning]}


def diagnostic(gpus: list[Gpu], level: int) -> tuple[int, str]:
    categories: dict[str, list[dict[str, Any]]] = {}
    failed = False
    for category, test in (one for at in range(1, level + 1) for one in TESTS[at]):
        results = [_result(gpu, test) for gpu in gpus]
        statuses = {result["status"] for result in results}
        summary = next((word for word in ("Fail", "Warn", "Skip") if word in statuses), "Pass")
        failed = failed or summary == "Fail"
        entry = {"name": test, "results": results, "test_summary": {"status": summary}}
        categories.setdefault(category, []).append(entry)
    entities = [
        {"device_id": gpu.model.device_id[:4], "entity_id": gpu.index, "serial_num": gpu.serial}
        for gpu in gpus
    ]
    document = {
        "DCGM Diagnostic": {
            "test_categories": [{"category": name, "tests": tests} for name, tests in categories.items()]
        },
        "entity_groups": [{"entities": entities, "entity_group": "GPU", "entity_group_id": 1}],
        "metadata": {"Driver Version Detected": DRIVER, "version": VERSION},
    }
    return FAILED if failed else 0, json.dumps(document, indent=2) + "\n"


def answer(machine: Machine, arguments: list[str]) -> tuple[int, str]:
    if machine.faults.get("no_engine"):
        return 1, NO_ENGINE
    gpus = [gpu for gpu in machine.gpus if not gpu.state["lost"]]
    if arguments == ["discovery", "-l"]:
        return 0, discovery(gpus)
    if arguments[:2] == ["diag", "-r"] and arguments[3:] == ["-j"] and arguments[2] in "123":
        time.sleep(machine.faults.get("slow_diag", 0))
        return diagnostic(gpus, int(arguments[2]))
    return 2, f"dcgmi: the simulator does not know {' '.join(arguments)}\n"


def main(arguments: list[str]) -> int:
    code, said = answer(read(), arguments)
    print(said, end="")
    return code
