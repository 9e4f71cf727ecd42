# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""grpc.health.v1, which load balancers ask, and reflection, which tools ask what a port serves.

The health service is our own: that of the library never ends its streams, so that a single watcher would hold up every
stop of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from remotegpu import errors
from remotegpu.wire import parse
from remotegpu_server.gateway.bounds import MOST_WATCHING

Context = grpc.aio.ServicerContext[bytes, bytes]
_HEALTH = "grpc.health.v1.Health"
# Anybody may ask, and a message may be as large as the listener's limit: so many are read at once, each for so long.
# Seconds.
_READING = 8
_PATIENCE = 5.0


class Health:
    """Answers for one listener. `services`: full names; the empty one, for the whole server, is always known.
    `stopping` is set when the server begins to drain."""

    def __init__(self, services: Sequence[str], stopping: asyncio.Event) -> None:
        self._services = {"", _HEALTH, *services}
        self._stopping = stopping
        self._watching = 0
        self._reading = asyncio.Semaphore(_READING)

    def handler(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        # As streams of one message, which gRPC does not read before we ask for it.
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(_HEALTH, methods)

    async def _check(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        if await self._service(requests, context) not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._status()

    async def _watch(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Tells the state, and once more when the server drains; then it ends."""
        if self._watching >= MOST_WATCHING:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_WATCHING} are watching already")
        self._watching += 1
        try:
            if await self._service(requests, context) not in self._services:
                unknown = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                await context.write(unknown.SerializeToString())
                await self._stopping.wait()
                return
            is_serving = not self._stopping.is_set()  # asked before, since it may stop while that is written
            await context.write(self._status())
            if is_serving:
                await self._stopping.wait()
                await context.write(self._status())
        finally:
            self._watching -= 1

    def _status(self) -> bytes:
        kinds = health_pb2.HealthCheckResponse
        status = kinds.NOT_SERVING if self._stopping.is_set() else kinds.SERVING
        data: bytes = kinds(status=status).SerializeToString()
        return data

    async def _service(self, requests: AsyncIterator[bytes], context: Context) -> str:
        try:
            async with asyncio.timeout(_PATIENCE), self._reading:
                request = await anext(aiter(requests), b"")
            service: str = parse(health_pb2.HealthCheckRequest, request).service
            return service
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"the question did not come within {_PATIENCE:g} s")
        except errors.ProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise AssertionError("abort has raised")


def add_health_and_reflection(server: grpc.aio.Server, services: Sequence[str], stopping: asyncio.Event) -> None:
    """Lets a listener answer for its services. Before it starts."""
    server.add_generic_rpc_handlers((Health(services, stopping).handler(),))
    reflection.enable_server_reflection((*services, _HEALTH, reflection.SERVICE_NAME), server)
