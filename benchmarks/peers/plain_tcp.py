# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Plain TCP in Python: a length and as many bytes there and back. A floor."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

from benchmarks.peers import caller

_SIZE = struct.Struct("<Q")


def _receive(connection: socket.socket) -> bytearray:
    size = bytearray(_SIZE.size)
    _fill(connection, size)
    data = bytearray(_SIZE.unpack(size)[0])
    _fill(connection, data)
    return data


def _fill(connection: socket.socket, into: bytearray) -> None:
    view = memoryview(into)
    while len(view):
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the other side has closed")
        view = view[count:]


def _send(connection: socket.socket, data: Any) -> None:
    view = memoryview(data).cast("B")
    connection.sendall(_SIZE.pack(len(view)))
    connection.sendall(view)


def serve(port: int, _models: Path) -> None:
    """Echoes, one connection at a time."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                try:
                    while True:
                        _send(connection, _receive(connection))
                except ConnectionError:
                    pass


class _Calls:
    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def tiny(self, x: Any) -> Any:
        return self._echo(x)

    def large(self, x: Any) -> Any:
        return self._echo(x)

    def _echo(self, x: Any) -> Any:
        import numpy as np

        _send(self._connection, x)
        return np.frombuffer(_receive(self._connection), np.float32)


if __name__ == "__main__":
    caller.run(serve, _Calls, has_models=False)
