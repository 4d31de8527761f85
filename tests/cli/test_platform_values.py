"""`ironyard platform up --set`: what is written into a stack's file, and what is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from api.cli.exits import Exit, Failure
from api.cli.platform_values import parsed, write


class Stack:
    """What the command uses of a stack."""

    name = "lab"

    def __init__(self) -> None:
        self.written: dict[str, str] = {}

    def set_config(self, key: str, value: Any, *, path: bool) -> None:
        assert path
        self.written[key] = value.value


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = {"ironyard-platform:storage": {"size": "1Gi"}}
    (tmp_path / "Pulumi.lab.yaml").write_text(yaml.safe_dump({"config": config}))
    return tmp_path


@pytest.mark.parametrize("given", ["storage", "storage=seaweedfs", "=1", "storage.=1"])
def test_a_value_without_its_place_is_refused(given: str) -> None:
    with pytest.raises(Failure) as refused:
        parsed([given])
    assert refused.value.code == Exit.USAGE


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parsed(["facade.options.name=a=b"]) == {"facade.options.name": "a=b"}


def test_values_are_written_under_the_project(project: Path) -> None:
    stack: Any = Stack()
    write(stack, project, {"cluster.high_availability": "true", "storage.volume_servers": "3"})
    assert stack.written == {
        "ironyard-platform:cluster.high_availability": "true",
        "ironyard-platform:storage.volume_servers": "3",
    }


def test_nothing_is_written_when_the_whole_would_be_wrong(project: Path) -> None:
    stack: Any = Stack()
    with pytest.raises(Failure) as refused:
        write(stack, project, {"cluster.domain": "gpu.example.com", "storage.copies": "2"})
    assert stack.written == {}
    assert refused.value.code == Exit.INVALID
    assert "2 copies need at least as many volume_servers" in str(refused.value)
