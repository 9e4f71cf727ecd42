# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The long-lived stream of a client, for the tasks of one event loop.

A task reads, as long as the stream lives, and wakes those who wait for their answers. What is decided is decided by the
same `Multiplexer` as for threads.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from remotegpu import errors
from remotegpu.multiplexer import MOST_CALLS, Call, Multiplexer, copy_of


class Stream(Protocol):
    """One stream of gRPC's."""

    async def read(self) -> bytes:
        """The next frame. Raises ConnectError if there never was a connection, ConnectionLost when the stream is over,
        or the error with which the server has ended it."""

    def cancel(self) -> None:
        """Ends the stream; `read` raises ConnectionLost."""


# Opens a stream, given the frames to send. Does not wait.
Dial = Callable[[AsyncIterator[bytes]], Awaitable[Stream]]


class _Line:
    """A stream and what is to be sent on it."""

    def __init__(self) -> None:
        self._unsent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.stream: Stream | None = None
        self.reader: asyncio.Task[None] | None = None
        # When something came on it last, of `time.monotonic`.
        self.heard = 0.0

    async def frames(self) -> AsyncIterator[bytes]:
        """What is to be sent, until `end`."""
        while (frame := await self._unsent.get()) is not None:
            yield frame

    def send(self, frames: list[bytes]) -> None:
        """Frames, in this order."""
        for frame in frames:
            self._unsent.put_nowait(frame)

    def end(self) -> None:
        """Nothing more is sent."""
        self._unsent.put_nowait(None)

    async def hang_up(self) -> None:
        """Ends the stream, and waits for the task that reads it."""
        assert self.stream is not None, "it is open"
        assert self.reader is not None, "it is open"
        self.stream.cancel()
        await asyncio.wait([self.reader])


class AsyncConversation:
    """All calls of a client on its stream, opened when it is needed."""

    def __init__(self, dial: Dial, address: str) -> None:
        self._dial = dial
        self._calls = Multiplexer(secrets.token_bytes(16), address)
        self._address = address
        # Held while a stream is opened.
        self._opening = asyncio.Lock()
        self._line: _Line | None = None
        # Those who wait for an answer, or to hear that the stream broke.
        self._waiting: dict[Call, asyncio.Future[None]] = {}

    def begin(self, method: str, message: bytes, *, idempotent: bool) -> Call | None:
        """Begins a call; `wait` or `abandon` follows. None if too many are under way."""
        if self._calls.pending >= MOST_CALLS:
            return None
        call, frame = self._calls.begin(method, message, idempotent=idempotent)
        if frame is not None:
            assert self._line is not None, "the stream is open"
            self._line.send([frame])
        return call

    async def wait(self, call: Call, until: float) -> None:
        """Returns when the call is done. Opens a stream if there is none.

        Raises ConnectError, ConnectionLost or the server's error when the stream breaks meanwhile (the call goes on
        with the next `wait`), TimeoutError when it is not done by `until` (of `time.monotonic`)."""
        while not call.done:
            line = self._line or await self._open()
            if not call.done:  # meanwhile
                await self._wait(call, line, until)

    async def _wait(self, call: Call, line: _Line, until: float) -> None:
        loop, begun = asyncio.get_running_loop(), time.monotonic()
        waiter = self._waiting[call] = loop.create_future()
        expiry = loop.call_later(max(until - begun, 0.0), _settle, waiter, TimeoutError())
        try:
            await waiter
        except TimeoutError:
            if line.heard < begun:
                # Nothing at all has come: whoever still waits goes on on another stream.
                await line.hang_up()
            if not call.done:
                raise
        except errors.Error:
            if time.monotonic() >= until:
                raise TimeoutError from None
            raise
        finally:
            expiry.cancel()
            del self._waiting[call]
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # seen, also by a task that was cancelled meanwhile

    async def _open(self) -> _Line:
        async with self._opening:
            if self._line is None:
                line = _Line()
                try:
                    line.stream = await self._dial(line.frames())
                except errors.Error:
                    self._calls.broken(connected=False)
                    raise
                line.send(self._calls.open())
                line.reader = asyncio.create_task(self._read(line, line.stream), name="remotegpu-stream")
                self._line = line
            return self._line

    async def _read(self, line: _Line, stream: Stream) -> None:
        try:
            while True:
                message = await stream.read()
                line.heard = time.monotonic()
                done, frames = self._calls.receive(message)
                line.send(frames)
                self._wake(done)
        except errors.Error as error:
            stream.cancel()
            self._broke(line, error)
        except Exception as error:
            # A mistake of ours: whoever waits sees it, and the event loop reports it.
            self._broke(line, errors.ProtocolError(what=f"reading the stream: {error!r}"))
            raise

    def _wake(self, done: list[Call]) -> None:
        for call in done:
            waiter = self._waiting.get(call)
            if waiter is not None:
                _settle(waiter)

    def _broke(self, line: _Line, error: errors.Error) -> None:
        line.end()
        if self._line is not line:
            return
        self._line = None
        if isinstance(error, errors.TransportError):
            self._calls.broken(connected=not isinstance(error, errors.ConnectError))
            self._interrupt(error)
        else:
            refused = self._calls.refused()
            for call in refused:
                call.error = copy_of(error)
            self._wake(refused)

    def _interrupt(self, error: errors.Error) -> None:
        for call, waiter in self._waiting.items():
            _settle(waiter, self._calls.interruption(call, error))

    def abandon(self, call: Call) -> None:
        """Nobody waits for the call any more; the server is told if it may have it."""
        frame = self._calls.abandon(call)
        if frame is not None and self._line is not None:
            self._line.send([frame])

    async def hang_up(self) -> None:
        """Ends the stream; calls under way go on on the next one."""
        await self._end("it was replaced")

    async def close(self) -> None:
        """Ends the stream. Calls under way fail with ConnectionLost."""
        await self._end("the client is closed")

    async def _end(self, why: str) -> None:
        line, self._line = self._line, None
        self._calls.broken(connected=True)
        self._interrupt(errors.ConnectionLost(address=self._address, why=why))
        if line is not None:
            line.end()
            await line.hang_up()


def _settle(waiter: asyncio.Future[None], error: Exception | None = None) -> None:
    if waiter.done():
        return
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)
