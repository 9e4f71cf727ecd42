# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Long-lived streams: many small calls of one client at once, without a call of gRPC's own for each.

A client outlives its streams: when one breaks, programs that a worker has go on, and their answers wait for the next
stream (`call_log`). What had not begun is taken back, above all a place in the queue, and begins anew when it is sent
again. After `_RESUMED_WITHIN` seconds nobody seems to come back, and the programs are cancelled too; after
`_REMEMBERED` seconds the client is forgotten.

What a stream may hold of this process is bounded: frames by size, calls by number, and a peer that does not read is cut
off; while too much waits to be sent, nothing more is read from that stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from google.protobuf.message import DecodeError

from remotegpu import errors, wire
from remotegpu.v1 import stream_pb2
from remotegpu.wire import Buffer
from remotegpu_server.identity.provider import Identity

from .bounds import CALL_LIMIT, MOST_STREAMS, STREAM_CALLS, STREAM_FRAME_LIMIT
from .call import Answer, Told
from .call_log import CallLog, Known
from .connection import Context, Stream

logger = logging.getLogger("remotegpu.gateway")

UnaryMethod = Callable[[bytes, str], Awaitable[bytes]]
# Between two looks at how long streams take. Seconds.
_WATCH_PERIOD = 2.0
# How long the programs of a client without a stream go on, how long it is remembered, and how many such. Seconds.
_RESUMED_WITHIN = 5.0
_REMEMBERED = 60.0
_CLIENTS_REMEMBERED = 1024
# Bytes of a frame that is small.
_SMALL = 16 * 1024


@dataclass(slots=True)
class Asked:
    """A call as it arrived. `method` is empty for a program."""

    method: str
    header: Buffer
    middle: Buffer
    body: Buffer


class Running(Protocol):
    """A call under way."""

    def cancel(self) -> object:
        """Nobody waits for it any more."""


class Program(Protocol):
    """A program that has arrived."""

    def begin(self, told: Told) -> Running | None:
        """Begins it, if it has nothing to wait for; None: `run` it. `told` hears the end, not before this has returned.
        Raises errors of the tree."""

    async def run(self) -> bytes:
        """The frame that answers it. Raises errors of the tree."""

    def frame(self, answer: Answer) -> bytes:
        """The same for one that was begun."""


# Takes a program, the call of that number of a client. `Client.submitted` hears when a worker has it. Raises errors of
# the tree.
TakeProgram = Callable[[Asked, "Client", int], Program]


class Streams:
    """All clients with streams. `methods`: unary methods by name; `program`: what takes programs."""

    def __init__(self, methods: Mapping[str, UnaryMethod], program: TakeProgram) -> None:
        self.methods = methods
        self.program = program
        # Tells a restarted server from this one.
        self.boot = secrets.token_bytes(16)
        # Under way on all streams.
        self.calls = 0
        self._clients: dict[tuple[str, bytes], Client] = {}
        self._gone: OrderedDict[tuple[str, bytes], asyncio.TimerHandle] = OrderedDict()
        self._streams: set[Stream] = set()
        self._draining = False
        self._none_left = asyncio.Event()
        self._watch_timer: asyncio.TimerHandle | None = None

    async def serve(self, identity: Identity, context: Context) -> None:
        """One stream, from its first frame to its end, which comes when the identity expires, at the latest. Raises
        errors of the tree for what is wrong with the stream as a whole."""
        if self._draining:
            raise errors.Unavailable(why="it is draining before a stop")
        if len(self._streams) >= MOST_STREAMS:
            raise errors.Unavailable(why=f"{MOST_STREAMS} streams are open already")
        stream = Stream(self, context, identity.tenant)
        expiry = _at(identity.expires, stream.expire)
        self._streams.add(stream)
        if self._watch_timer is None:
            self._watch()
        try:
            await stream.serve()
        finally:
            if expiry is not None:
                expiry.cancel()
            self._streams.discard(stream)
            if self._draining and not self._streams:
                self._none_left.set()

    def client(self, tenant: str, identity: bytes) -> Client:
        """The client of that tenant and id, made if it is new."""
        key = tenant, identity
        timer = self._gone.pop(key, None)
        if timer is not None:
            timer.cancel()
        found = self._clients.get(key)
        if found is None:
            found = self._clients[key] = Client(self, tenant, identity)
        return found

    def left(self, client: Client) -> None:
        """The client has no stream any more."""
        key = client.tenant, client.identity
        self._gone[key] = asyncio.get_running_loop().call_later(_REMEMBERED, self._forget, key)
        if len(self._gone) > _CLIENTS_REMEMBERED:
            self._forget(next(iter(self._gone)))

    def _forget(self, key: tuple[str, bytes]) -> None:
        self._gone.pop(key).cancel()
        self._clients.pop(key).end()

    async def drain(self, patience: float) -> None:
        """The server is about to stop: clients are asked for no new calls, and streams end with those under way.
        Returns when all have, after `patience` seconds at most."""
        self._draining = True
        if not self._streams:
            return
        for stream in list(self._streams):
            stream.go_away()
        with contextlib.suppress(TimeoutError):  # those that are left are broken off with the server
            async with asyncio.timeout(patience):
                await self._none_left.wait()

    def _watch(self) -> None:
        """Looks at all streams now and then: a timer for each frame would cost more than the frame."""
        self._watch_timer = None
        loop = asyncio.get_running_loop()
        for stream in list(self._streams):
            stream.watch(loop.time())
        if self._streams:
            self._watch_timer = loop.call_later(_WATCH_PERIOD, self._watch)


