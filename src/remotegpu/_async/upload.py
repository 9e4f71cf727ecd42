# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Bringing contents to the server, by themselves or because a call needs them: see `remotegpu.content`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TypeVar

from remotegpu import deadlines, errors, graph, wire
from remotegpu.content import Blob
from remotegpu.v1 import compute_pb2 as pb

from .concurrency import sleep
from .transport import AsyncTransport

T = TypeVar("T")

# What an upload is allowed to take, if nothing else is said: this long, and as long as the bytes take at this speed.
# Seconds, bytes per second.
_LEAST_TIME = 60.0
_LEAST_SPEED = 256 * 1024
# Uploads that break off one after the other without any progress.
_TRIES = 5


async def put(
    transport: AsyncTransport,
    blob: Blob,
    timeout: float | None,
    stored: pb.HasReply.Stored | None = None,
) -> bool:
    """Brings a content to the server, unless it is there: True if it had to be sent. An upload that breaks off is
    resumed where it stopped. `timeout`: seconds for everything, None: as long as a slow line needs. `stored`: what the
    server has just said that it has.

    Raises StoreFull, InvalidInput for bytes that changed meanwhile, or a TransportError."""
    seconds, _ = deadlines.bounded(_LEAST_TIME + blob.size / _LEAST_SPEED if timeout is None else timeout)
    until = time.monotonic() + seconds
    tries, reached = 0, -1
    while True:
        if stored is None:
            (stored,) = await _stored(transport, [blob.digest], until)
        if stored.complete:
            return tries > 0
        if stored.size > reached:
            tries, reached = 0, stored.size
        tries += 1
        offset, stored = stored.size, None
        try:
            return await _upload(transport, blob, offset, until)
        except (errors.ConnectionLost, errors.Unavailable, errors.InvalidInput) as error:
            # The part on the server may have gone between the question and the upload.
            final = isinstance(error, errors.InvalidInput) and error.field != "content offset"
            if final or tries >= _TRIES or time.monotonic() >= until:
                raise
            if isinstance(error, errors.Unavailable):
                await sleep(min(error.retry_after, max(until - time.monotonic(), 0)))


async def _stored(transport: AsyncTransport, digests: Sequence[bytes], until: float) -> Sequence[pb.HasReply.Stored]:
    request = pb.HasRequest(digests=digests).SerializeToString()
    answer = await transport.unary("Compute/Has", request, _left(until), idempotent=True)
    stored = wire.parse(pb.HasReply, answer).stored
    if len(stored) != len(digests):
        raise errors.ProtocolError(what=f"{len(stored)} answers about {len(digests)} contents")
    return stored


async def _upload(transport: AsyncTransport, blob: Blob, offset: int, until: float) -> bool:
    def messages() -> Iterator[bytes]:
        header = pb.PutHeader(digest=blob.digest, size=blob.size, offset=offset).SerializeToString()
        for piece in blob.pieces(offset):
            yield wire.join(header, b"", (piece,))
            header = b""
        if header:
            yield wire.join(header, b"")

    async with aclosing(transport.stream("Compute/Put", messages, False, _left(until))) as stream:
        answer = await anext(stream)
        async for _ in stream:
            pass  # its end
    return wire.parse(pb.PutReply, answer).stored_now


async def supply(transport: AsyncTransport, plan: graph.Plan, timeout: float | None) -> None:
    """Puts the contents of a program that the server does not have. Raises as `put` does."""
    contents = [node for _, node in plan.contents.values()]
    until = time.monotonic() + (_LEAST_TIME if timeout is None else timeout)
    stored = await _stored(transport, [node.digest for node in contents], until)
    for node, there in zip(contents, stored, strict=True):
        if not there.complete:
            blob = Blob(node.digest, node.array.nbytes, wire.bytes_of(node.array))
            await put(transport, blob, None if timeout is None else _left(until), there)


async def call(
    send: Callable[[float | None], Awaitable[T]],
    transport: Callable[[], Awaitable[AsyncTransport]],
    plan: graph.Plan,
    timeout: float | None,
) -> T:
    """A call of that program. `send` takes the seconds that it may take; if the server lacks contents, they are put
    there and it is sent again, once. They have time of their own unless a `timeout` is given, which is for everything.
    Raises any error of the tree."""
    started = time.monotonic()

    def left() -> float | None:
        return None if timeout is None else max(timeout - (time.monotonic() - started), 0.001)

    try:
        return await send(timeout)
    except errors.ContentMissing:
        await supply(await transport(), plan, left())
    return await send(left())


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.001)
