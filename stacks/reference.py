"""The reference page of the platform's configuration, made from its types: `python -m stacks.reference`."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stacks.components.base import PROJECT, Component, section_types
from stacks.settings import NAMED_PATTERNS

HEAD = f"""# Configuration of the platform

Every key of `{PROJECT}`, with its type, default and meaning. `ironyard platform config` prints this
page; a wrong value is refused with its path before anything changes. Set a key with
`pulumi config set --path {PROJECT}:storage.size 500Gi`, a secret with `--secret` as well.
"""


def page() -> str:
    """The whole page as Markdown."""
    needs = {name: component.needs for name, component in Component.known.items()}
    return HEAD + "".join(
        section(name, model, needs.get(name, ())) for name, model in section_types().items()
    )


def section(name: str, model: type[BaseModel], needs: tuple[str, ...] = ()) -> str:
    """One section of a stack's configuration: what it is for, and a row for each key."""
    rows = "\n".join(
        f"| `{path}` | {kind} | {default} | {meaning} |" for path, kind, default, meaning in _rows(model)
    )
    note = f" Needs {', '.join(f'[{n}](#{n})' for n in needs)}." if needs else ""
    words = " ".join((model.__doc__ or "").split())
    return f"\n## {name}\n\n{words}{note}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _rows(
    model: type[BaseModel], above: str = "", given: BaseModel | None = None
) -> Iterator[tuple[str, str, str, str]]:
    """A row for each key; `given` is the value that an outer model has by default."""
    for name, field in model.model_fields.items():
        path = f"{above}{name}"
        value = getattr(given, name) if given is not None else field.get_default(call_default_factory=True)
        default = "needed" if given is None and field.is_required() else _default(value)
        inner = _model_in(field.annotation)
        if inner is None:
            yield path, _kind(field.annotation, field), default, _meaning(field, None, name)
            continue
        if not isinstance(field.annotation, type):
            kind = "list of objects" if _is_list(field.annotation) else "object or absent"
            yield path, kind, default, _meaning(field, inner, name)
        deeper = value if isinstance(value, BaseModel) else None
        yield from _rows(inner, f"{path}[]." if _is_list(field.annotation) else f"{path}.", deeper)


COMMON = {
    "mode": "which one is rolled out; `external` uses one that exists, `off` leaves it out",
    "cpu": "requested, in cores",
    "memory": "requested",
    "cpu_limit": "absent: what is requested",
    "memory_limit": "absent: what is requested",
}


def _meaning(field: FieldInfo, inner: type[BaseModel] | None, name: str) -> str:
    words = field.description or (inner.__doc__ if inner else None) or COMMON.get(name, "")
    return " ".join(words.split()).replace("|", "\\|")


def _is_list(annotation: Any) -> bool:
    return any(get_origin(part) in (list, tuple) for part in (annotation, *get_args(annotation)))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        model: type[BaseModel] = annotation
        return model
    found = (_model_in(part) for part in get_args(annotation) if part is not annotation)
    return next((model for model in found if model is not None), None)


def _kind(annotation: Any, field: FieldInfo) -> str:
    for item in field.metadata:
        if pattern := getattr(item, "pattern", None):
            return NAMED_PATTERNS.get(str(pattern), f"text of the form `{_cell(str(pattern))}`")
    bounds = [
        f"{sign} {getattr(item, key)}"
        for item in field.metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(item, key, None) is not None
    ]
    return " ".join([_type(annotation), *([f"({', '.join(bounds)})"] if bounds else [])])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        pattern = next((str(item.pattern) for item in arguments[1:] if getattr(item, "pattern", None)), "")
        return NAMED_PATTERNS.get(pattern) or _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join("absent" if part is type(None) else _type(part) for part in arguments)
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    plain = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        SecretStr: "secret text",
    }
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined:
        return "absent"
    if isinstance(value, BaseModel):
        return "as below"
    return f"`{_cell(json.dumps(value, default=list, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
