# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Bodies of HTTP requests as they come in: how much memory they take, how slowly they may come, inflating them.

A body is held whole, since its tensors are named by the JSON at its front; so what counts is how much memory all bodies
take together. Memory is counted when bytes arrive, not when they are promised: a caller that announces much and sends
nothing takes nothing from others.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from remotegpu import errors

# A body must come in GRACE seconds, and a second more for each RATE bytes: slow lines may be slow, but not silent.
GRACE = 10.0
RATE = 64 * 1024
# How long a body may wait for the memory that others take. Seconds.
ROOM_PATIENCE = 20.0
# A compressed body grows by pieces of this size, so that it never has more than one piece over its limit.
INFLATED_PIECE = 256 * 1024
# zlib's names for the formats: 31 is gzip, 15 is what HTTP calls deflate.
FORMATS = {"gzip": 31, "deflate": 15}


class TooLarge(errors.InvalidInput):
    """A body above the limit. It is not read to its end."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How large a body may be, in bytes, and where that comes from, for messages."""

    size: int
    why: str

    def check(self, size: int) -> None:
        """Raises TooLarge."""
        if size > self.size:
            raise TooLarge(field="body", limit=f"at most {self.size} bytes ({self.why})", given=f"{size} bytes")


class TooSlow(errors.DeadlineExceeded):
    """A body that did not come in time."""


class Room:
    """Memory for all bodies that are read or answered now: `limit` bytes.

    Bodies grow while they are read, so two might each wait for what the other has. The one that came first may
    therefore exceed the limit: it always gets on, and at most `limit` and one body are held."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        # In the order of arrival, with their bytes; and those among them that wait, with what they want to have.
        self._shares: dict[int, int] = {}
        self._waiting: dict[int, tuple[int, asyncio.Future[None]]] = {}
        self._count = 0

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    @contextlib.contextmanager
    def share(self) -> Iterator[Share]:
        """A body's share of the room, given back at the end of the block."""
        self._count += 1
        number = self._count
        self._shares[number] = 0
        try:
            yield Share(self, number)
        finally:
            self._used -= self._shares.pop(number)
            self._admit_waiting()

    async def grow(self, number: int, size: int) -> None:
        """Raises Unavailable when there is no room in time."""
        if self._fits(number, size):
            self._take(number, size)
            return
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = size, answer
        try:
            async with asyncio.timeout(ROOM_PATIENCE):
                await answer
        except TimeoutError:
            raise errors.Unavailable(why="other requests take up the memory for bodies") from None
        finally:
            self._waiting.pop(number, None)

    def _fits(self, number: int, size: int) -> bool:
        return self._used + size <= self._limit or next(iter(self._shares)) == number

    def _take(self, number: int, size: int) -> None:
        self._shares[number] += size
        self._used += size

    def _admit_waiting(self) -> None:
        for number in sorted(self._waiting):
            size, answer = self._waiting[number]
            if answer.done() or not self._fits(number, size):
                continue
            del self._waiting[number]
            self._take(number, size)
            answer.set_result(None)


class Share:
    """What one body takes of the room."""

    def __init__(self, room: Room, number: int) -> None:
        self._room = room
        self._number = number

    async def grow(self, size: int) -> None:
        """Takes so many bytes more. Raises Unavailable when there is no room in time."""
        await self._room.grow(self._number, size)


async def read(pieces: AsyncIterator[bytes], share: Share, limit: Limit, encoding: str = "") -> bytearray:
    """A whole body, inflated when `encoding` is "gzip" or "deflate". `limit` is for the inflated bytes.

    Raises TooLarge; TooSlow for a caller that sends too slowly; Unavailable when there is no room;
    InvalidInput for another encoding; ProtocolError for a compressed body that is broken, cut short or followed by
    more."""
    body = bytearray()
    inflater = _Inflater(encoding) if encoding not in ("", "identity") else None
    incoming, spent, received = aiter(pieces), 0.0, 0
    loop = asyncio.get_running_loop()
    while True:
        patience = GRACE + received / RATE
        begun = loop.time()
        try:
            async with asyncio.timeout(patience - spent):
                piece = await anext(incoming, b"")
        except TimeoutError:
            raise TooSlow(deadline=patience) from None
        spent += loop.time() - begun
        received += len(piece)
        if not piece:
            break
        if inflater is None:
            await _append(body, piece, share, limit)
            continue
        async for inflated in inflater.pieces(piece):
            await _append(body, inflated, share, limit)
    if inflater is not None:
        inflater.check_end()
    return body


async def _append(body: bytearray, piece: bytes, share: Share, limit: Limit) -> None:
    limit.check(len(body) + len(piece))
    await share.grow(len(piece))
    body += piece


class _Inflater:
    """zlib by pieces, in a thread: a few bytes may inflate to a thousand times as many, and it lets go of the GIL."""

    def __init__(self, encoding: str) -> None:
        if encoding not in FORMATS:
            limit = f"{' or '.join(FORMATS)}, or none"
            raise errors.InvalidInput(field="Content-Encoding", limit=limit, given=repr(encoding[:80]))
        self._encoding = encoding
        self._stream = zlib.decompressobj(FORMATS[encoding])

    async def pieces(self, data: bytes) -> AsyncIterator[bytes]:
        while data:
            if self._stream.eof:
                raise errors.ProtocolError(what=f"{self._encoding}: more bytes after the end of the compressed body")
            try:
                inflated = await asyncio.to_thread(self._stream.decompress, data, INFLATED_PIECE)
            except zlib.error as error:
                raise errors.ProtocolError(what=f"{self._encoding}: {error}") from error
            if inflated:
                yield inflated
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail

    def check_end(self) -> None:
        if not self._stream.eof:
            raise errors.ProtocolError(what=f"{self._encoding}: the compressed body is cut short")
