"""The engine's side: its requests, handed to objects and releases in threads, failures in plain words."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pulumi.provider.experimental import provider as sdk
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime.proto.provider_pb2 import DiffResponse

from tests.lab.cluster.provider.api import Api
from tests.lab.cluster.provider.documents import (
    INPUTS,
    UNKNOWN,
    Properties,
    differences,
    document,
    plain,
    properties,
    wrapped,
)
from tests.lab.cluster.provider.errors import Failure, NotReady
from tests.lab.cluster.provider.objects import Objects
from tests.lab.cluster.provider.releases import TOKEN as RELEASE
from tests.lab.cluster.provider.releases import Releases

T = TypeVar("T")
KINDS = {
    "add": (sdk.PropertyDiffKind.ADD, sdk.PropertyDiffKind.ADD_REPLACE),
    "delete": (sdk.PropertyDiffKind.DELETE, sdk.PropertyDiffKind.DELETE_REPLACE),
    "update": (sdk.PropertyDiffKind.UPDATE, sdk.PropertyDiffKind.UPDATE_REPLACE),
}
AT_ONCE = 32


class Kubernetes(sdk.Provider):
    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(max_workers=AT_ONCE)
        self.api: Api | None = None
        self.objects: Objects | None = None
        self.releases: Releases | None = None

    async def diff_config(self, request: sdk.DiffRequest) -> sdk.DiffResponse:
        changed = [p for p, _ in differences(document(request.old_state), document(request.new_inputs))]
        # here the SDK hands the value on as it is, and the protocol's enumeration has "none" for true
        some = DiffResponse.DIFF_SOME if changed else DiffResponse.DIFF_NONE
        return sdk.DiffResponse(changes=some, diffs=changed)  # type: ignore[arg-type]

    async def configure(self, request: sdk.ConfigureRequest) -> sdk.ConfigureResponse:
        settings = {key: value for key, value in document(request.args).items() if isinstance(value, str)}
        unsaid = os.environ.get("KUBECONFIG")
        kubeconfig = settings.get("kubeconfig") or (unsaid if unsaid and os.pathsep not in unsaid else None)
        self.api = Api(kubeconfig, settings.get("context"))
        self.objects = Objects(self.api, settings.get("namespace"), settings)
        self.releases = Releases(self.api, settings.get("namespace"))
        return sdk.ConfigureResponse(accept_secrets=True, supports_preview=True)

    def _parts(self) -> tuple[Objects, Releases]:
        assert self.objects is not None
        assert self.releases is not None
        return self.objects, self.releases

    async def _threaded(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, lambda: work(*arguments, **options))

    async def check(self, request: sdk.CheckRequest) -> sdk.CheckResponse:
        objects, releases = self._parts()
        token = token_of(request.urn)
        old, new = document(request.old_inputs), document(request.new_inputs)
        try:
            if token == RELEASE:
                made = releases.check(request.urn, old, new, request.random_seed)
            else:
                made = objects.check(token, request.urn, old, new, request.random_seed)
        except Failure as failure:
            return sdk.CheckResponse(failures=[sdk.CheckFailure("", str(failure))])
        return sdk.CheckResponse(inputs=properties(made, request.new_inputs))

    async def diff(self, request: sdk.DiffRequest) -> sdk.DiffResponse:
        objects, releases = self._parts()
        token = token_of(request.urn)
        old, new = plain(request.old_state.get(INPUTS)) or {}, document(request.new_inputs)
        changes = dict(differences(old, new))
        if token == RELEASE:
            forced, delete_first = releases.replaces(list(changes)), False
        else:
            forced, delete_first = objects.replaces(new, list(changes))
        detail = {
            path: sdk.PropertyDiff(KINDS[kind][path in forced], input_diff=True)
            for path, kind in changes.items()
        }
        return sdk.DiffResponse(
            changes=bool(changes),
            replaces=[path.split(".")[0].split("[")[0] for path in forced],
            diffs=sorted({path.split(".")[0].split("[")[0] for path in changes}),
            delete_before_replace=delete_first,
            detailed_diff=detail,
        )

    async def create(self, request: sdk.CreateRequest) -> sdk.CreateResponse:
        identity, outputs = await self._written(
            token_of(request.urn), request.properties, request.preview, request.timeout
        )
        return sdk.CreateResponse(None if identity == UNKNOWN else identity, outputs)

    async def update(self, request: sdk.UpdateRequest) -> sdk.UpdateResponse:
        _, outputs = await self._written(
            token_of(request.urn), request.news, request.preview, request.timeout
        )
        return sdk.UpdateResponse(outputs)

    async def _written(
        self, token: str, inputs: Properties, preview: bool, seconds: float
    ) -> tuple[str, Properties]:
        part = self._parts()[token == RELEASE]
        try:
            identity, made = await self._threaded(
                part.write, document(inputs), preview=preview, seconds=seconds
            )
        except NotReady as failure:
            failure.outputs = stated(failure.outputs, inputs)
            raise
        return identity, stated(made, inputs)

    async def read(self, request: sdk.ReadRequest) -> sdk.ReadResponse:
        objects, releases = self._parts()
        token = token_of(request.urn)
        remembered = request.properties.get(INPUTS)
        given: Properties = dict(request.inputs)
        if not given and remembered is not None and not isinstance(remembered.value, str):
            given = dict(remembered.value)  # type: ignore[arg-type]
        inputs = document(given)
        if token == RELEASE:
            if not inputs:
                namespace, _, name = request.resource_id.rpartition("/")
                inputs = {"name": name, "namespace": namespace or "default"}
            found = await self._threaded(releases.read, inputs)
        else:
            found = await self._threaded(objects.read, request.resource_id, inputs, token)
        if found is None:
            return sdk.ReadResponse()
        live, now = found
        shown = properties(now, given)
        return sdk.ReadResponse(request.resource_id, stated(live, shown), shown)

    async def delete(self, request: sdk.DeleteRequest) -> None:
        inputs = plain(request.properties.get(INPUTS)) or document(request.properties)
        part = self._parts()[token_of(request.urn) == RELEASE]
        await self._threaded(part.delete, inputs, request.timeout)

    async def cancel(self) -> None:
        if self.objects is not None and self.releases is not None:
            self.objects.cancelled.set()
            self.releases.stop()

    def close(self) -> None:
        if self.releases is not None:
            self.releases.stop()
        if self.api is not None:
            self.api.close()


def token_of(urn: str) -> str:
    """The resource's own type: a URN has those of its parents before it."""
    return urn.split("::")[-2].rpartition("$")[2]


def stated(live: dict[str, Any], inputs: Properties) -> Properties:
    """A resource's outputs: the object, what it was made from, and nothing secret in the clear."""
    shown = {key: value for key, value in live.items() if key != "metadata"}
    if "metadata" in live:
        metadata = live["metadata"]
        shown["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    made = properties(shown, inputs)
    if live.get("kind") == "Secret":
        made |= {key: wrapped(live[key], secret=True) for key in ("data", "stringData") if key in live}
    made[INPUTS] = PropertyValue(inputs)
    return made


def watch_engine(service: Kubernetes) -> None:
    """An engine that was killed takes its provider along."""
    engine = os.getppid()

    def watch() -> None:
        while os.getppid() == engine:
            threading.Event().wait(1.0)
        service.close()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
