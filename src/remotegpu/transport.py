# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client's only file that imports grpc: a channel, calls of bytes, and foreign errors turned into ours."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from remotegpu import errors, retry, wire

# How long a connection may take to be made, all tries together, for clients that are not told. Seconds.
CONNECT_PATIENCE = 5.0
# Metadata of each call: the tenant for whom the client says that it acts.
TENANT_KEY = "remotegpu-tenant"
# The server answers the passed deadline of a program itself, with a typed error; such a call waits this much longer.
GRACE = 0.5
# How gRPC begins the details of UNAVAILABLE when no connection could be made, so that nothing was sent. Whatever it
# says otherwise counts as a call whose outcome is unknown. (Watching the channel's state instead would say it without
# words, but a process that ends within 0.2 s of that hangs in the channel's destructor: grpcio 1.85.)
_NOT_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed", "errors resolving ")

# How gRPC begins the details of RESOURCE_EXHAUSTED when the server has as many calls as it takes; with other details it
# is a message that is too large, for instance, which trying again does not help.
_TOO_MANY_CALLS = "Concurrent RPC limit"

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Typed errors travel as metadata, and may be longer than gRPC's 8 KiB in other alphabets.
    ("grpc.max_metadata_size", 64 * 1024),
    # A new channel must be a new connection: the process-wide pool would hand out the dead one again.
    ("grpc.use_local_subchannel_pool", 1),
    # HTTP/2 starts with a window of 64 KiB, which would cost round trips for each larger result.
    ("grpc.http2.lookahead_bytes", 4 * 1024 * 1024),
)


