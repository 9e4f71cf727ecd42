# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Channels, streams of bytes, and foreign errors turned into ours. The client's only file that imports grpc, beside
`_async/channel.py`, which has the same for an event loop."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from remotegpu import errors, wire

RpcError = grpc.RpcError
# How long a connection may take to be made, all tries together, for clients that are not told. Seconds.
CONNECT_PATIENCE = 5.0
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


def options(patience: float) -> tuple[tuple[str, int], ...]:
    """Of a channel whose connection must be made within so many seconds: one try may take as long as all together,
    since gRPC's own limit, for a peer that takes the connection and says nothing, is 20 seconds."""
    limit = max(round(patience * 1000), 1)
    return (*_OPTIONS, *((f"grpc.{which}_reconnect_backoff_ms", limit) for which in ("min", "initial")))


class Connection:
    """A channel with its callables, which are costly to make again for each call."""

    def __init__(self, target: str, patience: float) -> None:
        self.channel = grpc.insecure_channel(target, options=options(patience))
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

    def close(self) -> None:
        """Ends the connection and the calls under way."""
        self.channel.close()


class NoStreams(errors.Error):
    """The server does not know long-lived streams."""


class LongStream:
    """One long-lived stream. Implements `remotegpu.conversation.Stream`."""

    def __init__(self, call: Any, over: Callable[[Any], errors.Error]) -> None:
        """`over` makes the error of a stream that has ended, from gRPC's."""
        self._call = call
        self._over = over

    def read(self) -> bytes:
        """The next frame. Raises errors of the tree."""
        try:
            frame: bytes = next(self._call)
            return frame
        except StopIteration:
            self._call.cancel()
            failure: grpc.RpcError = Ended()
        except grpc.RpcError as error:
            failure = error
        raise self._over(failure)

    def cancel(self) -> None:
        """Ends the stream."""
        self._call.cancel()


class Ended(grpc.RpcError):
    """The server has ended a stream well."""

    def code(self) -> grpc.StatusCode:
        """As that of a connection that broke: what was not answered may be sent again."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "the server has ended the stream"

    def trailing_metadata(self) -> tuple[()]:
        return ()


class Silent(grpc.RpcError):
    """A message did not come in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Replies:
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
                raise Silent(self._silence) from None
            raise
        finally:
            watchdog.cancel()

    def _give_up(self) -> None:
        self._is_silent = True
        self._call.cancel()

    def cancel(self) -> None:
        """Ends the call."""
        self._call.cancel()


def detail(failure: Any) -> errors.Error | None:
    """What the server said in its own words."""
    for key, value in failure.trailing_metadata() or ():
        if key == wire.ERROR_KEY:
            return wire.error_from(value)
    return None


def translated(error: Any, target: str, timeout: float) -> errors.Error:
    """The error of our tree for one of gRPC's, by its status. Raises a ValueError of another origin again."""
    if isinstance(error, ValueError):
        if "closed channel" not in str(error):
            raise error
        # `close` came between the choice of the channel and the call: nothing was sent.
        return closed()
    if isinstance(error, Silent):
        return errors.DeadlineExceeded(deadline=error.seconds)
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(deadline=timeout)
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOT_CONNECTED):
        return errors.ConnectError(address=target, why=details)
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return errors.ConnectionLost(address=target, why=details)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.ProtocolError(what=f"the server at {target} does not know this call ({details})")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_MANY_CALLS in details:
        return errors.Unavailable(why=details)
    return errors.UnknownRemoteError(kind=code.name, why=details)


def lacks_streams(failure: Any) -> bool:
    """Whether the other side does not know long-lived streams."""
    return bool(failure.code() is grpc.StatusCode.UNIMPLEMENTED)


def closed() -> errors.ConfigurationError:
    """The error of calls after `Client.close`."""
    return errors.ConfigurationError(setting="client", why="it is closed; make a new one")


class RawCalls:
    """Unary calls of bytes to a gRPC server of any kind, over a connection of its own. Safe to use from many threads.

    `patience`: seconds within which a connection must be made."""

    def __init__(self, target: str, *, patience: float = CONNECT_PATIENCE) -> None:
        self._target = target
        self._channel = grpc.insecure_channel(target, options=options(patience))
        self._methods: dict[str, Any] = {}

    def unary(self, method: str, request: bytes, timeout: float) -> bytes:
        """One message each way; `method` with its service, such as "/grpc.health.v1.Health/Check". Timeout in seconds.
        Never sent twice.

        Raises ConnectError, DeadlineExceeded, ConfigurationError after `close`, and UnknownRemoteError with the name of
        the status that the server answered."""
        try:
            call = self._methods.get(method)
            if call is None:
                call = self._methods[method] = self._channel.unary_unary(method)  # type: ignore[call-arg]
            reply: bytes = call(request, timeout=timeout)
        except ValueError as error:
            if "closed channel" not in str(error):
                raise
            raise closed() from None
        except grpc.RpcError as failure:
            raise self._translated(failure, timeout) from None
        return reply

    def close(self) -> None:
        """Ends the connection and the calls under way."""
        self._channel.close()

    def _translated(self, failure: Any, timeout: float) -> errors.Error:
        code, details = failure.code(), failure.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(deadline=timeout)
        if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOT_CONNECTED):
            return errors.ConnectError(address=self._target, why=details)
        # A server may answer UNAVAILABLE itself, with a full queue for instance: no sign of a broken connection.
        return errors.UnknownRemoteError(kind=code.name, why=details)
