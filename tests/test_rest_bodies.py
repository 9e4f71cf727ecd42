# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Bodies of HTTP requests: their memory, their pace, inflating them."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu import errors
from remotegpu_server.standard import rest_bodies
from remotegpu_server.standard.rest_bodies import INFLATED_PIECE, Limit, Room, TooLarge, TooSlow, read

SIZE = 4 * INFLATED_PIECE
LIMIT = Limit(SIZE, "in this test")


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def read_all(pieces: Iterable[bytes], encoding: str = "") -> bytes:
    async def main() -> bytes:
        room = Room(SIZE)
        with room.share() as share:
            body = await read(stream(pieces), share, LIMIT, encoding)
            assert room.used == len(body)
        assert room.used == 0
        return bytes(body)

    return asyncio.run(main())


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5))
def test_a_body_is_put_together(pieces: list[bytes]) -> None:
    assert read_all(pieces) == b"".join(pieces)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [0, 1, INFLATED_PIECE - 1, INFLATED_PIECE, INFLATED_PIECE + 1, SIZE])
@pytest.mark.parametrize("cut_size", [1000, 10**9])
def test_a_compressed_body_is_inflated_whatever_its_pieces(encoding: str, size: int, cut_size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    compressed = gzip.compress(data) if encoding == "gzip" else zlib.compress(data)
    assert read_all(cut(compressed, cut_size), encoding) == data


def test_a_bomb_is_refused_when_it_passes_the_limit() -> None:
    async def held() -> int:
        room = Room(100 * SIZE)
        with room.share() as share:
            with pytest.raises(TooLarge):
                await read(stream([gzip.compress(bytes(20 * SIZE))]), share, LIMIT, "gzip")
            return room.used

    assert asyncio.run(held()) <= SIZE


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        (b"no gzip at all", "gzip", "incorrect header"),
        (zlib.compress(b"abc"), "gzip", "incorrect header"),
        (gzip.compress(b"abc", mtime=0)[:-1], "gzip", "cut short"),
        (b"", "gzip", "cut short"),
        (gzip.compress(b"abc", mtime=0)[:-5] + b"\0\0\0\0\0", "gzip", "incorrect"),
        (gzip.compress(b"abc", mtime=0) + b"more", "gzip", "more bytes after the end"),
        (gzip.compress(b"abc", mtime=0) * 2, "gzip", "more bytes after the end"),
        (zlib.compress(b"abc")[:-1], "deflate", "cut short"),
    ],
)
@pytest.mark.parametrize("cut_size", [1, 1000])
def test_a_broken_compressed_body_is_refused(data: bytes, encoding: str, words: str, cut_size: int) -> None:
    with pytest.raises(errors.ProtocolError, match=words):
        read_all(cut(data, cut_size), encoding)


def test_other_encodings_are_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="gzip or deflate"):
        read_all([b"x"], "br")


def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    async def main() -> int:
        taken = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield bytes(SIZE // 4)

        with Room(SIZE).share() as share, pytest.raises(TooLarge):
            await read(endless(), share, LIMIT)
        return taken

    assert asyncio.run(main()) == 5


def test_a_body_that_drips_or_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_bodies, "GRACE", 0.1)

    async def dripping() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)  # the pace is what is tested
            yield b"x"

    async def silent() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def main(pieces: AsyncIterator[bytes]) -> None:
        with Room(SIZE).share() as share:
            await read(pieces, share, LIMIT)

    for pieces in (dripping(), silent()):
        with pytest.raises(TooSlow):
            asyncio.run(asyncio.wait_for(main(pieces), 5))


def test_the_room_is_shared_and_the_first_one_always_gets_on() -> None:
    async def main() -> None:
        room, order = Room(10), []

        async def body(name: str, sizes: list[int], go: asyncio.Event) -> None:
            with room.share() as share:
                for size in sizes:
                    await share.grow(size)
                order.append((name, room.used))
                await go.wait()

        go = [asyncio.Event() for _ in range(3)]
        first = asyncio.ensure_future(body("first", [6, 7], go[0]))  # above the limit, since it came first
        second = asyncio.ensure_future(body("second", [10, 3], go[1]))
        third = asyncio.ensure_future(body("third", [1], go[2]))
        await asyncio.sleep(0)
        assert order == [("first", 13)]
        go[0].set()
        await first
        await asyncio.sleep(0)
        # The second one is the first of those that are left, and 13 bytes are no room for the third.
        assert order == [("first", 13), ("second", 13)]
        go[1].set()
        await asyncio.gather(second, asyncio.sleep(0))
        go[2].set()
        await asyncio.wait_for(third, 5)
        assert order[2:] == [("third", 1)]
        assert room.used == 0

    asyncio.run(main())


def test_one_that_gives_up_leaves_the_room_to_others() -> None:
    async def main() -> None:
        room = Room(10)

        async def body(size: int) -> None:
            with room.share() as share:
                await share.grow(size)

        with room.share() as first:
            await first.grow(8)
            large, small = asyncio.ensure_future(body(5)), asyncio.ensure_future(body(3))
            await asyncio.sleep(0)
            large.cancel()
            await asyncio.wait([large])
            assert room.used == 8
        await asyncio.wait_for(small, 5)
        assert room.used == 0

    asyncio.run(main())


def test_who_waits_too_long_for_room_hears_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_bodies, "ROOM_PATIENCE", 0.05)

    async def main() -> None:
        room = Room(10)
        with room.share() as first, room.share() as second:
            await first.grow(10)
            with pytest.raises(errors.Unavailable, match="memory for bodies"):
                await second.grow(1)
        assert room.used == 0

    asyncio.run(main())
