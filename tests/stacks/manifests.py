"""Objects that a program registered, held to the schemas of those who read them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.stacks.conftest import Registered

VERSION = kubernetes_validate.latest_version()
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def manifest(resource: Registered) -> dict[str, Any]:
    """The object as the API server would get it."""
    return {key: value for key, value in resource.inputs.items() if value is not None}


def faults(resource: Registered, definitions: dict[tuple[str, str], Any]) -> list[str]:
    """What is wrong with it, each with its path; unknown fields are wrong."""
    found = manifest(resource)
    schema = definitions.get((found["apiVersion"], found["kind"]))
    if schema is None:
        try:
            kubernetes_validate.validate(found, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [
                f"{found['kind']} {resource.object_name}: {'.'.join(map(str, error.path))}: {error.message}"
            ]
        return []
    own = {key: value for key, value in found.items() if key not in ("apiVersion", "kind", "metadata")}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(own)
    return [f"{found['kind']} {resource.object_name}: {error.json_path}: {error.message}" for error in errors]


def definitions(contracts: Path, *names: str) -> dict[tuple[str, str], Any]:
    """(apiVersion, kind) → strict schema, from custom resource definitions."""
    found = {}
    for name in names:
        for definition in json.loads((contracts / "crds" / f"{name}.json").read_text()):
            spec = definition["spec"]
            for version in spec["versions"]:
                schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
                for key in ("apiVersion", "kind", "metadata"):
                    schema["properties"].pop(key, None)
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                found[key] = _strict(schema)
    return found


def _strict(schema: Any) -> Any:
    """As the API server reads it: an object takes the properties that are named and no others."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    closed = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    if closed and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made
