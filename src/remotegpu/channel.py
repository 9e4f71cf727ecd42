# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Channels, streams of bytes, and foreign errors turned into ours. The client's only file that imports grpc, beside
`_async/channel.py`, which has the same for an event loop."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc

from remotegpu import config, errors, wire
from remotegpu.identity import IdentityProvider, Pairs
from remotegpu.security import Security

RpcError = grpc.RpcError
# How long a connection may take to be made, all tries together, for clients that are not told. Seconds.
CONNECT_PATIENCE = 5.0
# How long a connection that is closed may take to forget its credentials, which takes half a millisecond unless one is
# being made. Seconds.
_FORGET_PATIENCE = 1.0
# How gRPC begins the details of UNAVAILABLE when no connection could be made, so that nothing was sent. Whatever it
# says otherwise counts as a call whose outcome is unknown. (Watching the channel's state instead would say it without
# words, but a process that ends within 0.2 s of that hangs in the channel's destructor: grpcio 1.85.)
_NOT_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed", "errors resolving ")

# How it begins the details of a call for which `_Caller` had no credential.
_NO_CREDENTIAL = "Getting metadata from plugin failed with error: "
# The details of a call for which it had one that gRPC does not send.
_ILLEGAL_CREDENTIAL = "Illegal metadata"
# How gRPC begins the details of RESOURCE_EXHAUSTED when the server has as many calls as it takes; with other details it
# is a message that is too large, for instance, which trying again does not help.
_TOO_MANY_CALLS = "Concurrent RPC limit"

# When pings go out, which the server must allow (`daemon._OPTIONS`), and how long the answer may take. Milliseconds.
_PING_AFTER = 10_000
_PING_PATIENCE = 20_000
_PING_PATIENCE_IN_LAMBDA = 5_000

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


def lasting(environment: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Of a channel to a server of ours: a connection that has died silently is found while a call waits on it. A ping
    goes out when nothing has come for so long; its answer, or TCP's to anything that was sent, has so much time.

    Answers may be late behind an upload on a slow line: 4 MiB in the system's buffer take 16 s at 256 KiB/s. Lambda's
    lines are not slow, and its calls have less time. `keepalive_timeout` is TCP_USER_TIMEOUT to gRPC and nothing else
    (grpcio 1.85), so the pings have an option of their own."""
    patience = _PING_PATIENCE_IN_LAMBDA if config.LAMBDA_VARIABLE in environment else _PING_PATIENCE
    return (
        ("grpc.keepalive_time_ms", _PING_AFTER),
        ("grpc.keepalive_timeout_ms", patience),
        ("grpc.http2.ping_timeout_ms", patience),
        # gRPC would stop after two pings without data, while a call may wait in a queue for minutes.
        ("grpc.http2.max_pings_without_data", 0),
    )


def unproxied(security: Security) -> tuple[tuple[str, int], ...]:
    """Of a channel without encryption. gRPC would go to this machine too through the proxy of the environment, which
    would read the credential."""
    return () if security.identity is None else (("grpc.enable_http_proxy", 0),)


def stay_initialised() -> None:
    """Before a fork: has gRPC go on when its last connection is closed. Else it shuts down in a thread of its own, and
    a child that does not have that thread waits for its end forever, in its first channel (grpcio 1.85: 12 of 340
    children, and none of 400 with this). The channel that is kept for that is never connected."""
    if not _kept:
        _kept.append(grpc.insecure_channel("localhost"))


_kept: list[grpc.Channel] = []


def credentials(security: Security, forgotten: threading.Event | None = None) -> grpc.ChannelCredentials:
    """Of an encrypted channel. gRPC asks for the caller's credential itself when a call begins, in a thread of its own,
    and hands it to nobody without encryption. A static token, for which there is nothing to ask, goes along with each
    call instead, which no call sends before the server has proved itself either. `forgotten` is set when gRPC, which
    may outlive the channel in this, asks no more."""
    found = grpc.ssl_channel_credentials(security.roots)
    if security.identity is None or security.pairs:
        return found
    caller = _Caller(security.identity)
    if forgotten is not None:
        forgotten.clear()
        weakref.finalize(caller, forgotten.set).atexit = False
    return grpc.composite_channel_credentials(found, grpc.metadata_call_credentials(caller))


class _Caller(grpc.AuthMetadataPlugin):
    def __init__(self, identity: IdentityProvider) -> None:
        self._identity = identity

    def __call__(self, context: Any, callback: Callable[[Pairs, Exception | None], None]) -> None:
        try:
            pairs = self._identity.metadata()
        except errors.Error as error:
            callback((), RuntimeError(getattr(error, "why", str(error))))
        except Exception as error:  # of a provider that is not ours, whose words may hold anything
            callback((), RuntimeError(f"it could not be made ({type(error).__name__})"))
        else:
            callback(pairs, None)


class Connection:
    """A channel with its callables, which are costly to make again for each call."""

    def __init__(self, target: str, patience: float, security: Security) -> None:
        made = (*options(patience), *lasting(os.environ))
        self._forgotten = threading.Event()
        self._forgotten.set()
        if security.encrypted:
            self.channel = grpc.secure_channel(target, credentials(security, self._forgotten), options=made)
        else:
            self.channel = grpc.insecure_channel(target, options=(*made, *unproxied(security)))
        # Calls under way. A dropped channel is closed by its last one, since closing cancels the others: theirs fail
        # by themselves, and those that were never sent say so and can be tried again.
        self.users = 0
        self.closed = threading.Event()
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
        # A thread of gRPC's forgets whom it asked for credentials, and needs the interpreter for it. A fork that comes
        # right after would hold that, and wait for the thread without end (grpcio 1.85).
        self._forgotten.wait(_FORGET_PATIENCE)
        self.closed.set()


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
    if details.startswith(_NO_CREDENTIAL) or details == _ILLEGAL_CREDENTIAL:
        odd = "what was made cannot travel: printable ASCII, under a name in lower case"
        return errors.AuthError(why=details.removeprefix(_NO_CREDENTIAL) if details != _ILLEGAL_CREDENTIAL else odd)
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
