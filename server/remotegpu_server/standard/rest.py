# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP face of the standard door: requests in and replies out, refusals to status.

What a request means is in `rest_routes` (paths) and `rest_tensors` (bodies); what it costs in `rest_bodies`; how it
comes in `rest_connections`.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from remotegpu import errors
from remotegpu.v1 import inference_pb2 as pb
from remotegpu_server.gateway.identity import number_of
from remotegpu_server.identity.provider import CREDENTIAL_LIMIT
from remotegpu_server.tls import Tls

from . import checks, config, rest_bodies, rest_tensors
from .entrance import Entrance
from .infer import Caller, Response
from .refusals import Refused, refused
from .repository import RepositoryCalls
from .rest_connections import Connections
from .rest_json import fields
from .rest_repository import load_request, unload_request
from .rest_routes import NoRoute, Route, route
from .service import model_statistics
from .tensors import Buffer
from .threads import in_thread

Method = Callable[[web.BaseRequest, Route], Awaitable[web.StreamResponse]]

HEADER_SIZE = "Inference-Header-Content-Length"
_UNAUTHORIZED = 401
# By the names of gRPC statuses; all others are 400, as in Triton.
_STATUS = {
    "UNAUTHENTICATED": _UNAUTHORIZED,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "ABORTED": 503,
    "RESOURCE_EXHAUSTED": 503,
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
    "UNKNOWN": 500,
}
# What load balancers ask is for everybody; the tenant of all else is kept with the request.
_OPEN = frozenset({"live", "ready"})
_TENANT = "remotegpu.tenant"
# How long a connection may be idle, or take for a header, and how long TLS may take before. Seconds.
PATIENCE = 75.0
_HANDSHAKE = 10.0
_BACKLOG = 4096
# Requests that are read or run at once.
_REQUESTS = 1024
# Files come as text here, which is parsed, and for which all others wait meanwhile.
_REPOSITORY_JSON = rest_bodies.Limit(rest_tensors.JSON.size, "of JSON; upload large models over gRPC")
# How long a caller may take to read each piece of a reply: meanwhile it holds memory that others wait for. Seconds.
_SEND_PATIENCE = 10.0
_PIECE = 1024 * 1024
# Replies up to this size leave the reply arena before they are sent.
_COPIED = 256 * 1024
# What is still to come of a body that was refused is read and dropped for so long, so that the caller reads the answer.
_LINGERING = 5.0
# Below this a compressed reply is not smaller.
_COMPRESSED_LEAST = 512


