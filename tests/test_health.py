# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Health checks, which are for everybody: those who ask and do not say what keep nobody else from asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from remotegpu_server.standard import health


def test_who_asks_nothing_is_sent_away_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE", 0.3)

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.sleep(20)
        yield b""

    async def main() -> None:
        server, stopping = grpc.aio.server(), asyncio.Event()
        health.add_health_and_reflection(server, (), stopping)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask: Any = channel.stream_unary("/grpc.health.v1.Health/Check")  # type: ignore[call-arg]
            silent = [ask(nothing(), timeout=10) for _ in range(8)]
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")  # type: ignore[call-arg]
            watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")  # type: ignore[call-arg]
            for call in silent:
                with pytest.raises(grpc.RpcError, match=r"did not come within 0\.3 s"):
                    await call
            assert health_pb2.HealthCheckResponse.FromString(await check(b"", timeout=10)).status == 1
            async for state in watch(b"", timeout=10):
                stopping.set()
                last = health_pb2.HealthCheckResponse.FromString(state).status
            assert last == 2, "it is about to stop"
        await server.stop(0)

    asyncio.run(main())
