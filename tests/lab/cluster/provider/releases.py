"""Helm releases: installed and upgraded by the helm program, read from the cluster."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from tests.lab.cluster.provider.api import Api
from tests.lab.cluster.provider.documents import UNKNOWN, has_unknown, without_nulls
from tests.lab.cluster.provider.errors import Failure, NotReady
from tests.lab.cluster.provider.objects import autoname

TOKEN = "kubernetes:helm.sh/v3:Release"
DEFAULT_SECONDS = 300
FLAGS = {
    "atomic": "--atomic",
    "cleanupOnFail": "--cleanup-on-fail",
    "createNamespace": "--create-namespace",
    "dependencyUpdate": "--dependency-update",
    "devel": "--devel",
    "disableOpenapiValidation": "--disable-openapi-validation",
    "disableWebhooks": "--no-hooks",
    "forceUpdate": "--force",
    "renderSubchartNotes": "--render-subchart-notes",
    "resetValues": "--reset-values",
    "reuseValues": "--reuse-values",
    "skipCrds": "--skip-crds",
    "waitForJobs": "--wait-for-jobs",
}
REPOSITORY = {"repo": "--repo", "username": "--username", "password": "--password"}
ONLY_THE_REAL_ONE = ("keyring", "postrender", "valueYamlFiles", "verify")
UNFINISHED = ("pending-install", "pending-upgrade", "pending-rollback")


@dataclass
class Releases:
    api: Api
    namespace: str | None
    cancelled: threading.Event = field(default_factory=threading.Event)
    running: set[subprocess.Popen[str]] = field(default_factory=set)

    def check(self, urn: str, old: dict[str, Any], new: dict[str, Any], seed: bytes) -> dict[str, Any]:
        """The inputs with name and namespace filled in. Raises Failure for what only the real one does."""
        if wanted := [key for key in ONLY_THE_REAL_ONE if new.get(key)]:
            raise Failure(f"A release's {', '.join(wanted)} needs the real Kubernetes provider.")
        name = new.get("name") or old.get("name") or autoname(urn, urn.rpartition("::")[2], seed)
        return {**new, "name": name, "namespace": new.get("namespace") or self.namespace or "default"}

    @staticmethod
    def replaces(paths: list[str]) -> list[str]:
        return [path for path in paths if path in {"name", "namespace"}]

    def write(self, inputs: dict[str, Any], *, preview: bool, seconds: float) -> tuple[str, dict[str, Any]]:
        """The release's identity and its state after. Raises NotReady when Helm installs it but it fails."""
        identity = f"{inputs['namespace']}/{inputs['name']}"
        if preview:
            return (UNKNOWN if has_unknown(identity) else identity), {**inputs, "status": UNKNOWN}
        self._tidy(inputs)
        try:
            self._upgrade(inputs, seconds)
        except Failure as failure:
            left = self._stored(inputs)
            if left is None:
                raise
            raise NotReady(str(failure), identity, {**inputs, "status": status(left)}) from failure
        stored = self._stored(inputs)
        if stored is None:
            raise Failure(f"The release {identity} was installed, yet the cluster does not know it.")
        return identity, {**inputs, "status": status(stored)}

    def _upgrade(self, inputs: dict[str, Any], seconds: float) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=self.api.folder) as values:
            keep_nulls = inputs.get("allowNullValues")
            given = inputs.get("values") or {}
            json.dump(given if keep_nulls else without_nulls(given), values)
            values.flush()
            limit = int(inputs.get("timeout") or seconds or DEFAULT_SECONDS)
            options = ["--install", f"--values={values.name}", f"--timeout={limit}s", *self._options(inputs)]
            self._helm("upgrade", inputs["name"], inputs["chart"], *options, release=inputs)

    def _options(self, inputs: dict[str, Any]) -> list[str]:
        made = [flag for key, flag in FLAGS.items() if inputs.get(key)]
        if not inputs.get("skipAwait"):
            made.append("--wait")
        if inputs.get("version"):
            made.append(f"--version={inputs['version']}")
        if inputs.get("maxHistory") is not None:
            made.append(f"--history-max={inputs['maxHistory']}")
        for key, value in (inputs.get("repositoryOpts") or {}).items():
            if key not in REPOSITORY:
                raise Failure(f"A release's repositoryOpts.{key} needs the real Kubernetes provider.")
            made.append(f"{REPOSITORY[key]}={value}")
        if inputs["chart"].startswith("oci://") and _is_loopback(inputs["chart"]):
            made.append("--plain-http")
        return made

    def _tidy(self, inputs: dict[str, Any]) -> None:
        """A release whose Helm was killed: Helm itself would refuse to touch it."""
        stored = self._stored(inputs)
        if stored is None or stored["info"]["status"] not in UNFINISHED:
            return
        if stored["version"] == 1:
            self._helm("uninstall", inputs["name"], "--wait", release=inputs)
        else:
            self._helm("rollback", inputs["name"], "--wait", release=inputs)

    def read(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """State and inputs as the cluster has them; None when the release is gone."""
        stored = self._stored(inputs)
        if stored is None:
            return None
        found = dict(inputs)
        chart = stored["chart"]["metadata"]
        if inputs.get("version") and inputs["version"] != chart["version"]:
            found["version"] = chart["version"]
        values = stored.get("config") or {}
        if without_nulls(inputs.get("values") or {}) != without_nulls(values):
            found["values"] = values
        return {**found, "status": status(stored)}, found

    def delete(self, inputs: dict[str, Any], seconds: float) -> None:
        """Absent is success."""
        if self._stored(inputs) is None:
            return
        limit = int(inputs.get("timeout") or seconds or DEFAULT_SECONDS)
        options = ["--wait", "--ignore-not-found", f"--timeout={limit}s"]
        self._helm("uninstall", inputs["name"], *options, release=inputs)

    def _stored(self, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """Helm's own record of the newest revision."""
        chosen = quote(f"owner=helm,name={inputs['name']}")
        found = self.api.get(f"/api/v1/namespaces/{inputs['namespace']}/secrets?labelSelector={chosen}")
        items = (found or {}).get("items") or []
        if not items:
            return None
        newest = max(items, key=lambda item: int(item["metadata"]["labels"]["version"]))
        packed = base64.b64decode(base64.b64decode(newest["data"]["release"]))
        release: dict[str, Any] = json.loads(gzip.decompress(packed))
        return release

    def _helm(self, *arguments: str, release: dict[str, Any]) -> None:
        argv = ["helm", *arguments, f"--namespace={release['namespace']}"]
        if self.api.context:
            argv.append(f"--kube-context={self.api.context}")
        try:
            program = subprocess.Popen(
                argv,
                env=self.api.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError as error:
            raise Failure("helm is not on PATH.") from error
        self.running.add(program)
        said = program.communicate()[1]
        self.running.discard(program)
        if program.returncode:
            raise Failure(_worded(release, said))

    def stop(self) -> None:
        """End Helm where it runs: it marks its release as failed, and the next run goes on from there."""
        self.cancelled.set()
        for program in list(self.running):
            program.terminate()


def status(stored: dict[str, Any]) -> dict[str, Any]:
    """What a release's `status` output holds."""
    chart = stored["chart"]["metadata"]
    return {
        "appVersion": chart.get("appVersion", ""),
        "chart": chart["name"],
        "name": stored["name"],
        "namespace": stored["namespace"],
        "revision": stored["version"],
        "status": stored["info"]["status"],
        "version": chart["version"],
    }


def _is_loopback(chart: str) -> bool:
    return urlsplit(chart).hostname in {"127.0.0.1", "localhost", "::1"}


def _worded(release: dict[str, Any], said: str) -> str:
    identity = f"{release['namespace']}/{release['name']}"
    words = " ".join(line for line in said.strip().splitlines() if not line.startswith("WARNING"))
    words = words.removeprefix("Error: ")
    if "connection refused" in words or "no such host" in words:
        chart = f"{release['chart']} {release.get('version') or ''}".strip()
        return f"Release {identity}: the registry of {chart} cannot be reached: {words}"
    return f"Release {identity}: {words}"
