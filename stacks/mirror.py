"""What a site without internet needs: the charts and images of a stack, and where the stack looks for them.

The program runs twice under Pulumi's mocks, with and without a mirror, and so do the charts' templates. An
image found at one place of both is what to copy, and what the stack will ask the mirror for.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks

from stacks.components.base import PROJECT, without_registry
from stacks.versions import CHARTS, IMAGES

SECRET_SIGNATURE = "4dabf18193072939515e22adb298388d"  # noqa: S105 - how Pulumi marks a secret on the wire
RELEASE = "kubernetes:helm.sh/v3:Release"
IMAGE_KEYS = ("image", "imageName")
WITH_REGISTRY = re.compile(
    r"^(?:--?[\w-]+=)?(?P<image>(?:(?:[a-z0-9-]+\.)+[a-z0-9]+|localhost)(?::\d+)?/[a-z0-9._/-]+"
    r"(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?)$"
)
NAMED = re.compile(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Release:
    """A Helm release as the stack registers it."""

    name: str
    namespace: str
    chart: str
    version: str
    repository: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Copy:
    """Something to copy; both ends without a scheme: `quay.io/a/b:1` → `mirror.example/a/b:1`."""

    source: str
    target: str


@dataclass(frozen=True)
class Images:
    """What to copy, and what the stack takes from elsewhere although it has a mirror."""

    copies: Sequence[Copy]
    strays: Sequence[str] = ()


@dataclass
class _Recorder(mocks.Mocks):
    seen: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        inputs = _opened(args.inputs)
        self.seen.append((args.typ, args.name, inputs))
        made = {"value": "x" * int(inputs["length"])} if "length" in inputs else {}
        return f"{args.name}-id", {**args.inputs, **made}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise RuntimeError(f"the stack asks its provider ({args.token}), which needs a cluster")


Objects = Sequence[tuple[str, str, Mapping[str, Any]]]
Render = Callable[[Release], Sequence[Mapping[str, Any]]]


def registered(config: Mapping[str, Any], *, program: Path) -> Objects:
    """Type, name and inputs of all that a program registers with a configuration (section → object).

    Raises pulumi.RunError when the configuration is refused.
    """
    recorder = _Recorder()
    mocks.set_mocks(recorder, project=PROJECT, stack="mirror", preview=False)
    pulumi.runtime.set_all_config({f"{PROJECT}:{key}": json.dumps(value) for key, value in config.items()})

    def run() -> None:
        runpy.run_path(str(program), run_name="__main__")

    whole = pulumi.runtime.test(run)  # type: ignore[no-untyped-call]  # waits for all that is registered
    whole()
    return recorder.seen


def mirrored(config: Mapping[str, Any], registry: str | None) -> dict[str, Any]:
    """The configuration of the same stack with its images from `registry`, or with none from a mirror."""
    cluster = {k: v for k, v in config.get("cluster", {}).items() if k not in ("charts", "images")}
    return {**config, "cluster": {**cluster, "images": registry} if registry else cluster}


def releases(objects: Objects) -> list[Release]:
    """The releases among what a program registers, in its order."""
    return [_release(inputs) for kind, _, inputs in objects if kind == RELEASE]


def left_out(found: Sequence[Release]) -> list[Release]:
    """The pinned charts that are not among `found`, with their own default values."""
    there = {release.chart for release in found}
    return [
        Release(pin.name, "default", pin.name, pin.version, pin.repository, {})
        for pin in CHARTS
        if pin.name not in there
    ]


def images(
    plain: Objects, moved: Objects, registry: str, render: Render, more: Sequence[Release] = ()
) -> Images:
    """Pairs what the program and its charts name without a mirror (`plain`) with what they name with it.

    Those of `more` releases, which the stack does not have, are put where their names lead.
    """
    sources, targets = _places(plain, render), _places(moved, render)
    strays = {
        target
        for place, target in targets.items()
        if place not in sources or not target.startswith(f"{registry}/")
    }
    copies = {targets.get(place) or _moved(source, registry): source for place, source in sources.items()}
    others = (name for release in more for name in _rendered(release, render).values())
    for name in (*(pin.reference for pin in IMAGES), *others):
        copies.setdefault(_moved(name, registry), name)
    found = [Copy(source, target) for target, source in sorted(copies.items()) if target not in strays]
    return Images(found, sorted(strays))


def _moved(source: str, registry: str) -> str:
    return f"{registry}/{without_registry(source)}"


def images_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and name of every image named below `value`."""
    if isinstance(value, Mapping):
        composed = _composed(value)
        if composed:
            yield path, composed
        for key, inner in value.items():
            if isinstance(inner, str) and key in IMAGE_KEYS and not composed and inner:
                yield f"{path}.{key}", inner
            else:
                yield from images_in(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from images_in(inner, f"{path}[{number}]")
    elif isinstance(value, str):
        found = WITH_REGISTRY.fullmatch(value)
        if found and NAMED.search(found["image"]):
            yield path, found["image"]


def _composed(value: Mapping[str, Any]) -> str | None:
    """As operators' own objects have it: registry folder, name and version as three texts."""
    parts = [value.get(key) for key in ("repository", "image", "version")]
    if all(isinstance(part, str) and part for part in parts):
        separator = "@" if str(parts[2]).startswith("sha256:") else ":"
        return f"{parts[0]}/{parts[1]}{separator}{parts[2]}"
    return None


def _places(objects: Objects, render: Render) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind, name, inputs in objects:
        if kind == RELEASE:
            found |= _rendered(_release(inputs), render)
        else:
            found |= images_in(inputs, f"{kind}/{name}")
    return found


def _rendered(release: Release, render: Render) -> dict[str, str]:
    found: dict[str, str] = {}
    for document in render(release):
        there = f"{release.name}/{document.get('kind')}/{document.get('metadata', {}).get('name')}"
        found |= images_in(document, there)
    return found


def _release(inputs: Mapping[str, Any]) -> Release:
    chart = str(inputs["chart"])
    repository = str(inputs.get("repositoryOpts", {}).get("repo", ""))
    if chart.startswith("oci://"):
        repository, _, chart = chart.rpartition("/")
    return Release(
        name=str(inputs["name"]),
        namespace=str(inputs.get("namespace", "default")),
        chart=chart,
        version=str(inputs["version"]),
        repository=repository,
        values=inputs.get("values", {}),
    )


def _opened(value: Any) -> Any:
    """Without the marks of secrets."""
    if isinstance(value, Mapping):
        if SECRET_SIGNATURE in value:
            return _opened(value["value"])
        return {key: _opened(inner) for key, inner in value.items() if key != "__provider"}
    if isinstance(value, list | tuple):
        return [_opened(inner) for inner in value]
    return value
