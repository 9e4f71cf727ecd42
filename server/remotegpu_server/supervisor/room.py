# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Room in an arena, for which callers wait in order."""

from __future__ import annotations

import asyncio
from collections import deque

from remotegpu_server.slabs import FreeList


class Room:
    """The free parts of an arena of `size` bytes. For one event loop."""

    def __init__(self, size: int) -> None:
        self._parts = FreeList(size)
        self._waiters: deque[tuple[int, asyncio.Future[int]]] = deque()
        self._closed = ""
        self._loop = asyncio.get_running_loop()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._parts.used

    async def allocate(self, size: int) -> int:
        """The offset of so many bytes; waits in order while there is no room. The size must be at most the arena's.

        Raises ConnectionResetError when the room is closed meanwhile, or was."""
        if self._closed:
            raise ConnectionResetError(self._closed)
        offset = self.allocate_now(size)
        if offset is not None:
            return offset
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiters.append((size, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.free(future.result())
            else:
                self._serve()  # the one who gives up may have held up others
            raise

    def allocate_now(self, size: int) -> int | None:
        """The same if there is room and nobody waits; None otherwise."""
        return None if self._waiters or self._closed else self._parts.allocate(size)

    def free(self, offset: int) -> None:
        """Gives back what `allocate` returned, and serves those who wait."""
        self._parts.free(offset)
        self._serve()

    def close(self, why: str) -> None:
        """Those who wait get ConnectionResetError, and all who come."""
        self._closed = why
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(ConnectionResetError(why))
        self._waiters.clear()

    def _serve(self) -> None:
        while self._waiters:
            size, future = self._waiters[0]
            offset = None if future.done() else self._parts.allocate(size)
            if offset is not None:
                future.set_result(offset)
            elif not future.done():
                return
            self._waiters.popleft()
