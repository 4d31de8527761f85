"""Typed settings of a stack: read whole, checked whole, refused with the path and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")]
Hostname = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$"),
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
HttpAddress = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+(/\S*)?$")]


class Frozen(BaseModel):
    """Settings cannot change once read, and a key that nobody reads is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConfigurationError(Exception):
    """What is wrong with a stack's configuration, one line a fault: path, fault, what is allowed."""

    def __init__(self, project: str, faults: list[str]) -> None:
        self.faults = faults
        count = "1 value is" if len(faults) == 1 else f"{len(faults)} values are"
        super().__init__(
            f"The configuration of {project} is refused, nothing was changed: {count} wrong.\n"
            + "\n".join(f"  {fault}" for fault in faults)
        )


def check(project: str, sections: Mapping[str, type[Frozen]], given: Mapping[str, Any]) -> dict[str, Frozen]:
    """Every section of `given` as its model; absent ones with their defaults.

    Raises ConfigurationError naming every fault of every section.
    """
    faults = [
        f"{project}:{name}: there is no such section{_nearest(name, sections)}"
        for name in sorted(given)
        if name not in sections
    ]
    checked: dict[str, Frozen] = {}
    for name, model in sections.items():
        try:
            checked[name] = model.model_validate(given.get(name, {}))
        except ValidationError as refused:
            faults += [
                _fault(f"{project}:{name}", model, error)
                for error in refused.errors(include_url=False, include_context=True)
            ]
    if faults:
        raise ConfigurationError(project, faults)
    return checked


def _fault(root: str, model: type[BaseModel], error: ErrorDetails) -> str:
    path = ".".join([root, *(str(part) for part in error["loc"])])
    match error["type"]:
        case "extra_forbidden":
            known = _keys(model, error["loc"][:-1])
            return f"{path}: there is no such key{_nearest(str(error['loc'][-1]), known)}"
        case "missing":
            return f"{path}: a value is needed"
        case "string_pattern_mismatch":
            pattern = error.get("ctx", {}).get("pattern", "")
            return f"{path}: {_shown(error)} is not {_wanted(pattern)}"
        case "value_error":
            return f"{path}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            allowed = error["msg"].replace("Input should be", "it should be")
            return f"{path}: {allowed} (given: {_shown(error)})"


def _shown(error: ErrorDetails) -> str:
    words = ("secret", "password", "token", "key", "credentials")
    secretive = any(word in str(part).lower() for part in error["loc"] for word in words)
    return "a secret" if secretive else repr(error["input"])


def _wanted(pattern: str) -> str:
    for kind, words in NAMED_PATTERNS.items():
        if pattern == kind:
            return words
    return f"of the form {pattern}"


def _pattern(alias: Any) -> str:
    constraints = alias.__metadata__[0]
    return str(constraints.pattern)


NAMED_PATTERNS = {
    _pattern(Quantity): "a Kubernetes quantity (500m, 2, 512Mi, 20Gi)",
    _pattern(Hostname): "a host name (lower case letters, digits, hyphens and dots)",
    _pattern(Name): "a Kubernetes name (lower case letters, digits and hyphens, 63 at most)",
    _pattern(HttpAddress): "an address that begins with http:// or https://",
}


def _keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        inner = getattr(field, "annotation", None)
        candidates = [inner, *getattr(inner, "__args__", ())]
        nested = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if nested is None:
            return []
        model = nested
    return list(model.model_fields)


def _nearest(word: str, known: Any) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{hint} (known: {', '.join(names)})" if names else ""
