# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Connections of the HTTP door that come to nothing: handshakes that are broken off, and bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from remotegpu_server.standard.rest_connections import Connections
from remotegpu_server.tls import Tls
from tests.fixtures.authority import Authority


async def nothing(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Connections, int, ssl.SSLContext]]:
    authority = Authority(folder)
    tls = Tls.of(*authority.issue("server"))
    assert tls is not None
    connections = Connections(nothing, 60.0)
    server = await asyncio.get_running_loop().create_server(connections.arriving, "127.0.0.1", 0, ssl=tls.context)
    try:
        yield (
            connections,
            server.sockets[0].getsockname()[1],
            ssl.create_default_context(cafile=str(authority.ca)),
        )
    finally:
        server.close()
        await connections.shutdown(1)


def test_a_handshake_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (connections, port, trusted):
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await reader.read()
                writer.transport.abort()
            reader, writer = await asyncio.open_connection("localhost", port, ssl=trusted)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
            await asyncio.sleep(0.1)
            assert len(connections._silent) == len(connections.connections) == 1, "only the one that was made"
            writer.write(b"\r\n")
            assert b"200 OK" in await reader.readline()
            writer.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_", [b"Authorization: Bearer secret\x00", b"Authorization : Bearer secret", b"X: secret" + b"x" * 9000]
)
def test_what_cannot_be_read_is_neither_logged_nor_repeated(
    tmp_path: Path, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> bytes:
        async with serving(tmp_path) as (_, port, trusted):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=trusted)
            writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + request_ + b"\r\n\r\n")
            answer = await reader.read()
            writer.transport.abort()
            await asyncio.sleep(0)
            return answer

    caplog.set_level(logging.DEBUG)
    answer = asyncio.run(main())
    assert answer.split()[1] == b"400"
    assert b"cannot be read" in answer
    assert b"secret" not in answer
    assert "aiohttp" not in answer.decode()
    assert "secret" not in caplog.text
