# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The standard door's own gRPC listener."""

from __future__ import annotations

import grpc
import grpc.aio

from remotegpu_server.gateway.identity import Declared
from remotegpu_server.tls import add_port

from .entrance import Entrance
from .health import add_health_and_reflection
from .service import SERVICE, InferenceService
from .threshold import Threshold

# Bytes of a message around its tensors: names, shapes, parameters.
_ENVELOPE_ROOM = 1024**2
_INT32_MAX = 2**31 - 1
# What the messages of all calls under way may take: each is in memory whole before any code of ours sees it. Bytes.
_MEMORY = 32 * 1024**3
_CALLS_LEAST, _CALLS_MOST = 128, 1024


def calls_at_once(arena_size: int) -> int:
    """How many calls may be under way. Their messages, which are no larger than an arena, take 32 GiB at most, or 128
    arenas if that is more; requests that streams have under way beside their first one take as much again at most."""
    return min(max(_MEMORY // arena_size, _CALLS_LEAST), _CALLS_MOST)


class Listener:
    """Serves `inference.GRPCInferenceService`, health and reflection on one port."""

    def __init__(self, entrance: Entrance) -> None:
        gate = entrance.inference.gate
        calls = calls_at_once(gate.arena_size)
        self._tls = entrance.tls
        self._service = InferenceService(entrance, calls)
        options = (
            # What is larger would not fit the arena: gRPC refuses it before it takes memory.
            ("grpc.max_receive_message_length", min(gate.arena_size + _ENVELOPE_ROOM, _INT32_MAX)),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.max_metadata_size", 64 * 1024),
            ("grpc.http2.lookahead_bytes", 4 * 1024 * 1024),
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        )
        threshold = [] if isinstance(entrance.callers, Declared) else [Threshold(entrance.callers)]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=calls, interceptors=threshold)
        self._server.add_generic_rpc_handlers((self._service.handler(),))
        add_health_and_reflection(self._server, (SERVICE,), gate.stopping)

    async def start(self, address: str) -> int:
        """Opens the port and returns its number. Raises ConfigurationError if it cannot be had."""
        port = add_port(self._server, address, self._tls, "--inference")
        await self._server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Takes no more requests, and ends when those under way are answered, after so many seconds at most."""
        self._service.streams.drain()
        await self._server.stop(grace)
