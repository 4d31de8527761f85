"""Kubernetes objects: named, applied, awaited, read and deleted."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.lab.cluster.provider import awaits
from tests.lab.cluster.provider.api import Api
from tests.lab.cluster.provider.documents import UNKNOWN, has_unknown, without_nulls
from tests.lab.cluster.provider.errors import Failure, NoSuchKind, NotReady, Refused
from tests.lab.cluster.provider.replacing import replacing

AUTONAMED = "pulumi.com/autonamed"
FORCE = "pulumi.com/patchForce"
LATE_SECONDS = 10.0
POLL_SECONDS = 0.2
UNSUPPORTED = ("kubernetes:yaml", "kubernetes:helm.sh/v4", "kubernetes:kustomize")
# what the server writes into an object: not part of what anyone wants of it
SERVERS = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")


def autoname(urn: str, name: str, seed: bytes) -> str:
    """`name` with eight hexadecimal digits, as the engine's seed for this resource says."""
    return f"{name}-{hashlib.sha256(urn.encode() + seed).hexdigest()[:8]}"


def type_of(token: str) -> tuple[str, str]:
    """API version and kind of a type token: `kubernetes:apps/v1:Deployment`."""
    _, version, kind = token.split(":")
    group, _, number = version.rpartition("/")
    return (number if group in {"", "core"} else version), kind


