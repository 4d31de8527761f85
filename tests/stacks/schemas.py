"""Holds what a program registers against the schemas of Kubernetes and of recorded operators."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.34"
OPERATORS = "kubernetes:apiextensions.k8s.io"


def built_in(document: dict[str, Any]) -> list[str]:
    """The faults of an object of a built-in kind, unknown fields included."""
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as refused:
        return [
            f"{document['kind']} {document['metadata']['name']}: {refused.message} at {list(refused.path)}"
        ]
    return []


@cache
def definitions(contracts: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) → the strict JSON schema of every recorded definition."""
    found = {}
    for place in sorted((contracts / "crds").glob("*.json")):
        for definition in json.loads(place.read_text()):
            spec = definition["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                found[key] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def _strict(schema: Any) -> Any:
    """OpenAPI v3 as JSON schema: unknown fields refused, int-or-string and nullable understood."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if key not in {"format", "default"}}
    if schema.get("x-kubernetes-int-or-string"):
        strict = {"type": ["integer", "string"], **{k: v for k, v in strict.items() if k == "pattern"}}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        strict["additionalProperties"] = False
    return strict


def custom(document: dict[str, Any], contracts: Path) -> list[str]:
    """The faults of an object of an operator's kind."""
    key = (document["apiVersion"], document["kind"])
    schema = definitions(contracts).get(key)
    if schema is None:
        return [f"{key} is in no recorded definition"]
    schema = {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}
    validator = jsonschema.Draft202012Validator(schema)
    name = document["metadata"]["name"]
    return [f"{key[1]} {name}: {_path(error)}: {error.message}" for error in validator.iter_errors(document)]


def _path(error: jsonschema.ValidationError) -> str:
    return ".".join(str(part) for part in error.absolute_path)


def containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from pod.get("initContainers", [])
    yield from pod.get("containers", [])


def pod_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The pod specification inside a workload."""
    spec = document.get("spec", {})
    if document["kind"] == "Pod":
        return dict(spec)
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod = spec.get("template", {}).get("spec") if isinstance(spec, dict) else None
    return dict(pod) if pod else None
