# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Who calls, asked before anything that they send is read.

A message of this door may be as large as an arena, and gRPC has it in memory whole before a method begins. So whoever
proves nothing is refused by a method in the place of the one that was called, which reads no message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from remotegpu import errors, wire
from remotegpu_server.identity.provider import IdentityProvider

from .calls import TEXT_LIMIT
from .refusals import refused

# What load balancers ask: these read no message, or few at once.
_OPEN = frozenset(
    {
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Next = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


class Threshold(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # it has none when it runs
    """Lets in who `callers` knows, to all methods but the open ones."""

    def __init__(self, callers: IdentityProvider) -> None:
        self._callers = callers

    async def intercept_service(self, continuation: Next, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        details: Any = handler_call_details
        if details.method not in _OPEN:
            try:
                await self._callers.identify(details.invocation_metadata or ())
            except errors.Error as error:
                return _refusing(error)
        return await continuation(handler_call_details)


def _refusing(error: errors.Error) -> Handler:
    refusal = refused(error)
    code: Any = getattr(grpc.StatusCode, refusal.code)

    async def refuse(_requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(code, wire.clipped(refusal.message, TEXT_LIMIT))
        raise AssertionError("abort has raised")

    return grpc.stream_unary_rpc_method_handler(refuse)
