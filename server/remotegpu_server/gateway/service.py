# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The gRPC face: methods, bytes in and out, errors to status. Everything else is in `call` and `leases`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import grpc.aio

from remotegpu import errors, wire
from remotegpu.v1 import compute_pb2, scheduler_pb2
from remotegpu.v1 import lease_pb2 as lease_messages
from remotegpu_server import scheduler
from remotegpu_server.identity.provider import Identity, IdentityProvider

from .begun import Begun
from .bounds import MESSAGE_LIMIT, MOST_WATCHING
from .call import Answer, Call, Gate, Told
from .connection import Context
from .content_service import ContentService
from .identity import Declared, number_of
from .repository_service import RepositoryService
from .requests import DEADLINE_LIMIT, grant_message, milliseconds, scheduler_request
from .status import explanation_message, settings_message, snapshot_message
from .stream import Asked, Client, Streams, UnaryMethod

logger = logging.getLogger("remotegpu.gateway")

# How long a caller may take to send the first message of a stream and each piece after it (1 MiB, which a slow line
# needs some time for), and to read each piece of a reply: meanwhile it holds memory that others wait for. Seconds.
_HEADER_PATIENCE = 30.0
_PIECE_PATIENCE = 30.0
_SEND_PATIENCE = 10.0
# Between two snapshots of `Watch`. Seconds.
_WATCH_LEAST, _WATCH_MOST = 0.1, 60.0


