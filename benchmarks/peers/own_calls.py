# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Our own clients, timed as those of the peers are: `python -m benchmarks.peers.own_calls call PORT DOOR`.

DOOR is `own` (the package's client), `standard` (tritonclient at the standard door), or a floor: `unary` or `stream`
(through an empty worker), `raw` (gRPC alone).
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.peers import caller
from benchmarks.peers.oip_client import TritonCalls

_UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.lookahead_bytes", 4 * 1024 * 1024),
]


class _OwnCalls:
    """Models without a lease."""

    def __init__(self, port: int) -> None:
        from remotegpu import Client

        client = Client(f"grpc://127.0.0.1:{port}")
        client.models()
        self._linear, self._identity = client.model("linear"), client.model("identity")

    def tiny(self, x: Any) -> Any:
        return self._linear(x)["y"]

    def large(self, x: Any) -> Any:
        return self._identity(x)["y"]


class _UnaryFloor:
    """An echo through an empty worker."""

    def __init__(self, port: int) -> None:
        import grpc

        channel: Any = grpc.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED)
        self._echo = channel.unary_unary("/floor.Floor/Hop")

    def tiny(self, x: Any) -> Any:
        return np.frombuffer(self._echo(x.tobytes()), np.float32)

    large = tiny


class _OpenStream:
    """Messages one after the other on a stream that stays open."""

    def __init__(self, channel: Any, method: str) -> None:
        self._requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._replies = channel.stream_stream(f"/floor.Floor/{method}")(self._messages())

    def _messages(self) -> Iterator[bytes]:
        while True:
            yield self._requests.get()

    def echo(self, x: Any) -> Any:
        self._requests.put(x.tobytes())
        return np.frombuffer(next(self._replies), np.float32)


class _StreamFloor:
    """The same on a stream that stays open."""

    def __init__(self, port: int) -> None:
        import grpc

        stream = _OpenStream(grpc.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED), "HopStream")
        self.tiny = self.large = stream.echo


class _RawFloor:
    """gRPC alone: what is small on an open stream, what is large in the pieces that our client sends."""

    def __init__(self, port: int) -> None:
        from benchmarks.floors import Raw

        self._raw = Raw(port)
        self.tiny = _OpenStream(self._raw.channel, "RawOpen").echo

    def large(self, x: Any) -> Any:
        return np.frombuffer(self._raw.exchange(memoryview(x).cast("B")), np.float32)


DOORS: dict[str, caller.Connect] = {
    "own": _OwnCalls,
    "standard": TritonCalls,
    "unary": _UnaryFloor,
    "stream": _StreamFloor,
    "raw": _RawFloor,
}

if __name__ == "__main__":
    door = sys.argv[3]
    caller.answer(DOORS[door], int(sys.argv[2]), door in {"own", "standard"})
