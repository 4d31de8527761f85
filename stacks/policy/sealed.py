"""Keeps, for the rules, which inputs are secrets.

The engine tells a policy pack which inputs are secrets, but the SDK drops the marks before it calls a
rule. `keep_marks` reads the engine's message in the SDK's stead and leaves marked text as `Sealed`.
"""

from __future__ import annotations

from typing import Any

import pulumi_policy.policy as sdk
from pulumi_policy.deserialize import SPECIAL_SECRET_SIG, SPECIAL_SIG_KEY, deserialize_properties
from pulumi_policy.proxy import _is_unknown

from stacks.policy.subject import Sealed


def keep_marks() -> None:
    """Call once, before the policy pack starts."""
    vars(sdk)["deserialize_properties"] = read


def read(props: dict[str, Any], proxy_secrets: bool = False) -> dict[str, Any]:
    """The SDK's `deserialize_properties`, but for text within secrets."""
    if proxy_secrets:
        return deserialize_properties(props, proxy_secrets)
    return {key: _value(value) for key, value in props.items()}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get(SPECIAL_SIG_KEY) == SPECIAL_SECRET_SIG:
        return _seal(_value(value["value"]))
    if SPECIAL_SIG_KEY in value:  # assets and archives
        return deserialize_properties({"it": value})["it"]
    return read(value)


def _seal(value: Any) -> Any:
    if isinstance(value, str):
        return value if _is_unknown(value) else Sealed(value)
    if isinstance(value, list):
        return [_seal(item) for item in value]
    if isinstance(value, dict):
        return {key: _seal(item) for key, item in value.items()}
    return value
