"""Pulumi's own mocks: what a program registers, without an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks

from stacks.components.base import PROJECT


@dataclass
class Registered:
    """One resource as the program registered it."""

    type: str
    name: str
    inputs: dict[str, Any]
    secrets: frozenset[str] = frozenset()
    """Paths (`stringData.password`) of the inputs that are secret."""

    @property
    def kind(self) -> str:
        return self.type.rpartition(":")[2]

    @property
    def object_name(self) -> str:
        return str(self.inputs.get("metadata", {}).get("name", self.inputs.get("name", "")))

    @property
    def namespace(self) -> str | None:
        return self.inputs.get("metadata", {}).get("namespace", self.inputs.get("namespace"))


SECRET = "4dabf18193072939515e22adb298388d"  # how Pulumi marks a secret on the wire


def _shown(value: Any, path: str, hidden: set[str]) -> Any:
    if isinstance(value, dict) and SECRET in value:
        hidden.add(path)
        return _shown(value["value"], path, hidden)
    if isinstance(value, dict):
        return {key: _shown(inner, f"{path}.{key}", hidden) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner, f"{path}[{at}]", hidden) for at, inner in enumerate(value)]
    return value


@dataclass
class Recorder(mocks.Mocks):
    resources: list[Registered] = field(default_factory=list)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        hidden: set[str] = set()
        inputs = {k: _shown(v, k, hidden) for k, v in args.inputs.items() if k != "__provider"}
        self.resources.append(Registered(args.typ, args.name, inputs, frozenset(hidden)))
        outputs = dict(args.inputs)
        if "length" in inputs and "alphabet" in inputs:
            outputs["value"] = (args.name.replace("-", "") * 40)[: int(inputs["length"])]
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"no invoke is expected: {args.token}")

    def of(self, kind: str) -> list[Registered]:
        return [r for r in self.resources if r.kind == kind]

    def one(self, kind: str, name: str, namespace: str | None = None) -> Registered:
        found = [
            r
            for r in self.of(kind)
            if r.object_name == name and (namespace is None or r.namespace == namespace)
        ]
        assert len(found) == 1, f"{kind} {name}: {[(r.kind, r.object_name) for r in self.resources]}"
        return found[0]


@pytest.fixture(scope="session")
def roll_out() -> Callable[..., Recorder]:
    """Run a program under mocks with a configuration (section → object); gives what it registered."""

    def run(
        program: Callable[[], Any], *, stack: str = "test", project: str = PROJECT, **config: Any
    ) -> Recorder:
        recorder = Recorder()
        mocks.set_mocks(recorder, project=project, stack=stack, preview=False)
        values = {
            f"{project}:{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in config.items()
        }
        pulumi.runtime.set_all_config(values)

        @pulumi.runtime.test
        def whole() -> Any:
            program()

        whole()
        return recorder

    return run
