# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""One long-lived stream: frames in and out, and its end. Whose calls they are: `stream`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from remotegpu import errors, wire
from remotegpu.v1 import stream_pb2

from .bounds import STREAM_CALLS
from .identity import number_of

if TYPE_CHECKING:
    from .stream import Client, Streams

logger = logging.getLogger("remotegpu.gateway")

Context = grpc.aio.ServicerContext[bytes, bytes]
# How long a stream may take for its first frame, to accept a frame of ours, and to be of no use. Seconds.
_HELLO_PATIENCE = 30.0
_SEND_PATIENCE = 10.0
_IDLE = 300.0
# How long a client whose credential has expired may take to leave its stream. Seconds.
_LEAVE_PATIENCE = 5.0
# Bytes that may wait to be sent before no more is read.
_BACKLOG = 1024 * 1024
_ID_SIZE = 16


class Stream:
    """One stream of one client."""

    def __init__(self, streams: Streams, context: Context, tenant: str) -> None:
        self._streams = streams
        # Typed loosely: `read` and `write` of grpc.aio are not in its stubs.
        self._context: Any = context
        self._tenant = tenant
        self.caller = number_of(context.peer())
        self._client: Client | None = None
        self._unsent: deque[bytes] = deque()
        self._backlog = 0
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._used = self._loop.time()
        # When the write that is under way began.
        self._writing: float | None = None
        self._writer: asyncio.Task[None] | None = None
        # Our first frame is out, or never will be.
        self._greeted = asyncio.Event()
        self._leaving = False
        # The last frame is on its way: whatever arrives now has not arrived.
        self._final = False
        self._broken = False
        self._serving = asyncio.current_task()
        # We end the stream, and why: None is well.
        self._ended = False
        self._why: errors.Error | None = None

    async def serve(self) -> None:
        """Reads until the client ends the stream, or we do. Raises ProtocolError, DeadlineExceeded or Unavailable."""
        try:
            await self._converse()
        except asyncio.CancelledError:
            if not self._ended:
                raise  # the client has gone, or the server stops
        except errors.Error as error:
            self._why = error
        finally:
            self._serving = None
            self._broken = True
            self._room.set()
            if self._client is not None:
                self._client.detach(self)
        if self._why is not None:
            await self._greeting()
            raise self._why

    async def _greeting(self) -> None:
        """gRPC fails to send how a stream ends while its first frame is on the way: the client would never hear."""
        if self._writer is not None:
            with contextlib.suppress(TimeoutError):  # the client does not even read that
                async with asyncio.timeout(_SEND_PATIENCE):
                    await self._greeted.wait()

    async def _converse(self) -> None:
        client, message = await self._hello()
        while message is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
            self._used = self._loop.time()
            if not self._final:
                client.receive(message)
            while self._backlog > _BACKLOG:
                self._room.clear()
                await self._room.wait()
            message = await self._context.read()
        self._leaving = True
        if client.running or self._unsent:
            await self._loop.create_future()  # the last answer ends this stream: `settled`

    async def _hello(self) -> tuple[Client, bytes]:
        """The client, and the first frame, which may be a call too."""
        try:
            async with asyncio.timeout(_HELLO_PATIENCE):
                message = await self._context.read()
        except TimeoutError:
            raise errors.DeadlineExceeded(deadline=_HELLO_PATIENCE) from None
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
            raise errors.ProtocolError(what="a stream without a frame")
        envelope = wire.parse(stream_pb2.Envelope, wire.split_frame(message)[0])
        if len(envelope.hello.id) != _ID_SIZE:
            raise errors.ProtocolError(what="a stream that does not begin with the client's id")
        self._client = self._streams.client(self._tenant, envelope.hello.id)
        self._client.attach(self)
        hello = stream_pb2.Hello(id=self._streams.boot, most_calls=STREAM_CALLS)
        self.send_soon(wire.join(b"", b"", envelope=stream_pb2.Envelope(hello=hello).SerializeToString()))
        return self._client, message

    def send_soon(self, frame: bytes) -> None:
        """Sends a frame, behind those that wait."""
        if self._broken:
            if self._leaving:
                self.end(None)
            return
        self._unsent.append(frame)
        self._backlog += len(frame)
        if self._writing is None:
            self._writing = self._loop.time()
            self._writer = self._loop.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._unsent:
                self._writing = self._loop.time()
                await self._context.write(self._unsent[0])
                if not self._greeted.is_set():
                    self._greeted.set()
                self._backlog -= len(self._unsent.popleft())
        except (grpc.aio.BaseError, RuntimeError, asyncio.InvalidStateError) as error:
            # The stream is over, which its reader hears too; the answers are in the log.
            logger.debug("a stream broke: %s", error)
            self._broken = True
            self._unsent.clear()
            self._backlog = 0
        finally:
            self._writing = None
            self._greeted.set()
        if not self._room.is_set():
            self._room.set()
        if self._leaving:
            self.settled()

    def settled(self) -> None:
        """A call of the client is over, or nothing waits to be sent any more."""
        if self._leaving and self._client is not None and not self._client.running and not self._unsent:
            if self._final:
                self.end(None)
            else:
                self._final = True
                self._tell_go_away(self._client.highest)

    def end(self, why: errors.Error | None) -> None:
        """Ends the stream from our side."""
        if self._serving is not None and not self._ended:
            self._ended, self._why = True, why
            self._serving.cancel()

    def go_away(self) -> None:
        """Asks for no new calls; the stream ends with those under way."""
        if self._client is None:
            self.end(errors.Unavailable(why="it is draining before a stop"))
        elif not self._leaving:
            self._leaving = True
            self._tell_go_away(0)

    def expire(self) -> None:
        """The client's credential has expired. What runs goes on: its answers wait for a stream with another one."""
        if self._client is None:
            self.end(errors.AuthError(why="it has expired"))
        else:
            self.go_away()
            self._loop.call_later(_LEAVE_PATIENCE, self.end, None)

    def _tell_go_away(self, last: int) -> None:
        """`last`, if it is said: no call after that one has arrived, nor will one."""
        envelope = stream_pb2.Envelope(go_away=True, call=last).SerializeToString()
        self.send_soon(wire.join(b"", b"", envelope=envelope))  # what follows its end is `settled`

    def watch(self, now: float) -> None:
        """Ends a stream whose client does not read, and one that was of no use for long."""
        if self._writing is not None and now - self._writing > _SEND_PATIENCE:
            logger.warning("a client of tenant %s does not read: its stream is ended", self._tenant)
            self.end(errors.DeadlineExceeded(deadline=_SEND_PATIENCE))
        elif self._client is not None and not self._client.running and now - self._used > _IDLE:
            self.go_away()