@dataclass
class Objects:
    """The objects of one cluster; `namespace` is for those that name none."""

    api: Api
    namespace: str | None
    settings: dict[str, str]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(
        self, token: str, urn: str, old: dict[str, Any], new: dict[str, Any], seed: bytes
    ) -> dict[str, Any]:
        """The inputs with type, name and namespace filled in.

        Raises Failure for what only the real provider does.
        """
        if token.startswith(UNSUPPORTED) or token.endswith("Patch"):
            raise Failure(f"{token} needs the real Kubernetes provider.")
        version, kind = type_of(token)
        metadata = dict(new.get("metadata") or {})
        if not metadata.get("name") and not metadata.get("generateName"):
            before = old.get("metadata") or {}
            kept = before.get("name") if AUTONAMED in (before.get("annotations") or {}) else None
            metadata["name"] = kept or autoname(urn, urn.rpartition("::")[2], seed)
            metadata["annotations"] = {**(metadata.get("annotations") or {}), AUTONAMED: "true"}
        if self.namespace and not metadata.get("namespace"):
            metadata["namespace"] = self.namespace
        return {
            **new,
            "apiVersion": new.get("apiVersion", version),
            "kind": new.get("kind", kind),
            "metadata": metadata,
        }

    def replaces(self, new: dict[str, Any], paths: list[str]) -> tuple[list[str], bool]:
        """Paths that force a replacement, and whether the old object goes first: it has the same name."""
        forced = replacing(new["kind"], paths, self.settings)
        renamed = {"metadata.name", "metadata.namespace"} & set(paths)
        return forced, bool(forced) and not renamed

    def write(self, inputs: dict[str, Any], *, preview: bool, seconds: float) -> tuple[str, dict[str, Any]]:
        """The object's identity and its state after; in a preview what the API says it would be.

        Raises NotReady when it is written but does not become ready within `seconds`.
        """
        wanted = without_nulls(inputs)
        if preview:
            return self._previewed(wanted)
        path, identity = self._placed(wanted)
        live = self._applied(path, wanted)
        return identity, self._awaited(path, identity, live, seconds)

    def _previewed(self, wanted: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if has_unknown(wanted):
            return UNKNOWN, {**wanted, "status": UNKNOWN}
        try:
            path, identity = self.api.place(wanted, self.namespace)
            return identity, self._dry_run(path, wanted)
        except NoSuchKind:
            return UNKNOWN, {**wanted, "status": UNKNOWN}
        except Refused as refused:
            if refused.status == 404:  # its namespace comes in the same roll-out
                return UNKNOWN, {**wanted, "status": UNKNOWN}
            raise self._worded(wanted, refused) from refused

    def _dry_run(self, path: str, wanted: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = self.api.apply(path, wanted, dry_run=True, force=self._forced(wanted))
        return made

    def _placed(self, wanted: dict[str, Any]) -> tuple[str, str]:
        """Its place; a kind that an operator is defining just now is waited for."""
        deadline = time.monotonic() + LATE_SECONDS
        while True:
            try:
                return self.api.place(wanted, self.namespace)
            except NoSuchKind:
                if time.monotonic() > deadline or self.cancelled.is_set():
                    raise
                self.api.forget(wanted["apiVersion"])
                time.sleep(POLL_SECONDS)

    def _applied(self, path: str, wanted: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + LATE_SECONDS
        while True:
            try:
                made: dict[str, Any] = self.api.apply(path, wanted, force=self._forced(wanted))
            except Refused as refused:
                late = refused.status == 404 and time.monotonic() < deadline
                if not late or self.cancelled.is_set():
                    raise self._worded(wanted, refused) from refused
                time.sleep(POLL_SECONDS)
            else:
                return made

    def _forced(self, wanted: dict[str, Any]) -> bool:
        if self.settings.get("enablePatchForce", "").lower() == "true":
            return True
        return (wanted["metadata"].get("annotations") or {}).get(FORCE) == "true"

    @staticmethod
    def _worded(wanted: dict[str, Any], refused: Refused) -> Failure:
        metadata = wanted["metadata"]
        name = "/".join(part for part in (metadata.get("namespace"), metadata["name"]) if part)
        return Failure(f"The cluster's API refuses {wanted['kind']} {name}: {refused}")

    def _awaited(self, path: str, identity: str, live: dict[str, Any], seconds: float) -> dict[str, Any]:
        annotated = (live["metadata"].get("annotations") or {}).get(awaits.TIMEOUT)
        limit = float(annotated or seconds or awaits.DEFAULT_SECONDS)
        deadline = time.monotonic() + limit
        while True:
            try:
                lacking = awaits.pending(self.api, live)
            except awaits.WillNotBeReady as never:
                raise NotReady(f"{live['kind']} {identity}: {never}", identity, live) from never
            if lacking is None:
                return live
            if time.monotonic() > deadline or self.cancelled.is_set():
                why = "the run was cancelled" if self.cancelled.is_set() else f"not ready after {limit:.0f} s"
                raise NotReady(f"{live['kind']} {identity}: {why}: {lacking}", identity, live)
            time.sleep(POLL_SECONDS)
            live = self.api.get(path) or live

    def read(
        self, identity: str, inputs: dict[str, Any], token: str
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The live object, and the inputs with what differs from it; None when it is gone."""
        wanted = without_nulls(inputs) or self._named(identity, token)
        try:
            path, _ = self.api.place(wanted, self.namespace)
        except NoSuchKind:
            return None
        live = self.api.get(path)
        if live is None:
            return None
        if not inputs:
            return live, _wanted_of(live)
        return live, wanted if self._unchanged(path, wanted, live) else drifted(wanted, live)

    def _unchanged(self, path: str, wanted: dict[str, Any], live: dict[str, Any]) -> bool:
        """Whether applying what is wanted would change anything: the server knows that 1000m is 1."""
        try:
            after = self.api.apply(path, wanted, dry_run=True, force=True)
        except Refused:
            return False
        return _wanted_of(after) == _wanted_of(live)

    @staticmethod
    def _named(identity: str, token: str) -> dict[str, Any]:
        version, kind = type_of(token)
        namespace, _, name = identity.rpartition("/")
        metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
        return {"apiVersion": version, "kind": kind, "metadata": metadata}

    def delete(self, inputs: dict[str, Any], seconds: float) -> None:
        """Returns when it is gone; absent is success."""
        try:
            path, identity = self.api.place(inputs, self.namespace)
        except NoSuchKind:
            return
        self.api.delete(path)
        deadline = time.monotonic() + (seconds or awaits.DEFAULT_SECONDS)
        while self.api.get(path) is not None:
            if time.monotonic() > deadline or self.cancelled.is_set():
                raise Failure(f"{inputs['kind']} {identity} is still there after its deletion was asked for.")
            time.sleep(POLL_SECONDS)


def _wanted_of(live: dict[str, Any]) -> dict[str, Any]:
    """An object without what the server adds to every one."""
    kept = {key: value for key, value in live.items() if key != "status"}
    kept["metadata"] = {key: value for key, value in live["metadata"].items() if key not in SERVERS}
    return kept


def drifted(wanted: Any, live: Any) -> Any:
    """What is wanted, with the live values in the places it speaks of."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return {key: drifted(value, live[key]) for key, value in wanted.items() if key in live}
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        return [drifted(one, other) for one, other in zip(wanted, live, strict=True)]
    return live
