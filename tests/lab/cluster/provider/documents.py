"""The engine's property values as plain documents and back, with what is secret kept secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime import rpc

Properties = dict[str, PropertyValue]
UNKNOWN = rpc.UNKNOWN
# how the provider remembers, inside a resource's outputs, what it was given
INPUTS = "__inputs"


def plain(value: PropertyValue | None) -> Any:
    """The document behind a property value; whole numbers as integers, as Kubernetes wants them."""
    inner = None if value is None else value.value
    if isinstance(inner, Mapping):
        return {key: plain(item) for key, item in inner.items()}
    if isinstance(inner, tuple):
        return [plain(item) for item in inner]
    if isinstance(inner, float) and inner.is_integer():
        return int(inner)
    return inner


def document(properties: Mapping[str, PropertyValue]) -> dict[str, Any]:
    return {key: plain(value) for key, value in properties.items()}


def wrapped(value: Any, like: PropertyValue | None = None, *, secret: bool = False) -> PropertyValue:
    """A document as a property value: secret where `like` is, or all of it."""
    secret = secret or (like is not None and like.is_secret)
    inner = like.value if like is not None else None
    if isinstance(value, Mapping):
        below = inner if isinstance(inner, Mapping) else {}
        made = {key: wrapped(item, below.get(key)) for key, item in value.items()}
        return PropertyValue(made, is_secret=secret)
    if isinstance(value, list | tuple):
        items = inner if isinstance(inner, tuple) else ()
        listed = [wrapped(item, items[i] if i < len(items) else None) for i, item in enumerate(value)]
        return PropertyValue(listed, is_secret=secret)
    if isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    return PropertyValue(value, is_secret=secret)


def properties(value: Mapping[str, Any], like: Mapping[str, PropertyValue]) -> Properties:
    return {key: wrapped(item, like.get(key)) for key, item in value.items()}


def has_unknown(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(has_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(has_unknown(item) for item in value)
    return bool(value == UNKNOWN)


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where two documents differ: property path and `add`, `delete` or `update`. Null counts as absent."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _between(old.get(key), new.get(key), f"{path}{_step(key, first=not path)}")
    elif isinstance(old, list) and isinstance(new, list):
        for index, (one, other) in enumerate(zip_longest(old, new)):
            yield from _between(one, other, f"{path}[{index}]")
    elif old != new:
        yield path, "update"


def _between(old: Any, new: Any, path: str) -> Iterator[tuple[str, str]]:
    if old is None and new is None:
        return
    if old is None:
        yield path, "add"
    elif new is None:
        yield path, "delete"
    else:
        yield from differences(old, new, path)


def _step(key: str, *, first: bool) -> str:
    if key.replace("_", "").replace("-", "").isalnum():
        return key if first else f".{key}"
    return f'["{key}"]'


def without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
