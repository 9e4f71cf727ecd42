# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Slabs: pieces of memory that the daemon and one worker share.

Each worker has two arenas. In the request arena the daemon allocates and the worker reads; in the reply arena the
worker allocates and the daemon reads. So each arena has one allocator, in one process, and no lock is shared.

An arena is an anonymous file (`memfd_create`) whose pages are taken at the start (`posix_fallocate`): a full machine
fails there with a clear error, not later with SIGBUS under a copy. Named POSIX shared memory is not used: a killed
attacher's resource tracker unlinks the owner's segment.
"""

from __future__ import annotations

import bisect
import mmap
import os

from remotegpu.wire import aligned


class FreeList:
    """Which parts of an arena are free: first fit, neighbours merged. Pure; sizes and offsets in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._starts: list[int] = [0] if size else []
        self._ends: list[int] = [size] if size else []
        self._taken: dict[int, int] = {}

    def allocate(self, size: int) -> int | None:
        """The offset of `size` bytes (rounded up to the alignment, at least one unit), or None if they do not fit."""
        size = max(aligned(size), aligned(1))
        for index, start in enumerate(self._starts):
            if self._ends[index] - start >= size:
                if self._ends[index] - start == size:
                    del self._starts[index], self._ends[index]
                else:
                    self._starts[index] = start + size
                self._taken[start] = size
                self.used += size
                return start
        return None

    def free(self, offset: int) -> None:
        """Gives back what `allocate` returned. Raises KeyError for anything else."""
        size = self._taken.pop(offset)
        self.used -= size
        start, end = offset, offset + size
        index = bisect.bisect_left(self._starts, start)
        if index < len(self._starts) and self._starts[index] == end:
            end = self._ends[index]
            del self._starts[index], self._ends[index]
        if index and self._ends[index - 1] == start:
            self._ends[index - 1] = end
        else:
            self._starts.insert(index, start)
            self._ends.insert(index, end)


class Arena:
    """Memory shared by descriptor; mapped for the life of this object."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._map = mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.view = memoryview(self._map)

    @classmethod
    def create(cls, name: str, size: int) -> Arena:
        """A new arena of `size` bytes, all of them taken now. Raises OSError (ENOSPC, ENOMEM) if they are not there."""
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, size)
            return cls(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise

    def close_descriptor(self) -> None:
        """Closes the descriptor; the mapping lives on until the last view of it is gone."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
