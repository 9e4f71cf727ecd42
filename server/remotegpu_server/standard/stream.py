# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""ModelStreamInfer: many requests on one stream, answered in their order.

Requests of a stream run beside each other. One that is refused is answered with an error, and the stream goes on. It
ends when the caller has said so and has all replies, when the caller does not read, when its credential expires, or
when the server drains.
"""

from __future__ import annotations

import asyncio
import math
import time

import grpc
import grpc.aio

from remotegpu import errors
from remotegpu_server.gateway.identity import number_of
from remotegpu_server.identity.provider import Identity

from .calls import InferCalls
from .infer import Caller
from .refusals import Refused

Context = grpc.aio.ServicerContext[bytes, bytes]

# Requests of one stream that are read and not answered: as many as a full batch takes.
STREAM_DEPTH = 32
# How long a caller may take to read a reply: until then it holds memory that others wait for. Seconds.
_SEND_PATIENCE = 10.0


class Streams:
    """All open streams, of which there may be seven eighths of `room`. `room`: requests that they may have under way in
    all; each stream may read one more."""

    def __init__(self, calls: InferCalls, room: int) -> None:
        self._calls = calls
        self._room = asyncio.Semaphore(room)
        # Each is one of the calls that gRPC lets through: some are left for those that do not stream.
        self._most = room - room // 8
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False

    def drain(self) -> None:
        """Reads no more requests; those that were read are answered, then streams end."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def serve(self, identity: Identity, context: Context) -> None:
        """Serves one stream until its end. Raises Refused when it is cut off, or when the server drains."""
        if len(self._readers) >= self._most:
            raise Refused("RESOURCE_EXHAUSTED", f"{self._most} streams are open already")
        stream = _Stream(self._calls, self._room, identity.tenant, context)
        reader = asyncio.create_task(stream.read())
        # Not by the task itself: one that is cancelled before its first step never runs.
        reader.add_done_callback(lambda _: stream.no_more())
        self._readers.add(reader)
        if self._draining:
            reader.cancel()
        expiry = None
        if identity.expires < math.inf:
            left = max(identity.expires - time.time(), 0.0)
            expiry = asyncio.get_running_loop().call_later(left, reader.cancel)
        try:
            await stream.write()
        finally:
            if expiry is not None:
                expiry.cancel()
            reader.cancel()
            self._readers.discard(reader)
            await stream.end()
        if self._draining and not stream.ended:
            raise Refused("UNAVAILABLE", str(errors.Unavailable(why="it is draining before a stop")))
        if time.time() >= identity.expires and not stream.ended:
            raise Refused("UNAUTHENTICATED", str(errors.AuthError(why="it has expired")))


class _Stream:
    """One stream: a task reads, the caller's task writes."""

    def __init__(self, calls: InferCalls, room: asyncio.Semaphore, tenant: str, context: Context) -> None:
        self._calls = calls
        self._room = room
        self._caller = Caller(tenant, number_of(context.peer()))
        self._context = context
        # In the order of the requests; None at the end.
        self._replies: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._depth = asyncio.Semaphore(STREAM_DEPTH)
        self._running: set[asyncio.Task[bytes]] = set()
        self._held = 0
        # The caller has said that no more requests follow.
        self.ended = False

    async def read(self) -> None:
        """Begins requests as they come."""
        while True:
            message = await self._context.read()
            if message is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
                self.ended = True
                return
            await self._depth.acquire()
            await self._room.acquire()
            self._held += 1
            task = asyncio.create_task(self._calls.stream_answer(message, self._caller))
            self._running.add(task)
            self._replies.put_nowait(task)

    def no_more(self) -> None:
        """No more requests will come: replies end with those that are under way."""
        self._replies.put_nowait(None)

    async def write(self) -> None:
        """Sends replies until the last one. Raises Refused when the caller does not read."""
        while (task := await self._replies.get()) is not None:
            data = await task
            try:
                async with asyncio.timeout(_SEND_PATIENCE):
                    await self._context.write(data)
            except TimeoutError:
                raise Refused("DEADLINE_EXCEEDED", f"a reply was not read for {_SEND_PATIENCE:g} s") from None
            self._running.discard(task)
            self._held -= 1
            self._room.release()
            self._depth.release()

    async def end(self) -> None:
        """Gives up what still runs, and gives back the room that it has."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        for _ in range(self._held):
            self._room.release()
