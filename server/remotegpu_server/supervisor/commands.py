# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that a worker carries out beside programs, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from remotegpu import wire
from remotegpu_server import records


class Commands:
    """The commands that are not answered. Each has a piece of the request arena until then."""

    def __init__(self, send: Callable[[records.Record], None], free: Callable[[int], None]) -> None:
        """`free` gives the piece at an offset back."""
        self._send = send
        self._free = free
        self._sent = 0
        self._waiting: dict[int, tuple[int, asyncio.Future[bytes]]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, offset: int, size: int) -> asyncio.Future[bytes]:
        """Sends a command that lies in the request arena. Its answer, or the error that came back."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._sent += 1
        self._waiting[self._sent] = offset, future
        self._send(records.Command(self._sent, offset, size))
        return future

    def answered(self, call: int, failed: bool, data: bytes) -> None:
        """An answer has come, whether or not anybody still waits for it."""
        offset, future = self._waiting.pop(call)
        self._free(offset)
        if future.done():
            return
        if failed:
            future.set_exception(wire.error_from(data))
        else:
            future.set_result(data)

    def close(self, why: str) -> None:
        """No answer will come: those who wait get ConnectionResetError."""
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError(why))
        self._waiting.clear()
