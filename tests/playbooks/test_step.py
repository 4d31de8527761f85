"""`ironyard_step`: every module of ours can be run through it, and what it is told wrongly is said."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.conftest import PLAYBOOKS

LIBRARY = PLAYBOOKS / "library"
STEP = LIBRARY / "ironyard_step.py"


def modules() -> set[str]:
    """What runs on the host; the others are documented there and are action plugins."""
    return {path.stem for path in LIBRARY.glob("*.py") if "run_module(" in path.read_text()}


def test_every_module_is_sent_along() -> None:
    found = next(
        node
        for node in ast.walk(ast.parse(STEP.read_text()))
        if isinstance(node, ast.ImportFrom) and len(node.names) > 1
    )
    assert {name.name for name in found.names} == modules()


def test_the_roles_call_no_module_of_ours_by_itself() -> None:
    for tasks in PLAYBOOKS.glob("roles/*/*/*.yml"):
        for line in tasks.read_text().splitlines():
            assert line.strip().rstrip(":") not in modules(), f"{tasks}: {line}"


def run(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    command = [
        str(Path(sys.executable).with_name("ansible")),
        *("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"),
        *("localhost", "-m", "ironyard_step", "-a", json.dumps({"module": module, "arguments": arguments})),
    ]
    env = os.environ | {
        "ANSIBLE_CONFIG": str(PLAYBOOKS.parent / "ansible.cfg"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_INVENTORY_ENABLED": "host_list",
    }
    done = subprocess.run(command, cwd=PLAYBOOKS.parent, env=env, capture_output=True, text=True, check=False)
    told: dict[str, Any] = json.loads(done.stdout.partition("=> ")[2])
    return told


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("ironyard_nothing", {}, "ironyard_nothing is no module of Ironyard's"),
        ("steps", {}, "steps is no module of Ironyard's"),
        ("ironyard_identity", {"phase": "sideways"}, "value of phase must be one of: restore, activate"),
        ("ironyard_identity", {}, "missing required arguments: phase"),
        ("ironyard_identity", {"phase": "restore", "evil": 1}, "Unsupported parameters"),
    ],
)
def test_what_is_wrong_is_said(module: str, arguments: dict[str, Any], says: str) -> None:
    answer = run(module, arguments)
    assert says in answer["msg"]
    assert answer["changed"] is False
