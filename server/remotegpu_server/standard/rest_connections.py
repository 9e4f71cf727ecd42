# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Connections of the HTTP door: how many there are, how long they may be silent, and what is answered where the bytes
that came are no HTTP. What requests are answered with: `rest`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from . import config

logger = logging.getLogger("remotegpu.rest")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
# At once; each takes some 20 KiB.
_MOST = 4096


class Connections(web.Server):
    """All open connections. One that has sent no whole header, or is idle, is closed after `patience` seconds."""

    def __init__(self, handler: Handler, patience: float, **options: Any) -> None:
        super().__init__(handler, keepalive_timeout=patience, **options)
        self._patience = patience
        # Connections that have not sent a whole header yet, and what will close them.
        self._silent: dict[object, asyncio.TimerHandle] = {}

    def arriving(self) -> asyncio.Protocol:
        """For `create_server`."""
        return _Arriving(self)

    def begun(self) -> asyncio.Protocol:
        """What serves a connection that is there now."""
        if len(self.connections) >= _MOST:
            return _Full()
        connection = _Connection(self, loop=self._loop, **self._kwargs)
        # aiohttp's own timer begins with the first request (before 3.14.5, at least).
        self._silent[connection] = self._loop.call_later(self._patience, self._close_silent, connection)
        return connection

    def heard(self, connection: object) -> None:
        """A whole header has come."""
        timer = self._silent.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forgets the timer, which would hold the connection until it is due."""
        self.heard(handler)
        super().connection_lost(handler, exc)

    def _close_silent(self, connection: web.RequestHandler) -> None:
        del self._silent[connection]
        if connection.transport is not None:
            connection.transport.abort()


class _Arriving(asyncio.Protocol):
    """Stands for a connection until it is made. With TLS it may never be, of which nobody is told: whoever breaks off
    handshakes would leave some 20 KiB with each until it had been silent for too long."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._connections.begun()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Connection(web.RequestHandler):
    """aiohttp's, but what cannot be read is neither logged nor repeated: it may hold a credential."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        logger.debug("what %s sends cannot be read as HTTP: %s", request.remote, type(exc).__name__)
        body = json.dumps({"error": "this cannot be read as HTTP/1.1, or a header is too long"}).encode()
        headers = {"Server": config.SERVER_NAME}
        response = web.Response(status=status, body=body, content_type="application/json", headers=headers)
        response.force_close()
        return response


class _Full(asyncio.Protocol):
    """Tells one connection too many so, and closes it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        body = json.dumps({"error": f"{_MOST} connections are open already"}).encode()
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        transport.write(head.encode() + body)
        transport.close()
