"""The program that the engine starts: it prints its port and serves until it is ended."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from tests.lab.cluster.provider.errors import Failure, NotReady
from tests.lab.cluster.provider.service import Kubernetes, watch_engine

MESSAGE_BYTES = 400 * 1024 * 1024
LIMITS = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
Call = Callable[[Any, Any, Any], Awaitable[Any]]


class Servicer(ProviderServicer):
    """The SDK's, but a failure reaches the user in its own words, without a Python traceback."""


def _in_plain_words(call: Call) -> Call:
    async def told(self: Servicer, request: Any, context: Any) -> Any:
        return await _told(call, self, request, context)

    return told


for _name in ("Configure", "Create", "Delete", "Read", "Update"):
    setattr(Servicer, _name, _in_plain_words(getattr(ProviderServicer, _name)))


async def _told(call: Call, servicer: Servicer, request: Any, context: Any) -> Any:
    try:
        return await call(servicer, request, context)
    except Exception as error:
        failure = error.__context__ if isinstance(error.__context__, Failure) else error
        if isinstance(failure, NotReady):
            await context.abort(grpc.StatusCode.UNKNOWN, str(failure), _partial(failure))
        if isinstance(failure, Failure):
            await context.abort(grpc.StatusCode.UNKNOWN, str(failure))
        raise


def _partial(failure: NotReady) -> tuple[tuple[str, bytes], ...]:
    """The state of an object that exists but is not ready, where the engine looks for it."""
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(failure))
    state = PropertyValue.marshal_map(failure.outputs)
    detail = provider_pb2.ErrorResourceInitFailed(
        id=failure.identity, properties=state, reasons=[str(failure)]
    )
    status.details.add().Pack(detail)
    return (("grpc-status-details-bin", status.SerializeToString()),)


async def serve(engine: str) -> None:
    service = Kubernetes()
    watch_engine(service)
    server = grpc.aio.server(options=LIMITS)
    servicer = Servicer(sys.argv[1:], version("pulumi-kubernetes"), service, engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await server.start()
    print(port, flush=True)
    await ended.wait()
    service.close()
    await server.stop(grace=None)


if __name__ == "__main__":
    addresses = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    asyncio.run(serve(addresses[0] if addresses else ""))