class Client:
    """One client: its calls, and the stream that it has now. `caller`: the number of its connection."""

    def __init__(self, streams: Streams, tenant: str, identity: bytes) -> None:
        self.tenant = tenant
        self.identity = identity
        self.caller = 0
        self._log = CallLog()
        self._streams = streams
        self._stream: Stream | None = None
        self._calls: dict[int, Running] = {}
        # Calls that a worker has.
        self._submitted: set[int] = set()
        # Ends them when nobody comes back.
        self._end_timer: asyncio.TimerHandle | None = None

    @property
    def highest(self) -> int:
        """The highest number of a call that has arrived."""
        return self._log.highest

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._calls)

    def attach(self, stream: Stream) -> None:
        """A stream has begun; one before it is of no use any more."""
        if self._stream is not None:
            self._stream.end(errors.Unavailable(why="the same client has begun another stream"))
        self._stream, self.caller = stream, stream.caller
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None

    def detach(self, stream: Stream) -> None:
        """The stream has ended: what no worker has is taken back."""
        if self._stream is not stream:
            return
        self._stream = None
        for call, running in [each for each in self._calls.items() if each[0] not in self._submitted]:
            self._log.withdraw(call)
            self._taken_out(call)
            running.cancel()
        self._end_timer = asyncio.get_running_loop().call_later(_RESUMED_WITHIN, self.end)
        self._streams.left(self)

    def end(self) -> None:
        """Nobody asks for answers any more."""
        for running in list(self._calls.values()):
            running.cancel()

    def receive(self, message: bytes) -> None:
        """A frame of the client's. Raises ProtocolError."""
        if len(message) > STREAM_FRAME_LIMIT:
            raise errors.ProtocolError(
                what=f"a frame of {len(message)} bytes, at most {STREAM_FRAME_LIMIT} on a stream: RunStream takes more"
            )
        envelope, header, middle, body = _parts(message)
        call = envelope.call
        if not call and envelope.HasField("hello"):
            return
        if not call:
            raise errors.ProtocolError(what="a frame without the number of a call")
        if envelope.acknowledged:
            self._log.acknowledge(envelope.acknowledged)
        if envelope.cancel:
            running = self._calls.get(call)
            if running is not None:
                running.cancel()
            return
        known = self._log.begin(call)
        if known is Known.NEW:
            self._begin(call, Asked(envelope.method, header, middle, body))
        elif known is Known.GONE:
            self._send(_failure(call, errors.OutcomeUnknown(call=call)))
        elif isinstance(known, bytes):
            self._send(known)

    def _send(self, frame: bytes) -> None:
        if self._stream is not None:
            self._stream.send_soon(frame)

    def _begin(self, call: int, asked: Asked) -> None:
        self._streams.calls += 1
        program: Program | None = None
        if not asked.method:
            try:
                self._check_load(len(self._calls) + 1)
                program = self._streams.program(asked, self, call)
                begun = program.begin(partial(self._ended, call, program))
            except Exception as error:
                self._over(call, self._failed(call, error))
                return
            if begun is not None:
                self._calls[call] = begun
                return
        self._calls[call] = asyncio.create_task(self._run(call, asked, program))

    def _taken_out(self, call: int) -> None:
        self._streams.calls -= 1
        self._submitted.discard(call)
        self._calls.pop(call, None)

    def submitted(self, call: int) -> None:
        """A worker has the program of that call."""
        self._submitted.add(call)

    async def _run(self, call: int, asked: Asked, program: Program | None) -> None:
        answer: bytes | None = None
        try:
            answer = await (self._unary(call, asked) if program is None else program.run())
        except asyncio.CancelledError:
            pass  # this task is nobody else's: it was cancelled here, and it ends here
        except Exception as error:
            answer = self._failed(call, error)
        if self._calls.get(call) is not asyncio.current_task():
            return  # taken back, and perhaps begun anew
        self._over(call, answer)

    def _ended(self, call: int, program: Program, outcome: Answer | errors.Error | None) -> None:
        """A program that was begun has ended."""
        answer: bytes | None = None
        if isinstance(outcome, errors.Error):
            answer = _failure(call, outcome)
        elif outcome is not None:
            try:
                answer = program.frame(outcome)
            except Exception as error:
                answer = self._failed(call, error)
        self._over(call, answer)

    def _over(self, call: int, answer: bytes | None) -> None:
        self._taken_out(call)
        # Nobody waits for a cancelled one, but its number must stay used.
        self._log.settle(call, answer or _failure(call, errors.OutcomeUnknown(call=call)))
        if self._stream is not None:
            if answer is not None:
                self._stream.send_soon(answer)
            self._stream.settled()

    def _failed(self, call: int, error: Exception) -> bytes:
        if isinstance(error, errors.Error):
            return _failure(call, error)
        logger.error("call %d of a stream failed", call, exc_info=error)
        return _failure(call, errors.UnknownRemoteError(kind="INTERNAL", why=type(error).__name__))

    def _check_load(self, calls: int) -> None:
        if calls > STREAM_CALLS or self._streams.calls > CALL_LIMIT:
            why = f"{calls} calls of this client and {self._streams.calls} in all are under way on streams"
            raise errors.Unavailable(why=why)

    async def _unary(self, call: int, asked: Asked) -> bytes:
        self._check_load(len(self._calls))
        method = self._streams.methods.get(asked.method)
        if method is None:
            raise errors.ProtocolError(what=f"there is no unary method {asked.method[:80]!r}")
        return wire.join(b"", await method(bytes(asked.middle), self.tenant), envelope=wire.call_envelope(call))


def _parts(message: bytes) -> tuple[stream_pb2.Envelope, Buffer, Buffer, Buffer]:
    """Envelope, header, middle and body. A codec copies them, which costs less than views of a small message."""
    if len(message) <= _SMALL:
        try:
            frame = stream_pb2.Frame.FromString(message)
        except DecodeError:
            pass  # told by what follows
        else:
            return frame.envelope, frame.header, frame.middle, frame.body
    head, header, middle, body = wire.split_frame(message)
    return wire.parse(stream_pb2.Envelope, head), header, middle, body


def _at(moment: float, what: Callable[[], None]) -> asyncio.TimerHandle | None:
    """`moment` in seconds since the epoch; none for infinity."""
    if moment == math.inf:
        return None
    return asyncio.get_running_loop().call_later(max(moment - time.time(), 0.0), what)


def _failure(call: int, error: errors.Error) -> bytes:
    envelope = stream_pb2.Envelope(call=call, error=wire.error_message(error))
    return wire.join(b"", b"", envelope=envelope.SerializeToString())
