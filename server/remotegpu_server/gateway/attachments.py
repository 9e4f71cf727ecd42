# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The inputs of one call that are not in its body: contents, which the worker opens by their paths, and files that are
fetched straight into the slab, behind the body.

    slab:  program | Attachments message | body | fetched files      (each aligned)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from remotegpu import errors, wire
from remotegpu.v1 import attachments_pb2
from remotegpu.v1 import compute_pb2 as pb
from remotegpu_server.contents import ContentStore, Pins

from .bounds import MOST_DIGESTS, MOST_FETCHES

if TYPE_CHECKING:
    from .fetching import OpenFile


class Opens(Protocol):
    """Who fetches files."""

    async def open(self, text: str, limit: int) -> OpenFile:
        """A file whose headers have arrived, of at most `limit` bytes. Raises InvalidInput or FetchFailed."""

    async def close(self) -> None:
        """Ends all transfers."""


@dataclass(slots=True)
class Sources:
    """Where inputs come from beside bodies. Without a fetcher nothing is fetched: the operator allows no host."""

    store: ContentStore
    fetcher: Opens | None = None

    @classmethod
    def of(cls, store: ContentStore, hosts: Sequence[str]) -> Sources:
        """`hosts`: from where files may be fetched. The library for it is loaded only if there are any."""
        if not hosts:
            return cls(store)
        from .fetching import AllowedHosts, Fetcher

        return cls(store, Fetcher(AllowedHosts.of(hosts)))

    async def close(self) -> None:
        """Ends transfers, and gives the store up when what is being written is on the disk."""
        if self.fetcher is not None:
            await self.fetcher.close()
        await asyncio.to_thread(self.store.close)


class Attachments:
    """Those of one call. Enter `held` around all of it, then `open` when the call has its place, then `fill`."""

    def __init__(self, sources: Sources | None, tenant: str, header: pb.RunHeader) -> None:
        """Raises InvalidInput for what the header alone shows."""
        _check_count("contents", len(header.contents), MOST_DIGESTS)
        _check_count("fetches", len(header.fetches), MOST_FETCHES)
        self._sources = sources
        self._tenant = tenant
        self._header = header
        self._pins: Pins | None = None
        self._files: dict[int, OpenFile] = {}
        self._message = attachments_pb2.Attachments()
        self._message_start = 0
        # Bytes of the message; 0: there are no attachments.
        self.size = 0
        # From the start of the slab.
        self.body_start = 0
        self.end = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Contents stay while this lasts; transfers that are not over at its end are ended.

        Raises ContentMissing, or InvalidInput for what is no digest, before anything of the call has run."""
        try:
            if self._header.contents:
                self._pins = self._pinned()
            yield
        finally:
            for file in self._files.values():
                file.close()
            if self._pins is not None:
                self._pins.release()

    def _pinned(self) -> Pins:
        if self._sources is None:
            raise errors.Unavailable(why="it has no store for contents")
        return self._sources.store.pin(self._tenant, self._header.contents)

    async def open(self, program_size: int, limit: int) -> None:
        """Asks for the files, and lays out the slab: `size`, `body_start` and `end` hold afterwards.

        Raises InvalidInput if it would be larger than `limit` bytes or a URL may not be fetched, FetchFailed."""
        fetches = self._header.fetches
        if fetches:
            await _all([self._open(number, fetch) for number, fetch in enumerate(fetches)])
        self._message_start = wire.aligned(program_size)
        if self._pins is not None:
            for entry, path in zip(self._pins.entries, self._pins.paths, strict=True):
                self._message.contents.add(digest=entry.digest, path=str(path), size=entry.size)
        for _ in fetches:
            self._message.fetched.add(offset=0, size=0)
        self.size = self._message.ByteSize()
        self.body_start = self._message_start + wire.aligned(self.size)
        self.end = self.body_start + self._header.body_size
        for number, span in enumerate(self._message.fetched):
            span.offset = wire.aligned(self.end) - self.body_start
            self.end = self.body_start + span.offset + self._files[number].room
        if self.end > limit:
            allowed = f"at most {limit} bytes in one call, with what is fetched"
            raise errors.InvalidInput(field="request size", limit=allowed, given=f"{self.end} bytes")

    async def _open(self, number: int, fetch: pb.Fetch) -> None:
        fetcher = self._sources.fetcher if self._sources is not None else None
        if fetcher is None:
            limit = "no URLs: the operator allows no host (--fetch-hosts)"
            raise errors.InvalidInput(field="url", limit=limit, given="one")
        self._files[number] = await fetcher.open(fetch.url, fetch.limit)

    async def fill(self, slab: memoryview) -> None:
        """Reads the files into the slab, and writes the message. Raises InvalidInput or FetchFailed."""
        if self._files:
            await _all([self._read(number, slab) for number in self._files])
        message = self._message.SerializeToString()
        assert len(message) == self.size, "its numbers are of fixed size"
        slab[self._message_start : self._message_start + self.size] = message

    async def _read(self, number: int, slab: memoryview) -> None:
        span, file = self._message.fetched[number], self._files[number]
        start = self.body_start + span.offset
        span.size = await file.read_into(slab[start : start + file.room])


def _check_count(what: str, given: int, most: int) -> None:
    if given > most:
        raise errors.InvalidInput(field=what, limit=f"at most {most} in one call", given=str(given))


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs them at once; the first error ends the others before it is raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
