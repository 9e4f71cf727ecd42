# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a worker needs of a device: arrays, transfers, memory, time. `host` and `cuda` are the two kinds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

HostArray = np.ndarray[Any, np.dtype[Any]]


class Device(Protocol):
    """One device as its worker sees it. Arrays are the device's own kind; a mark is a point on its time line."""

    name: str
    # The Array API namespace that operations run in.
    xp: Any
    # ONNX Runtime's execution provider with its options.
    provider: tuple[str, dict[str, str]]
    # The type of place that ONNX Runtime binds tensors to.
    place: str

    def adopt_arena(self, memory: memoryview) -> None:
        """Prepares shared memory for transfers, once, for the life of the worker."""

    def upload(self, source: HostArray) -> Any:
        """An array on the device with the values of `source`, which may be the same memory on the host."""

    def download(self, array: Any, target: HostArray) -> None:
        """Copies into `target` (same dtype and shape), complete when this returns."""

    def own(self, array: Any) -> Any:
        """The array, or a copy that shares no memory with the arenas: for what is kept."""

    def memory_scope(self, lease: int, limit: int) -> AbstractContextManager[None]:
        """Allocations inside belong to the lease; `limit` bytes at most, 0: the device's."""

    def drop(self, lease: int) -> None:
        """Gives back the memory of a lease, after its arrays are gone, at the latest before the next `memory_scope`.
        The only method that any thread may call, also while a program of another lease runs; it must not wait for it.
        """

    def when_short(self, give_back: Callable[[], None]) -> None:
        """Has that called when the device has no more memory, before an allocation fails for it: it lets go of arrays
        that are kept for later. Any thread that allocates may call it."""

    def free_memory(self) -> int:
        """Bytes that leases may declare."""

    def pointer(self, array: Any) -> int:
        """The device address of a C-contiguous array."""

    def wrap(self, pointer: int, dtype: np.dtype[Any], shape: tuple[int, ...], owner: object) -> Any:
        """An array on memory that `owner` keeps alive."""

    def mark(self) -> Any:
        """A point in time, behind the work submitted so far."""

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Nanoseconds between two marks; waits for the second."""

    def is_broken(self, error: BaseException) -> bool:
        """Whether the device cannot be used by this process any more after that error."""

    def memory_error(self, error: BaseException) -> int | None:
        """Bytes asked for (0: not known) if the error says that memory is used up, None otherwise."""
