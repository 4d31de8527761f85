"""What a rule looks at: a resource's type, name, inputs and options, without the engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulumi_policy.proxy import UnknownValueError

KUBERNETES = "kubernetes:"
RELEASE = "kubernetes:helm.sh/v3:Release"
CHARTS = (RELEASE, "kubernetes:helm.sh/v3:Chart", "kubernetes:helm.sh/v4:Chart")
PLAIN_KEY = re.compile(r"^[\w-]+$")


class Unknown:
    """A value that only the update will know."""

    def __repr__(self) -> str:
        return "a value not known yet"


UNKNOWN = Unknown()


class Sealed(str):
    """Text that the engine keeps encrypted: the program marked it as a secret."""

    __slots__ = ()


@dataclass(frozen=True)
class Subject:
    """One resource. `type` is Pulumi's token, `component` the type of the component that registers it."""

    type: str
    name: str
    props: Mapping[str, Any]
    protect: bool = False
    urn: str = ""

    @property
    def kind(self) -> str:
        """`Deployment`, also of a `DeploymentPatch`."""
        return self.type.rsplit(":", 1)[-1].removesuffix("Patch")

    @property
    def is_patch(self) -> bool:
        """Changes some fields of an object that something else owns; what it leaves out is there already."""
        return self.type.endswith("Patch")

    @property
    def group(self) -> str:
        """The API group: `apps` of `kubernetes:apps/v1:Deployment`; empty for other providers."""
        return self.type.removeprefix(KUBERNETES).partition("/")[0] if self.in_cluster else ""

    @property
    def in_cluster(self) -> bool:
        return self.type.startswith(KUBERNETES)

    @property
    def is_chart(self) -> bool:
        return self.type in CHARTS

    @property
    def component(self) -> str:
        """`ironyard:platform:Storage` of a child of that component; empty at the top."""
        _, _, qualified, *_ = [*self.urn.split("::"), "", ""]
        parents = qualified.split("$")[:-1]
        return next((one for one in reversed(parents) if one.startswith("ironyard:")), "")

    @property
    def namespace(self) -> str:
        """Where it is; empty when cluster-wide, not in the cluster, or not known yet."""
        found = self.props.get("namespace") if self.is_chart else at(self.props, "metadata", "namespace")
        return found if isinstance(found, str) else ""

    @property
    def chart(self) -> str:
        """The chart's own name, whichever repository it comes from."""
        given = self.props.get("chart")
        return given.rstrip("/").rsplit("/", 1)[-1] if isinstance(given, str) else ""


@dataclass(frozen=True)
class Fault:
    """What is wrong, at which path of the inputs, and what to do about it."""

    path: str
    what: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.what}. {self.remedy}."


@dataclass(frozen=True)
class Whole:
    """Every resource of a stack."""

    subjects: Sequence[Subject] = field(default_factory=tuple)

    def of_kind(self, *kinds: str) -> Iterator[Subject]:
        return (one for one in self.subjects if one.in_cluster and one.kind in kinds)


Config = Mapping[str, Any]
Rule = Callable[[Subject, Config], Iterator[Fault]]
StackRule = Callable[[Whole, Config], Iterator[tuple[Subject, Fault]]]


def known(value: Any) -> Any:
    """`value` as plain lists and dictionaries; what is not known yet is UNKNOWN."""
    if isinstance(value, Mapping):
        return {key: known(_read(value, key)) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [known(_read(value, number)) for number in range(len(value))]
    return value


def _read(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except UnknownValueError:
        return UNKNOWN


def at(value: Any, *keys: str) -> Any:
    """The value below nested keys; None where one is missing, UNKNOWN where one is not known yet."""
    for key in keys:
        if not isinstance(value, Mapping):
            return UNKNOWN if value is UNKNOWN else None
        value = value.get(key)
    return value


def entries(value: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """The mappings in a list, with their positions."""
    if not isinstance(value, list):
        return []
    return [(number, one) for number, one in enumerate(value) if isinstance(one, Mapping)]


def walk(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Path, key and value of everything below `value`, outermost first. List items have an empty key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = join(path, str(key))
            yield here, str(key), inner
            yield from walk(inner, here)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            here = f"{path}[{number}]"
            yield here, "", inner
            yield from walk(inner, here)


def join(path: str, key: str) -> str:
    """`spec` and `a.b/c` → `spec["a.b/c"]`"""
    if PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f'{path}["{key}"]'
