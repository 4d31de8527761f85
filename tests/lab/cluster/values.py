"""Chart values held against the real chart: its default values and, where it has one, its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

# maps of Kubernetes' own types: what they may hold is Kubernetes' business, whatever the default holds
OPEN_ENDINGS = (
    "affinity",
    "annotations",
    "config",
    "labels",
    "matchlabels",
    "nodeselector",
    "resources",
    "securitycontext",
    "selector",
)
# values that a chart reads though its defaults have them in a comment only
COMMENTED = {
    "gpu-operator": {"dcgmExporter.config"},
    "harbor": {f"{part}.resources" for part in ("core", "exporter", "jobservice", "nginx", "portal")}
    | {f"{part}.resources" for part in ("database.internal", "redis.internal")}
    | {f"registry.{part}.resources" for part in ("registry", "controller")}
    | {f"persistence.imageChartStorage.s3.{key}" for key in ("existingSecret", "regionendpoint")},
}


def contract(chart: str, contracts: Path) -> dict[str, Any] | None:
    """What is recorded of a chart: chart, version, appVersion, dependencies, values, maybe schema."""
    path = contracts / "charts" / f"{chart}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def check_values(chart: str, values: Mapping[str, Any], contracts: Path) -> list[str]:
    """The faults of `values`, each with its path; empty where there are none.

    A chart that nothing is recorded of has no faults.
    """
    known = contract(chart, contracts)
    if known is None:
        return []
    own, parts = _split(known, values, contracts)
    schema = known.get("schema")
    faults = list(_unknown(own, known["values"], _Schema(schema), chart))
    if schema is not None:
        faults += _refused(schema, merged(known["values"], own), chart)
    for name, (part, given) in parts.items():
        defaults = merged(part["values"], known["values"].get(name) or {})
        faults += _unknown(given, defaults, _Schema(part.get("schema")), f"{chart}.{name}")
    return faults


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm lays them over defaults: maps key by key, null removes, all else replaces."""
    result = dict(under)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _split(
    known: Mapping[str, Any], values: Mapping[str, Any], contracts: Path
) -> tuple[dict[str, Any], dict[str, tuple[dict[str, Any], Mapping[str, Any]]]]:
    """A chart's own values, and those of its dependencies of which something is recorded."""
    own, parts = dict(values), {}
    for dependency in known["dependencies"]:
        name = dependency.get("alias") or dependency["name"]
        if dependency["version"].startswith("0.0") or name not in own:
            continue  # a folder of the chart itself: its values are among the chart's
        given = own.pop(name)
        if (part := contract(dependency["name"], contracts)) is not None:
            parts[name] = (part, given)
    return own, parts


class _Schema:
    """Which keys a schema names, however little of it there is."""

    def __init__(self, schema: Any, root: Any = None) -> None:
        self.root = root if root is not None else schema
        self.here = self._resolved(schema)

    def _resolved(self, schema: Any) -> dict[str, Any]:
        while isinstance(schema, dict) and "$ref" in schema:
            found: Any = self.root
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found.get(part, {})
            schema = found
        return schema if isinstance(schema, dict) else {}

    def names(self, key: str) -> bool:
        return key in self.here.get("properties", {})

    def below(self, key: str) -> _Schema:
        return _Schema(self.here.get("properties", {}).get(key), self.root)


def _unknown(
    given: Mapping[str, Any], defaults: Mapping[str, Any], schema: _Schema, path: str
) -> Iterator[str]:
    for key, value in given.items():
        if key in defaults:
            yield from _misplaced(key, value, defaults[key], schema, f"{path}.{key}")
        elif not schema.names(key) and not _commented(f"{path}.{key}"):
            yield f"{path}.{key}: the chart has no such value"


def _commented(path: str) -> bool:
    chart, _, rest = path.partition(".")
    return rest in COMMENTED.get(chart, ())


def _misplaced(key: str, value: Any, default: Any, schema: _Schema, path: str) -> Iterator[str]:
    match default, value:
        case _, None:
            return
        case Mapping(), Mapping() if default and not key.lower().endswith(OPEN_ENDINGS):
            yield from _unknown(value, default, schema.below(key), path)
        case Mapping(), str() | bool() | int() | float() | list():
            yield f"{path}: the chart has a map here, not {value!r}"
        case list(), Mapping() | str() | bool() | int() | float():
            yield f"{path}: the chart has a list here, not {value!r}"
        case bool() | int() | float(), Mapping() | list():
            yield f"{path}: the chart has {default!r} here, not a {type(value).__name__}"
        case str(), Mapping() | list() if default:
            yield f"{path}: the chart has text here, not a {type(value).__name__}"


def _refused(schema: Any, values: Mapping[str, Any], chart: str) -> list[str]:
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft7Validator)(schema)
    return [
        f"{'.'.join([chart, *(str(part) for part in error.absolute_path)])}: {error.message[:300]}"
        for error in validator.iter_errors(values)
    ]