class Gateway:
    """Answers calls of the services `remotegpu.v1.Compute` and `remotegpu.v1.Scheduler`."""

    def __init__(self, gate: Gate, callers: IdentityProvider | None = None) -> None:
        """`callers` tells who makes a call; None: who it says."""
        self._gate = gate
        self._callers = callers or Declared()
        self._started = time.monotonic()
        self._watching = 0
        self._methods: dict[str, UnaryMethod] = {
            "Compute/Models": self._models,
            "Compute/Has": self._has,
            "Scheduler/Alloc": self._alloc,
            "Scheduler/Dealloc": self._dealloc,
            "Scheduler/Renew": self._renew,
            "Scheduler/Explain": self._explain,
            "Scheduler/Set": self._set,
            "Scheduler/Top": self._top,
        }
        if gate.models is not None:
            store = None if gate.sources is None else gate.sources.store
            self._methods |= RepositoryService(gate.models, store, allow_changes=gate.allow_uploads).methods()
        self._contents = None if gate.sources is None else ContentService(gate.sources.store)
        self.streams = Streams(self._methods, self._framed)

    def handlers(self) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`. Messages stay bytes: see `remotegpu.wire`."""
        services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {
            "Compute": {
                "Run": grpc.unary_unary_rpc_method_handler(self._run),
                "RunStream": grpc.stream_stream_rpc_method_handler(self._run_stream),
                "Connect": grpc.stream_stream_rpc_method_handler(self._connect),
                "Put": grpc.stream_unary_rpc_method_handler(self._put),
            },
            "Scheduler": {"Watch": grpc.unary_stream_rpc_method_handler(self._watch)},
        }
        for name, method in self._methods.items():
            service, _, short = name.partition("/")
            services.setdefault(service, {})[short] = self._unary(method)
        return [
            grpc.method_handlers_generic_handler(f"remotegpu.v1.{service}", methods)
            for service, methods in services.items()
        ]

    async def _run(self, request: bytes, context: Context) -> bytes:
        try:
            tenant = (await self._caller(context)).tenant
            asked = Asked("", *wire.split(request))
            header = _whole_header(asked)
            call = Call(self._gate, tenant, header, asked.middle, caller=number_of(context.peer()))
            return _message(call, await call.run(asked.body), MESSAGE_LIMIT)
        except errors.Error as error:
            await _abort(context, error)
            raise AssertionError from error  # abort has raised

    def _framed(self, asked: Asked, client: Client, number: int) -> _Framed:
        header = _whole_header(asked)
        submitted = partial(client.submitted, number)
        call = Call(self._gate, client.tenant, header, asked.middle, submitted, client.caller)
        return _Framed(call, asked.body, number)

    async def _connect(self, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            await self.streams.serve(await self._caller(context), context)
        except errors.Error as error:
            await _abort(context, error)

    async def _has(self, request: bytes, tenant: str) -> bytes:
        return await self._store().has(request, tenant)

    async def _put(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        try:
            if self._gate.draining:
                raise errors.Unavailable(why="it is draining before a stop")
            return await self._store().put(aiter(requests), (await self._caller(context)).tenant)
        except errors.Error as error:
            await _abort(context, error)
            raise AssertionError from error  # abort has raised

    def _store(self) -> ContentService:
        if self._contents is None:
            raise errors.Unavailable(why="it has no store for contents")
        return self._contents

    async def _run_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            call, answer = await self._streamed_call(requests, context)
            try:
                await self._send(call, answer, context)
            finally:
                answer.reply.close()
        except errors.Error as error:
            await _abort(context, error)

    async def _send(self, call: Call, answer: Answer, context: Context) -> None:
        """A caller that does not read holds memory that others wait for, so each piece has little time, and all of them
        no more than the call."""
        loop, header, begun = asyncio.get_running_loop(), answer.header.SerializeToString(), False
        try:
            for message in wire.messages(header, answer.reply.result, (answer.reply.body,)):
                async with asyncio.timeout_at(min(call.ends + _SEND_PATIENCE, loop.time() + _SEND_PATIENCE)):
                    await context.write(message)
                begun = True
        except TimeoutError:
            raise errors.DeadlineExceeded(deadline=call.deadline) from None
        finally:
            if not begun:
                call.abandon()

    async def _streamed_call(self, requests: AsyncIterator[bytes], context: Context) -> tuple[Call, Answer]:
        tenant, incoming = (await self._caller(context)).tenant, aiter(requests)
        head, program, piece = wire.split(await _next(incoming, _HEADER_PATIENCE))
        header = wire.parse(compute_pb2.RunHeader, head)

        async def fill(target: memoryview) -> None:
            position, data = 0, piece
            while True:
                if position + len(data) > len(target):
                    raise errors.ProtocolError(what=f"the header says {len(target)} bytes of body, more came")
                target[position : position + len(data)] = data
                position += len(data)
                if position == len(target):
                    return
                data = wire.split(await _next(incoming, _PIECE_PATIENCE))[2]
                if not data:
                    raise errors.ProtocolError(
                        what=f"the header says {len(target)} bytes of body, it ended after {position}: cut short"
                    )

        call = Call(self._gate, tenant, header, program, caller=number_of(context.peer()))
        return call, await call.run(fill)

    async def _models(self, request: bytes, tenant: str) -> bytes:
        wire.parse(compute_pb2.ModelsRequest, request)
        return self._gate.catalog.SerializeToString()

    async def _alloc(self, request: bytes, tenant: str) -> bytes:
        message = wire.parse(lease_messages.AllocRequest, request)
        if self._gate.draining:
            raise errors.Unavailable(why="it is draining before a stop")
        patience, leases = milliseconds(message.timeout_ms, 0, DEADLINE_LIMIT, "timeout_ms"), self._gate.leases
        held = await leases.alloc(scheduler_request(message, tenant), patience, message.request_id, pinned=True)
        return grant_message(held, self._gate.workers, leases.ttl_left(held)).SerializeToString()

    async def _dealloc(self, request: bytes, tenant: str) -> bytes:
        message = wire.parse(scheduler_pb2.DeallocRequest, request)
        ended = self._gate.leases.dealloc(message.lease, tenant)
        return scheduler_pb2.DeallocReply(ended_now=ended).SerializeToString()

    async def _renew(self, request: bytes, tenant: str) -> bytes:
        leases = self._gate.leases
        held = leases.renew(wire.parse(scheduler_pb2.RenewRequest, request).lease, tenant)
        return grant_message(held, self._gate.workers, leases.ttl_left(held)).SerializeToString()

    async def _explain(self, request: bytes, tenant: str) -> bytes:
        asked = scheduler_request(wire.parse(lease_messages.AllocRequest, request), tenant)
        explanation = self._gate.leases.explain(asked)
        return explanation_message(explanation, self._gate, asked.model).SerializeToString()

    async def _set(self, request: bytes, tenant: str) -> bytes:
        message = wire.parse(scheduler_pb2.SetRequest, request)
        change = scheduler.Configure(
            policy=message.policy if message.HasField("policy") else None,
            slots=message.slots if message.HasField("slots") else None,
            queue_limit=message.queue if message.HasField("queue") else None,
        )
        return settings_message(self._gate.leases.configure(change)).SerializeToString()

    async def _top(self, request: bytes, tenant: str) -> bytes:
        wire.parse(scheduler_pb2.TopRequest, request)
        return self._snapshot()

    async def _watch(self, request: bytes, context: Context) -> None:
        """Ends when the caller has gone, or the server drains."""
        try:
            identity = await self._caller(context)
            interval = wire.parse(scheduler_pb2.WatchRequest, request).interval_ms / 1000
            if not _WATCH_LEAST <= interval <= _WATCH_MOST:
                limit = f"{_WATCH_LEAST * 1000:.0f} to {_WATCH_MOST * 1000:.0f}"
                raise errors.InvalidInput(field="interval_ms", limit=limit, given=f"{interval * 1000:.0f}")
            if self._watching >= MOST_WATCHING:
                raise errors.Unavailable(why=f"{MOST_WATCHING} are watching already")
            self._watching += 1
            try:
                await self._report(context, interval, identity.expires)
            finally:
                self._watching -= 1
            if not self._gate.draining:
                raise errors.AuthError(why="it has expired meanwhile")
            raise errors.Unavailable(why="it is draining before a stop")
        except errors.Error as error:
            await _abort(context, error)

    async def _report(self, context: Context, interval: float, expires: float) -> None:
        while not self._gate.draining and time.time() < expires:
            await context.write(self._snapshot())
            with contextlib.suppress(TimeoutError):  # the time has passed, and nobody stops the server
                async with asyncio.timeout(interval):
                    await self._gate.stopping.wait()

    async def _caller(self, context: Context) -> Identity:
        return await self._callers.identify(context.invocation_metadata() or ())

    def _unary(self, method: UnaryMethod) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(request: bytes, context: Context) -> bytes:
            try:
                return await method(request, (await self._caller(context)).tenant)
            except errors.Error as error:
                await _abort(context, error)
                raise AssertionError from error  # abort has raised

        return grpc.unary_unary_rpc_method_handler(handle)

    def _snapshot(self) -> bytes:
        return snapshot_message(self._gate, time.monotonic() - self._started).SerializeToString()


def _whole_header(asked: Asked) -> compute_pb2.RunHeader:
    header = wire.parse(compute_pb2.RunHeader, asked.header)
    if header.body_size != len(asked.body):
        raise errors.ProtocolError(what=f"the header says {header.body_size} bytes of body, {len(asked.body)} came")
    return header


class _Framed:
    """A program that came in a frame of a stream. Implements `stream.Program`."""

    def __init__(self, call: Call, body: wire.Buffer, number: int) -> None:
        self._call = call
        self._body = body
        self._number = number

    def begin(self, told: Told) -> Begun | None:
        """See `Call.begin`."""
        return self._call.begin(self._body, told)

    async def run(self) -> bytes:
        """See `Call.run`."""
        return self.frame(await self._call.run(self._body))

    def frame(self, answer: Answer) -> bytes:
        """What goes back. Raises InvalidInput for a result that is too large for a frame."""
        return _message(self._call, answer, wire.INLINE_LIMIT, wire.call_envelope(self._number))


def _message(call: Call, answer: Answer, limit: int, envelope: bytes = b"") -> bytes:
    """One message for an answer with at most `limit` bytes of body."""
    try:
        size = len(answer.reply.body)
        if size > limit:
            call.abandon()
            allowed = f"at most {limit} bytes in one message; RunStream has no such limit"
            raise errors.InvalidInput(field="result size", limit=allowed, given=f"{size} bytes")
        head, result = answer.header.SerializeToString(), answer.reply.result
        return wire.join(head, result, (answer.reply.body,), size, envelope=envelope)
    finally:
        answer.reply.close()


async def _next(incoming: AsyncIterator[bytes], patience: float) -> bytes:
    """The next message of a stream, empty at its end. Raises DeadlineExceeded after so many seconds."""
    try:
        async with asyncio.timeout(patience):
            return await anext(incoming, b"")
    except TimeoutError:
        raise errors.DeadlineExceeded(deadline=patience) from None


async def _abort(context: Context, error: errors.Error) -> None:
    """The one place where an error becomes a status: its class names the code, its fields go along."""
    code: Any = getattr(grpc.StatusCode, error.status)
    await context.abort(code, wire.clipped(str(error), 300), ((wire.ERROR_KEY, wire.error_detail(error)),))
