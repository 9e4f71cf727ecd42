# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client's only file that imports grpc: a channel, calls of bytes, and foreign errors turned into ours."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from remotegpu import errors, retry, wire

# How long a connection may take to be made, all tries together. Seconds.
CONNECT_PATIENCE = 5.0
# The server answers a passed deadline itself, with a typed error; the transport waits this much longer for it.
_GRACE = 0.5

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
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
        self._methods: dict[tuple[str, str], Any] = {}

    def method(self, kind: str, name: str) -> Any:
        """The callable of a method, by the kind of call: both sides of which are bytes."""
        found = self._methods.get((kind, name))
        if found is None:
            found = self._methods[kind, name] = getattr(self.channel, kind)(f"/remotegpu.v1.{name}")
        return found


class Transport:
    """One server's address, and a connection to it once it is needed. Safe to use from many threads."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.counts = Counts()
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def unary(self, method: str, request: bytes, timeout: float) -> bytes:
        """One message each way. Timeout in seconds. Raises any error of the tree."""
        call = self._connected(timeout).method("unary_unary", method)
        self._count(1, len(request), 0)
        try:
            reply: bytes = call(request, timeout=timeout + _GRACE)
        except grpc.RpcError as error:
            raise self._translated(error, timeout) from error
        self._count(0, 0, len(reply))
        return reply

    def stream(self, method: str, requests: Iterable[bytes], single: bool, timeout: float) -> Iterator[bytes]:
        """Messages both ways. `single`: there is only one request, which spares a sending thread."""
        connection = self._connected(timeout)
        call = connection.method("unary_stream" if single else "stream_stream", method)
        self._count(1, 0, 0)
        sent = self._counted(requests)
        try:
            for reply in call(next(sent) if single else sent, timeout=timeout + _GRACE):
                self._count(0, 0, len(reply))
                yield reply
        except grpc.RpcError as error:
            raise self._translated(error, timeout) from error

    def close(self) -> None:
        """Ends the connection; a later call makes a new one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.channel.close()

    def _counted(self, requests: Iterable[bytes]) -> Iterator[bytes]:
        for request in requests:
            self._count(0, len(request), 0)
            yield request

    def _count(self, round_trips: int, sent: int, received: int) -> None:
        with self._lock:
            self.counts.round_trips += round_trips
            self.counts.bytes_sent += sent
            self.counts.bytes_received += received

    def _connected(self, timeout: float) -> _Connection:
        with self._lock:
            if self._connection is None:
                self._connection = retry.until_connected(self._connect, min(CONNECT_PATIENCE, timeout))
                self.counts.connections += 1
            return self._connection

    def _connect(self) -> _Connection:
        channel = grpc.insecure_channel(self.target, options=_OPTIONS)
        settled = threading.Event()
        states: list[grpc.ChannelConnectivity] = []

        def changed(state: grpc.ChannelConnectivity) -> None:
            states.append(state)
            if state in {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE}:
                settled.set()

        channel.subscribe(changed, try_to_connect=True)
        answered = settled.wait(CONNECT_PATIENCE)
        channel.unsubscribe(changed)
        if answered and states[-1] is grpc.ChannelConnectivity.READY:
            return _Connection(channel)
        channel.close()
        raise errors.ConnectError(address=self.target, why="connection refused" if answered else "no answer in time")

    def _translated(self, error: Any, timeout: float) -> errors.Error:
        """The error of our tree for one of gRPC's: its typed detail if the server sent one, else by status."""
        code, details = error.code(), error.details() or ""
        for key, value in error.trailing_metadata() or ():
            if key == wire.ERROR_KEY:
                return wire.error_from(value)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(deadline=timeout)
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
            self.close()
            return errors.ConnectionLost(address=self.target, why=details)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return errors.ProtocolError(what=f"the server at {self.target} does not know this call ({details})")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.Unavailable(why=details)
        return errors.UnknownRemoteError(kind=code.name, why=details)
