"""The programs that carry charts and images from one registry to another."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from api.cli.exits import Failure

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
APIS = (  # what charts ask for before they render objects of other operators
    "monitoring.coreos.com/v1",
    "cert-manager.io/v1",
    "gateway.networking.k8s.io/v1",
    "policy/v1/PodDisruptionBudget",
)


class CopyFailed(Exception):
    """One chart or image could not be fetched or stored; the message is the program's."""


class Carrier(Protocol):
    """Copies images between registries."""

    name: str

    def digest(self, image: str) -> str | None:
        """`sha256:…` of the image's manifest as it is stored; None when it is not there."""

    def copy(self, source: str, target: str) -> None:
        """Raises CopyFailed."""


class Skopeo:
    name = "skopeo"

    def __init__(self, plain: Sequence[str]) -> None:
        self.plain = plain

    def digest(self, image: str) -> str | None:
        tls = [] if not is_plain(image, self.plain) else ["--tls-verify=false"]
        try:
            raw = run("skopeo", "inspect", "--raw", *tls, f"docker://{by_digest(image)}")
        except CopyFailed:
            return None
        return f"sha256:{hashlib.sha256(raw).hexdigest()}"

    def copy(self, source: str, target: str) -> None:
        tls = [
            f"--{end}-tls-verify=false"
            for end, image in (("src", source), ("dest", target))
            if is_plain(image, self.plain)
        ]
        ends = f"docker://{by_digest(source)}", f"docker://{by_tag(target)}"
        run("skopeo", "copy", "--quiet", "--all", "--retry-times=3", *tls, *ends)


class Crane:
    name = "crane"

    def __init__(self, plain: Sequence[str]) -> None:
        self.plain = plain

    def digest(self, image: str) -> str | None:
        try:
            return run("crane", "digest", *self._flags(image), by_digest(image)).decode().strip()
        except CopyFailed:
            return None

    def copy(self, source: str, target: str) -> None:
        run("crane", "copy", *self._flags(source, target), by_digest(source), by_tag(target))

    def _flags(self, *images: str) -> list[str]:
        return ["--insecure"] if any(is_plain(image, self.plain) for image in images) else []


class Docker:
    """Copies the engine's own platform of an image only: its digest is another than the source's."""

    name = "docker"

    def __init__(self, plain: Sequence[str]) -> None:
        self.plain = plain

    def digest(self, image: str) -> str | None:
        insecure = ["--insecure"] if is_plain(image, self.plain) else []
        try:
            raw = run("docker", "manifest", "inspect", *insecure, "--verbose", by_digest(image))
        except CopyFailed:
            return None
        found = json.loads(raw)
        return str(found["Descriptor"]["digest"]) if isinstance(found, dict) else None

    def copy(self, source: str, target: str) -> None:
        run("docker", "pull", "--quiet", by_digest(source))
        run("docker", "tag", by_digest(source), by_tag(target))
        run("docker", "push", "--quiet", by_tag(target))


CARRIERS: dict[str, Callable[[Sequence[str]], Carrier]] = {"skopeo": Skopeo, "crane": Crane, "docker": Docker}


def carrier(plain: Sequence[str]) -> Carrier:
    """The first of CARRIERS on PATH. Raises Failure where there is none."""
    for name, kind in CARRIERS.items():
        if shutil.which(name):
            return kind(plain)
    raise Failure(
        "No program that copies images is on PATH: install skopeo (or crane, or docker); "
        "--list prints what to copy by other means."
    )


class Helm:
    """Charts, kept in `folder` once fetched."""

    def __init__(self, folder: Path, plain: Sequence[str]) -> None:
        if shutil.which("helm") is None:
            raise Failure("helm is not on PATH: install Helm 3 (https://helm.sh/docs/intro/install/).")
        self.folder, self.plain = folder, plain
        folder.mkdir(parents=True, exist_ok=True)

    def pull(self, repository: str, chart: str, version: str) -> Path:
        """The chart's archive. Raises CopyFailed."""
        kept = self.folder / f"{chart}-{version}.tgz"
        if not kept.exists():
            kept.write_bytes(self._pulled(repository, chart, version))
        return kept

    def stored(self, folder: str, chart: str, version: str) -> bytes | None:
        """The archive in an OCI folder; None when it is not there."""
        try:
            return self._pulled(folder, chart, version)
        except CopyFailed:
            return None

    def push(self, archive: Path, folder: str) -> None:
        run("helm", "push", str(archive), folder, *self._flags(folder))

    def template(
        self, archive: Path, name: str, namespace: str, values: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The objects that a release would make. Raises CopyFailed when the chart refuses the values."""
        import yaml

        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            apis = [f"--api-versions={api}" for api in APIS]
            options = ["--namespace", namespace, "--values", file.name, *apis]
            text = run("helm", "template", name, str(archive), *options)
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return [one for one in yaml.load_all(text, Loader=loader) if isinstance(one, dict)]

    def _pulled(self, repository: str, chart: str, version: str) -> bytes:
        oci = repository.startswith("oci://")
        where = [f"{repository}/{chart}"] if oci else [chart, "--repo", repository]
        with tempfile.TemporaryDirectory() as place:
            run("helm", "pull", *where, "--version", version, "-d", place, *self._flags(repository))
            return next(Path(place).glob("*.tgz")).read_bytes()

    def _flags(self, repository: str) -> list[str]:
        plain = repository.startswith("oci://") and is_plain(repository.removeprefix("oci://"), self.plain)
        return ["--plain-http"] if plain else []


def run(*command: str) -> bytes:
    """Standard output. Raises CopyFailed with the last line that the program wrote on standard error."""
    done = subprocess.run(  # noqa: S603 - an argument list
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise CopyFailed(lines[-1] if lines else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def is_plain(reference: str, hosts: Sequence[str]) -> bool:
    """Whether a registry is spoken to without TLS: one that was named so, or one of this machine."""
    host = reference.partition("/")[0]
    return host in hosts or host.rsplit(":", 1)[0] in LOOPBACK


def by_digest(image: str) -> str:
    """`a:1@sha256:…` → `a@sha256:…`; others as they are."""
    name, at, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}@{digest}" if at else image


def by_tag(image: str) -> str:
    """`a:1@sha256:…` → `a:1`; an image with a digest alone as it is."""
    name, at, _ = image.partition("@")
    return name if at and ":" in name.rpartition("/")[2] else image