class Rest:
    """Serves the Open Inference Protocol over HTTP/1.1 on one port."""

    def __init__(self, entrance: Entrance, patience: float = PATIENCE) -> None:
        """`patience`: seconds until a connection without a request is closed."""
        self._inference = inference = entrance.inference
        self._callers, self._tls = entrance.callers, entrance.tls
        self._repository = RepositoryCalls(inference)
        self._limit = rest_bodies.Limit(inference.gate.arena_size, "the server's --arena")
        self._room = rest_bodies.Room(self._limit.size)
        self._requests = 0
        # Those whose bodies are still to come: a server that stops does not wait for them.
        self._reading: set[asyncio.Task[Any]] = set()
        self._listener: asyncio.Server | None = None
        self._server = Connections(
            self._handle,
            patience,
            handler_cancellation=True,  # a caller that has gone leaves the queue
            lingering_time=_LINGERING,
            read_bufsize=_COPIED,
            max_field_size=2 * CREDENTIAL_LIMIT,
            auto_decompress=False,  # it knows no limit
            access_log=None,
        )
        self._methods: Mapping[str, Method] = {
            "server": self._get_server,
            "live": self._get_live,
            "ready": self._get_ready,
            "metadata": self._get_metadata,
            "model_ready": self._get_model_ready,
            "config": self._get_config,
            "stats": self._get_stats,
            "all_stats": self._get_stats,
            "infer": self._infer,
            "index": self._index,
            "load": self._load,
            "unload": self._unload,
        }

    async def start(self, address: str) -> int:
        """Opens HOST:PORT, and returns the port. Raises ConfigurationError if it cannot be had."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._server.arriving, host.strip("[]"), int(port), backlog=_BACKLOG, **_secure(self._tls)
            )
        except OSError as error:
            raise errors.ConfigurationError(
                setting="--rest", why=f"{address} cannot be had; is another server there?"
            ) from error
        number: int = self._listener.sockets[0].getsockname()[1]
        return number

    async def stop(self, grace: float) -> None:
        """Takes no more connections, cuts off requests whose bodies are still to come, and ends when those that run are
        answered, after so many seconds at most."""
        if self._listener is None:
            return
        self._listener.close()
        self._server.pre_shutdown()
        for task in list(self._reading):
            task.cancel()
        # aiohttp waits so long for requests, and as long again for them to be cancelled.
        await self._server.shutdown(grace / 2)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._server.heard(request.protocol)
        try:
            found = route(request.method, request.rel_url.raw_path)
            if found.action not in _OPEN:
                request[_TENANT] = (await self._callers.identify(_lower(request.headers))).tenant
            response = await self._methods[found.action](request, found)
        except NoRoute as no_route:
            response = _failed(no_route.status, no_route.why)
            if no_route.allowed:
                response.headers["Allow"] = ", ".join(sorted(no_route.allowed))
        except Refused as refusal:
            response = _refused(refusal)
        except rest_bodies.TooLarge as error:
            response = _failed(413, str(error))
        except rest_bodies.TooSlow as error:
            response = _failed(408, str(error))
        except errors.Error as error:
            response = _refused(refused(error))
        await _send(request, response)
        return response

    # What is asked without a body.

    async def _get_server(self, _request: web.BaseRequest, _route: Route) -> web.StreamResponse:
        server = fields(config.server_metadata())
        return _json(server | {"extensions": [*server["extensions"], "binary_tensor_data"]})

    async def _get_live(self, _request: web.BaseRequest, _route: Route) -> web.StreamResponse:
        return web.Response()

    async def _get_ready(self, _request: web.BaseRequest, _route: Route) -> web.StreamResponse:
        self._check_draining()
        return web.Response()

    async def _get_metadata(self, _request: web.BaseRequest, found: Route) -> web.StreamResponse:
        served = await self._inference.located(found.model, found.version)
        return _json(fields(config.metadata(served, self._inference.models.versions(found.model))))

    async def _get_model_ready(self, _request: web.BaseRequest, found: Route) -> web.StreamResponse:
        self._inference.models.find(found.model, found.version)
        self._check_draining()
        return web.Response()

    async def _get_config(self, _request: web.BaseRequest, found: Route) -> web.StreamResponse:
        return _json(fields(config.configuration(await self._inference.located(found.model, found.version))))

    async def _get_stats(self, _request: web.BaseRequest, found: Route) -> web.StreamResponse:
        return _json(fields(model_statistics(self._inference, found.model, found.version)))

    def _check_draining(self) -> None:
        if self._inference.gate.draining:
            raise errors.Unavailable(why="it is draining before a stop")

    # The repository.

    async def _index(self, request: web.BaseRequest, _route: Route) -> web.StreamResponse:
        asked = rest_tensors.json_object(memoryview(await self._json_body(request)) or memoryview(b"{}"))
        message = pb.RepositoryIndexRequest(ready=asked.get("ready") is True)
        index = await self._repository.index(message, _tenant(request))
        return _json(fields(index)["models"])

    async def _load(self, request: web.BaseRequest, found: Route) -> web.StreamResponse:
        await self._repository.load(load_request(found.model, await self._json_body(request)), _tenant(request))
        return _json({})

    async def _unload(self, request: web.BaseRequest, found: Route) -> web.StreamResponse:
        await self._repository.unload(unload_request(found.model, await self._json_body(request)), _tenant(request))
        return _json({})

    async def _json_body(self, request: web.BaseRequest) -> bytes:
        with self._room.share() as share:
            return bytes(await self._body(request, share, _REPOSITORY_JSON))

    # Inference.

    async def _infer(self, request: web.BaseRequest, found: Route) -> web.StreamResponse:
        if self._requests >= _REQUESTS:
            raise errors.Unavailable(why=f"{_REQUESTS} requests are under way already")
        self._requests += 1
        try:
            wanted, response = await self._run(request, found)
            try:
                return await self._reply(request, rest_tensors.reply(wanted, response))
            finally:
                response.close()
        finally:
            self._requests -= 1

    async def _run(self, request: web.BaseRequest, found: Route) -> tuple[rest_tensors.Wanted, Response]:
        caller = Caller(_tenant(request), number_of(f"{request.remote}:{id(request.transport)}"))
        self._check_draining()
        await self._inference.located(found.model, found.version)  # before its body takes room
        header_size = request.headers.get(HEADER_SIZE)
        limit = self._limit if header_size is not None else rest_tensors.JSON
        with self._room.share() as share:
            body = memoryview(await self._body(request, share, limit)).toreadonly()
            json_size = rest_tensors.header_size(header_size, len(body))
            message = rest_tensors.parse(found.model, found.version, body, json_size)
            checks.check_id(message.request.id)
            prepared = self._inference.prepare(message.request)
            data = rest_tensors.data_of(message)
            return message.wanted, await self._inference.run(prepared, data, replace(caller, id=message.request.id))

    async def _body(self, request: web.BaseRequest, share: rest_bodies.Share, limit: rest_bodies.Limit) -> bytearray:
        """The whole body. Raises TooLarge before any of it is read, if its length says so."""
        if request.content_length is not None:
            limit.check(request.content_length)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        encoding = request.headers.get("Content-Encoding", "").strip().lower()
        task = asyncio.current_task()
        assert task is not None
        self._reading.add(task)
        try:
            return await rest_bodies.read(request.content.iter_any(), share, limit, encoding)
        finally:
            self._reading.discard(task)

    async def _reply(self, request: web.BaseRequest, reply: rest_tensors.Reply) -> web.StreamResponse:
        """Sends it, so that the memory of the outputs can be given back."""
        head = await in_thread(lambda: b"".join(reply.head)) if reply.is_long else b"".join(reply.head)
        headers = {"Content-Type": "application/json"}
        parts: list[Buffer] = [head, *(reply.binary or ())]
        if reply.binary is not None:
            headers = {"Content-Type": "application/octet-stream", HEADER_SIZE: str(len(head))}
        coding = coding_asked(request.headers.get("Accept-Encoding", ""))
        if coding and sum(map(len, parts)) >= _COMPRESSED_LEAST:
            headers["Content-Encoding"] = coding
            parts = [await in_thread(lambda: compressed(parts, coding))]
        size = sum(map(len, parts))
        if size <= _COPIED:
            return web.Response(body=b"".join(parts), headers=headers)
        response = web.StreamResponse(headers=headers)
        response.content_length = size
        await _send(request, response, parts)
        return response


async def _send(request: web.BaseRequest, response: web.StreamResponse, parts: list[Buffer] | None = None) -> None:
    """Sends a response, unless it was sent before; a caller that does not read is cut off."""
    try:
        response.headers.setdefault("Server", config.SERVER_NAME)  # not the versions of Python and aiohttp
        async with asyncio.timeout(_SEND_PATIENCE):
            await response.prepare(request)
        for part in parts or ():
            view = memoryview(part)
            for start in range(0, len(view), _PIECE):
                async with asyncio.timeout(_SEND_PATIENCE):
                    # Copied, since the transport may keep what it is given, and the memory is given back.
                    await response.write(bytes(view[start : start + _PIECE]))
        async with asyncio.timeout(_SEND_PATIENCE):
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the caller does not read the reply") from None


def coding_asked(accept: str) -> str:
    """The compression that a header Accept-Encoding asks for, "gzip", "deflate" or none.

    Only one that is named alone: libraries send lists such as "gzip, deflate, br" unasked, and tensors are seldom
    smaller for the time that it takes."""
    coding = accept.strip().lower()
    return coding if coding in rest_bodies.FORMATS else ""


def compressed(parts: list[Buffer], coding: str) -> bytes:
    """All parts as one compressed body, at the lowest level: numbers gain little by the higher ones."""
    stream = zlib.compressobj(1, zlib.DEFLATED, rest_bodies.FORMATS[coding])
    return b"".join([*map(stream.compress, parts), stream.flush()])


def _lower(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name.lower(), value) for name, value in headers.items())


def _secure(tls: Tls | None) -> dict[str, Any]:
    return {} if tls is None else {"ssl": tls.context, "ssl_handshake_timeout": _HANDSHAKE}


def _tenant(request: web.BaseRequest) -> str:
    tenant: str = request[_TENANT]
    return tenant


def _json(value: object) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type="application/json")


def _refused(refusal: Refused) -> web.Response:
    response = _failed(_STATUS.get(refusal.code, 400), refusal.message)
    if response.status == _UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _failed(status: int, why: str) -> web.Response:
    return web.Response(status=status, body=json.dumps({"error": why}).encode(), content_type="application/json")
