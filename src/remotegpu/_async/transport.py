# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""One server's address: calls of bytes, retries, and the connection under them."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

from remotegpu import config, deadlines, errors, wire
from remotegpu.channel import (
    CONNECT_PATIENCE,
    NoStreams,
    RpcError,
    Silent,
    closed,
    detail,
    lacks_streams,
    translated,
)
from remotegpu.generation import Idle
from remotegpu.multiplexer import RUN, Call
from remotegpu.security import Security
from remotegpu.statistics import Counts

from . import retry
from .channel import AsyncConnection, AsyncLongStream, AsyncReplies
from .concurrency import ENDINGS, StateLock
from .conversation import AsyncConversation

# Metadata of each call: the tenant for whom the client says that it acts.
TENANT_KEY = "remotegpu-tenant"
# Bytes of a message that travels on the long-lived stream; a larger one has a call of its own.
FRAME_LIMIT = 512 * 1024


class AsyncTransport:
    """One server's address, and a connection to it once it is needed. Safe to use from many tasks of one event loop.

    `tenant` goes along with each call, unless it is empty. `patience`: seconds within which a connection must be
    made. Without `security` it is neither encrypted nor does it say who calls."""

    def __init__(
        self,
        target: str,
        *,
        tenant: str = "",
        patience: float = CONNECT_PATIENCE,
        security: Security = Security(),  # noqa: B008 - it is frozen
    ) -> None:
        self.target = target
        self.counts = Counts()
        self._security = security
        self._metadata = (*(((TENANT_KEY, tenant),) if tenant else ()), *security.pairs) or None
        self._patience = patience
        self._lock = StateLock()
        self._connection: AsyncConnection | None = None
        self._idle = Idle(config.idle_gap_from(os.environ))
        self._closed = False
        self._conversation = AsyncConversation(self._dial, target)
        # The server, or something before it, does not take long-lived streams: then each call is one of gRPC's own.
        self._streams = True

    async def unary(
        self,
        method: str,
        request: bytes | Callable[[], bytes],
        timeout: float,
        *,
        idempotent: bool = False,
        grace: float = 0.0,
    ) -> bytes:
        """One message each way; a callable `request` gives it anew for each attempt. Timeout in seconds, for all
        attempts together, and `grace` for the server's own word that it has passed. `idempotent`: it may run twice, so
        that it is sent again when the connection broke.

        Raises any error of the tree."""
        timeout, grace = await self._ready(timeout, grace)
        until = time.monotonic() + timeout
        if self._streams:
            message = request if isinstance(request, bytes) else request()
            if len(message) <= FRAME_LIMIT:
                reply = await self._ask(method, message, timeout, until + grace, idempotent=idempotent)
                if reply is not None:
                    return reply

        async def attempt() -> bytes:
            message = request if isinstance(request, bytes) else request()
            connection = self._acquire()
            try:
                call = connection.method("unary_unary", method)
                reply: bytes = await call(message, timeout=_left(until) + grace, metadata=self._metadata)
            except (RpcError, ValueError) as error:
                self._fail(error, connection, timeout, len(message))
            finally:
                await self._release(connection)
            self._count(len(message), len(reply))
            return reply

        patience = min(self._patience, timeout)
        return await retry.until_connected(attempt, patience, idempotent=idempotent, timeout=timeout)

    async def _ask(
        self,
        method: str,
        message: bytes,
        timeout: float,
        until: float,
        *,
        idempotent: bool,
    ) -> bytes | None:
        """A call on the long-lived stream; None if it must be one of gRPC's own. Sent again when the stream broke,
        which is safe: see `multiplexer`."""
        conversation = self._conversation
        call = conversation.begin(method, message, idempotent=idempotent)
        if call is None:
            return None

        attempt = functools.partial(self._answer, call, until)
        patience = min(self._patience, timeout)
        try:
            found = await retry.until_connected(attempt, patience, idempotent=True, timeout=timeout)
        except NoStreams:
            self._streams = False
            return None
        except TimeoutError:
            self._count(len(message), 0)
            raise errors.DeadlineExceeded(deadline=timeout) from None
        except errors.Error as error:
            if not isinstance(error, (errors.ConnectError, errors.ConfigurationError)):
                self._count(len(message), 0)
            raise
        finally:
            if not call.done:
                conversation.abandon(call)
        if isinstance(found, errors.Error):
            self._count(len(message), 0)
            raise found from found.__cause__
        self._count(len(message), len(found))
        return found if method == RUN else bytes(wire.split(found)[1])

    async def _answer(self, call: Call, until: float) -> errors.Error | bytes:
        """How a call on the long-lived stream ended. Raises what became of the stream, NoStreams if there are none."""
        await self._conversation.wait(call, until)
        if isinstance(call.error, NoStreams):
            raise call.error
        return call.error or call.answer or b""

    async def _dial(self, requests: AsyncIterator[bytes]) -> AsyncLongStream:
        """Opens a long-lived stream: how `AsyncConversation` does it."""
        connection = self._acquire()
        try:
            call = connection.method("stream_stream", "Compute/Connect")(requests, metadata=self._metadata)
        except ValueError as error:
            await self._release(connection)
            raise translated(error, self.target, 0.0) from None
        return AsyncLongStream(call, functools.partial(self._over, connection=connection))

    async def _over(self, failure: Any, connection: AsyncConnection) -> errors.Error:
        """The error for the end of a long-lived stream."""
        failure.__traceback__ = None
        await self._release(connection)
        if lacks_streams(failure):
            return NoStreams()
        error = detail(failure) or translated(failure, self.target, 0.0)
        if isinstance(error, errors.TransportError):
            self._drop(connection)
        elif isinstance(error, errors.UnknownRemoteError):
            error.__cause__ = failure
        return error

    async def stream(
        self,
        method: str,
        requests: Callable[[], Iterator[bytes]],
        single: bool,
        timeout: float,
        *,
        grace: float = 0.0,
        silence: float = math.inf,
    ) -> AsyncGenerator[bytes, None]:
        """Messages both ways; `requests` gives them, again if need be. `single`: there is only one, which spares a
        sending thread. Timeout in seconds, for all attempts together, and `grace` as for `unary`. `silence`: seconds
        that each message may be waited for. Closing the iterator cancels the call.

        Raises any error of the tree; DeadlineExceeded names the timeout or the silence, whichever it was."""
        timeout, grace = await self._ready(timeout, grace)
        until = time.monotonic() + timeout
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for request in requests():
                sent += len(request)
                yield request

        async def attempt() -> tuple[bytes, AsyncReplies, AsyncConnection]:
            connection = self._acquire()
            messages, opened = counted(), False
            try:
                call = connection.method("unary_stream" if single else "stream_stream", method)
                first = next(messages) if single else messages
                replies = AsyncReplies(call(first, timeout=_left(until) + grace, metadata=self._metadata), silence)
                message = await self._first(replies)
                opened = True
                return message, replies, connection
            except (RpcError, ValueError) as error:
                self._fail(error, connection, timeout, sent)
            finally:
                if not opened:
                    await self._release(connection)

        first, replies, connection = await retry.until_connected(attempt, min(self._patience, timeout))
        received = len(first)
        try:
            yield first
            async for reply in replies:
                received += len(reply)
                yield reply
        except RpcError as error:
            self._fail(error, connection, timeout, sent)
        except ENDINGS:
            replies.cancel()
            self._count(sent, received)
            raise
        finally:
            await self._release(connection)
        self._count(sent, received)

    async def _first(self, replies: AsyncReplies) -> bytes:
        message = await anext(replies, None)
        if message is None:
            raise errors.ProtocolError(what=f"the server at {self.target} has ended the call without a message")
        return message

    async def _ready(self, timeout: float, grace: float) -> tuple[float, float]:
        """Before a call: what it gets of its timeout and grace. A connection that was not used for long is given up,
        since nobody knows what has become of it. Raises DeadlineExceeded."""
        if self._idle.passed(time.time()):
            with self._lock:
                now = time.time()
                passed = self._idle.passed(now)  # unless another call has seen it meanwhile
                self._idle.used(now)
            if passed:
                await self.hang_up()
        return deadlines.bounded(timeout, grace)

    async def hang_up(self) -> None:
        """Has the next call make a new connection. What is under way on the long-lived stream is sent again on the next
        one; other calls end where they are, and the last one closes the connection."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.users += 1
        await self._conversation.hang_up()
        if connection is not None:
            await self._release(connection)

    async def close(self) -> None:
        """Ends the connection and the calls under way; later ones raise ConfigurationError."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        await self._conversation.close()
        if connection is not None:
            await connection.close()

    def _count(self, sent: int, received: int) -> None:
        with self._lock:
            self.counts.add(sent, received)
            self._idle.used(time.time())

    def _acquire(self) -> AsyncConnection:
        """The connection for one call, made if there is none; `_release` gives it back."""
        with self._lock:
            if self._closed:
                raise closed()
            if self._connection is None:
                self._connection = AsyncConnection(self.target, self._patience, self._security)
                self.counts.connections += 1
                self._idle.used(time.time())
            self._connection.users += 1
            return self._connection

    async def _release(self, connection: AsyncConnection) -> None:
        with self._lock:
            connection.users -= 1
            unused = not connection.users and self._connection is not connection
        if unused:
            await connection.close()

    def _fail(self, failure: Any, connection: AsyncConnection, timeout: float, sent: int) -> NoReturn:
        """Raises the error of our tree for one of gRPC's: the server's typed detail if it sent one, else by status. A
        call that got no further than connecting is not counted."""
        # Errors and frames that hold each other would keep what the frames hold until the garbage collector comes.
        failure.__traceback__ = None
        error = None if isinstance(failure, (ValueError, Silent)) else detail(failure)
        if error is None:
            error = translated(failure, self.target, timeout)
            if isinstance(error, errors.TransportError):
                self._drop(connection)
        if not isinstance(error, (errors.ConnectError, errors.ConfigurationError)):
            self._count(sent, 0)
        try:
            # What gRPC said is kept beside an error that we have no class for; ours say the same in one sentence.
            raise error from (failure if isinstance(error, errors.UnknownRemoteError) else None)
        finally:
            del error

    def _drop(self, connection: AsyncConnection) -> None:
        """The next call makes a new connection: this one is dead or silent, and gRPC would pause before it tries again.
        Another call may have made it already, which must stay."""
        with self._lock:
            if self._connection is connection:
                self._connection = None


def _left(until: float) -> float:
    """Seconds that an attempt may take, so that all of them end by `until` (of `time.monotonic`)."""
    return max(until - time.monotonic(), 0.0)
