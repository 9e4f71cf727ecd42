# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Uploads of contents. The event loop only passes pieces on: a thread hashes and writes them, since both take as long
as several small calls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, ParamSpec, TypeVar

from remotegpu import errors, wire
from remotegpu.v1 import compute_pb2 as pb
from remotegpu_server.contents import ContentStore, Upload

from .bounds import MOST_DIGESTS, MOST_UPLOADS

logger = logging.getLogger("remotegpu.gateway")

T = TypeVar("T")
P = ParamSpec("P")

# How long a caller may take for each piece (1 MiB): it takes one of few places. Seconds.
PIECE_PATIENCE = 30.0
# An upload that has had no piece for so long gives way to another one of the same content: its caller has probably come
# back over a new connection. Seconds.
_GIVES_WAY = 2.0
# Before another look at one that was told to. Seconds.
_LOOK_AGAIN = 0.5
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ContentService:
    """Answers `Compute/Has` and `Compute/Put`."""

    def __init__(self, store: ContentStore, piece_patience: float = PIECE_PATIENCE) -> None:
        self._store = store
        self._patience = piece_patience
        self._under_way: dict[tuple[str, bytes], _UnderWay] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def has(self, request: bytes, tenant: str) -> bytes:
        """What the tenant has of contents. Raises InvalidInput for what are no digests."""
        digests = wire.parse(pb.HasRequest, request).digests
        if len(digests) > MOST_DIGESTS:
            raise errors.InvalidInput(field="digests", limit=f"at most {MOST_DIGESTS}", given=str(len(digests)))
        reply = pb.HasReply()
        for digest in digests:
            stored = self._store.stored(tenant, digest)
            reply.stored.add(complete=stored.complete, size=stored.size)
        return reply.SerializeToString()

    async def put(self, incoming: AsyncIterator[bytes], tenant: str) -> bytes:
        """Takes in one content.

        Raises ProtocolError for an upload that is cut short, DeadlineExceeded for a caller that is too slow and
        Unavailable where another upload took over: what has come by then is kept. Raises InvalidInput for a header or
        bytes that are not what they should be, and StoreFull: nothing is kept."""
        try:
            async with asyncio.timeout(self._patience):
                head, middle, piece = wire.split(await anext(incoming, b""))
        except TimeoutError:
            raise errors.DeadlineExceeded(deadline=self._patience) from None
        if middle:
            raise errors.ProtocolError(what=f"{len(middle)} bytes between the header and the piece of an upload")
        header = wire.parse(pb.PutHeader, head)
        key = tenant, header.digest
        await self._alone(key)
        # From here to the entry in the table nothing waits, so that no other upload comes between.
        if len(self._under_way) >= MOST_UPLOADS:
            raise errors.Unavailable(why=f"{MOST_UPLOADS} uploads are under way")
        upload = self._store.begin(tenant, header.digest, header.size, header.offset)
        if upload is None:
            return pb.PutReply(stored_now=False).SerializeToString()
        under_way = self._under_way[key] = _UnderWay(incoming, piece, self._patience)
        outcome = self._store.discard
        try:
            await self._receive(upload, under_way)
            outcome = self._store.complete
        except (errors.ProtocolError, errors.TransportError, errors.Unavailable, asyncio.CancelledError):
            outcome = self._store.rest
            raise
        finally:
            # A task of its own: whatever happens to this one, the upload must come to its end.
            ending = asyncio.create_task(self._end(key, upload, outcome))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)
        return pb.PutReply(stored_now=True).SerializeToString()

    async def _alone(self, key: tuple[str, bytes]) -> None:
        """Waits until no other upload of the same content is under way; one that is silent has to give way."""
        loop = asyncio.get_running_loop()
        while (other := self._under_way.get(key)) is not None:
            silent_at = other.last + _GIVES_WAY
            if loop.time() >= silent_at:
                other.give_way()
                silent_at = loop.time() + _LOOK_AGAIN
            with contextlib.suppress(TimeoutError):  # it has not ended: the loop looks again
                async with asyncio.timeout_at(silent_at):
                    await other.ended.wait()

    async def _receive(self, upload: Upload, under_way: _UnderWay) -> None:
        await self._disk(upload, under_way, upload.open)
        piece = under_way.first
        while True:
            if len(piece) > upload.left:
                limit = f"the {upload.size} bytes that were announced"
                raise errors.InvalidInput(field="content", limit=limit, given="more")
            if piece:
                self._store.grow(upload, len(piece))
                await self._disk(upload, under_way, upload.write, piece)
            if not upload.left:
                break
            piece = await under_way.next()
            if not piece:
                what = f"an upload of {upload.size} bytes ended after {upload.entry.size}: cut short"
                raise errors.ProtocolError(what=what)
        digest = await self._disk(upload, under_way, upload.seal)
        if digest != upload.entry.digest:
            limit = f"bytes whose digest is {upload.entry.digest.hex()}"
            raise errors.InvalidInput(field="content", limit=limit, given=f"bytes whose digest is {digest.hex()}")

    async def _disk(
        self, upload: Upload, under_way: _UnderWay, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What blocks on the disk, on a thread. Raises StoreFull for a full or broken one."""
        try:
            # Shielded: the thread goes on when the caller has gone, and the end of the upload waits for it.
            under_way.disk = disk = self._threaded(functools.partial(work, *args, **kwargs))
            return await asyncio.shield(disk)
        except OSError as error:
            raise self._disk_error(upload, error) from error

    def _threaded(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._store.threads, work)

    def _disk_error(self, upload: Upload, error: OSError) -> errors.Error:
        why = f"the disk: {error.strerror}"
        if error.errno not in _DISK_FULL:
            logger.warning("the store cannot be written: %s", error)
        return errors.StoreFull(asked=upload.size, limit=self._store.index.limit, why=why)

    async def _end(self, key: tuple[str, bytes], upload: Upload, outcome: Callable[[Upload], None]) -> None:
        disk = self._under_way[key].disk
        if disk is not None:
            await asyncio.wait([disk])
        await self._threaded(upload.close)
        try:
            (self._store.discard if upload.failed else outcome)(upload)
        except OSError as error:
            self._store.discard(upload)
            raise self._disk_error(upload, error) from error
        finally:
            self._under_way.pop(key).ended.set()


class _UnderWay:
    """An upload under way: its pieces, and when the last one came, on the loop's clock."""

    def __init__(self, incoming: AsyncIterator[bytes], first: memoryview, patience: float) -> None:
        self.first = first
        self.ended = asyncio.Event()
        self._incoming = incoming
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self.last = self._loop.time()
        # What a thread does for it, or did last.
        self.disk: asyncio.Future[Any] | None = None
        self._waiting: asyncio.Timeout | None = None
        self._is_to_give_way = False

    async def next(self) -> memoryview:
        """The next piece; empty at the end. Raises DeadlineExceeded, or Unavailable if it gave way to another."""
        self.last = self._loop.time()
        try:
            async with asyncio.timeout(self._patience) as self._waiting:
                message = await anext(self._incoming, b"")
        except TimeoutError:
            if self._is_to_give_way:
                raise errors.Unavailable(why="another connection uploads the same content") from None
            raise errors.DeadlineExceeded(deadline=self._patience) from None
        finally:
            self._waiting = None
        self.last = self._loop.time()
        head, middle, piece = wire.split(message)
        if len(head) or len(middle):
            raise errors.ProtocolError(what="a piece of an upload that has more than its bytes")
        return piece

    def give_way(self) -> None:
        """Ends it if it waits for its caller."""
        if self._waiting is not None:
            self._is_to_give_way = True
            self._waiting.reschedule(self._loop.time())