@dataclass(slots=True)
class Counts:
    """What went over the wire: calls that waited for an answer, connections, bytes of messages."""

    round_trips: int = 0
    connections: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class _Connection:
    """A channel with its callables, which are costly to make again for each call."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        # Calls under way. A dropped channel is closed by its last one, since closing cancels the others: theirs fail
        # by themselves, and those that were never sent say so and can be tried again.
        self.users = 0
        self._methods: dict[tuple[str, str], Any] = {}

    def method(self, kind: str, name: str) -> Any:
        """The callable of a method, by the kind of call: both sides of which are bytes."""
        found = self._methods.get((kind, name))
        if found is None:
            found = self._methods[kind, name] = getattr(self.channel, kind)(f"/remotegpu.v1.{name}")
        return found


class Transport:
    """One server's address, and a connection to it once it is needed. Safe to use from many threads.

    `tenant` goes along with each call, unless it is empty. `patience`: seconds within which a connection must be
    made."""

    def __init__(self, target: str, *, tenant: str = "", patience: float = CONNECT_PATIENCE) -> None:
        self.target = target
        self.counts = Counts()
        self._metadata = ((TENANT_KEY, tenant),) if tenant else None
        self._patience = patience
        # One try may take as long as all together: gRPC's own limit, for a peer that takes the connection and says
        # nothing, is 20 seconds.
        limit = max(round(patience * 1000), 1)
        self._options = (*_OPTIONS, *((f"grpc.{which}_reconnect_backoff_ms", limit) for which in ("min", "initial")))
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._closed = False

    def unary(
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
        until = time.monotonic() + timeout

        def attempt() -> bytes:
            message = request if isinstance(request, bytes) else request()
            connection = self._acquire()
            try:
                call = connection.method("unary_unary", method)
                reply: bytes = call(message, timeout=_left(until) + grace, metadata=self._metadata)
            except (grpc.RpcError, ValueError) as error:
                self._fail(error, connection, timeout, len(message))
            finally:
                self._release(connection)
            self._count(len(message), len(reply))
            return reply

        patience = min(self._patience, timeout)
        return retry.until_connected(attempt, patience, idempotent=idempotent, timeout=timeout)

    def stream(
        self,
        method: str,
        requests: Callable[[], Iterator[bytes]],
        single: bool,
        timeout: float,
        *,
        grace: float = 0.0,
        silence: float = math.inf,
    ) -> Iterator[bytes]:
        """Messages both ways; `requests` gives them, again if need be. `single`: there is only one, which spares a
        sending thread. Timeout in seconds, for all attempts together, and `grace` as for `unary`. `silence`: seconds
        that each message may be waited for. Closing the iterator cancels the call.

        Raises any error of the tree; DeadlineExceeded names the timeout or the silence, whichever it was."""
        until = time.monotonic() + timeout
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for request in requests():
                sent += len(request)
                yield request

        def attempt() -> tuple[bytes, _Replies, _Connection]:
            connection = self._acquire()
            messages, opened = counted(), False
            try:
                call = connection.method("unary_stream" if single else "stream_stream", method)
                first = next(messages) if single else messages
                replies = _Replies(call(first, timeout=_left(until) + grace, metadata=self._metadata), silence)
                message = self._first(replies)
                opened = True
                return message, replies, connection
            except (grpc.RpcError, ValueError) as error:
                self._fail(error, connection, timeout, sent)
            finally:
                if not opened:
                    self._release(connection)

        first, replies, connection = retry.until_connected(attempt, min(self._patience, timeout))
        received = len(first)
        try:
            yield first
            for reply in replies:
                received += len(reply)
                yield reply
        except grpc.RpcError as error:
            self._fail(error, connection, timeout, sent)
        except GeneratorExit:
            replies.cancel()
            self._count(sent, received)
            raise
        finally:
            self._release(connection)
        self._count(sent, received)

    def _first(self, replies: _Replies) -> bytes:
        message = next(replies, None)
        if message is None:
            raise errors.ProtocolError(what=f"the server at {self.target} has ended the call without a message")
        return message

    def close(self) -> None:
        """Ends the connection and the calls under way; later ones raise ConfigurationError."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.channel.close()

    def _count(self, sent: int, received: int) -> None:
        with self._lock:
            self.counts.round_trips += 1
            self.counts.bytes_sent += sent
            self.counts.bytes_received += received

    def _acquire(self) -> _Connection:
        """The connection for one call, made if there is none; `_release` gives it back."""
        with self._lock:
            if self._closed:
                raise closed()
            if self._connection is None:
                self._connection = _Connection(grpc.insecure_channel(self.target, options=self._options))
                self.counts.connections += 1
            self._connection.users += 1
            return self._connection

    def _release(self, connection: _Connection) -> None:
        with self._lock:
            connection.users -= 1
            unused = not connection.users and self._connection is not connection
        if unused:
            connection.channel.close()

    def _fail(self, failure: Any, connection: _Connection, timeout: float, sent: int) -> NoReturn:
        """Raises the error of our tree for one of gRPC's: the server's typed detail if it sent one, else by status. A
        call that got no further than connecting is not counted."""
        # Errors and frames that hold each other would keep what the frames hold until the garbage collector comes.
        failure.__traceback__ = None
        error = None if isinstance(failure, (ValueError, _Silent)) else _detail(failure)
        if error is None:
            error = self._translated(failure, timeout)
            if isinstance(error, errors.TransportError):
                self._drop(connection)
        if not isinstance(error, (errors.ConnectError, errors.ConfigurationError)):
            self._count(sent, 0)
        try:
            # What gRPC said is kept beside an error that we have no class for; ours say the same in one sentence.
            raise error from (failure if isinstance(error, errors.UnknownRemoteError) else None)
        finally:
            del error

    def _drop(self, connection: _Connection) -> None:
        """The next call makes a new connection: this one is dead or silent, and gRPC would pause before it tries again.
        Another thread may have made it already, which must stay."""
        with self._lock:
            if self._connection is connection:
                self._connection = None

    def _translated(self, error: Any, timeout: float) -> errors.Error:
        """By status. Raises a ValueError of another origin again."""
        if isinstance(error, ValueError):
            if "closed channel" not in str(error):
                raise error
            # `close` came between the choice of the channel and the call: nothing was sent.
            return closed()
        if isinstance(error, _Silent):
            return errors.DeadlineExceeded(deadline=error.seconds)
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(deadline=timeout)
        if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOT_CONNECTED):
            return errors.ConnectError(address=self.target, why=details)
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
            return errors.ConnectionLost(address=self.target, why=details)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return errors.ProtocolError(what=f"the server at {self.target} does not know this call ({details})")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_MANY_CALLS in details:
            return errors.Unavailable(why=details)
        return errors.UnknownRemoteError(kind=code.name, why=details)


class _Silent(grpc.RpcError):
    """A message did not come in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class _Replies:
    """The messages of a stream, each of which is waited for at most `silence` seconds."""

    def __init__(self, call: Any, silence: float) -> None:
        self._call = call
        self._silence = silence
        self._is_silent = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._silence == math.inf:
            message: bytes = next(self._call)
            return message
        # For each message a new one: it must not run while the caller is busy with the last.
        watchdog = threading.Timer(self._silence, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            message = next(self._call)
            return message
        except grpc.RpcError:
            if self._is_silent:
                raise _Silent(self._silence) from None
            raise
        finally:
            watchdog.cancel()

    def _give_up(self) -> None:
        self._is_silent = True
        self._call.cancel()

    def cancel(self) -> None:
        """Ends the call."""
        self._call.cancel()


def _detail(failure: Any) -> errors.Error | None:
    """What the server said in its own words."""
    for key, value in failure.trailing_metadata() or ():
        if key == wire.ERROR_KEY:
            return wire.error_from(value)
    return None


def _left(until: float) -> float:
    """Seconds that an attempt may take, so that all of them end by `until` (of `time.monotonic`)."""
    return max(until - time.monotonic(), 0.0)


def closed() -> errors.ConfigurationError:
    """The error of calls after `Client.close`."""
    return errors.ConfigurationError(setting="client", why="it is closed; make a new one")
