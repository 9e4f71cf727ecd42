# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""CPU devices: NumPy arrays in the worker's own memory."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_compat.numpy
import numpy as np

from .device import HostArray

_NO_SCOPE = contextlib.nullcontext()


class HostDevice:
    """Implements `Device` on the host. Uploads are views of the request arena: there is nothing to transfer."""

    name = "CPU"
    xp: Any = array_api_compat.numpy
    provider: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    place = "cpu"

    def __init__(self, memory: int) -> None:
        """`memory`: bytes for everything the worker allocates from now on. Enforced by the kernel (RLIMIT_DATA), so
        that one program that asks for too much gets an error and not the out-of-memory killer."""
        self._memory = memory
        self._arenas: list[HostArray] = []
        # Infinities and NaN are results, as on a GPU, not lines on the operator's screen.
        np.seterr(all="ignore")
        limit = _private_bytes() + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def adopt_arena(self, memory: memoryview) -> None:
        self._arenas.append(np.frombuffer(memory, np.uint8))

    def upload(self, source: HostArray) -> Any:
        return source

    def download(self, array: Any, target: HostArray) -> None:
        np.copyto(target, array, casting="no")

    def own(self, array: Any) -> Any:
        array = np.asarray(array)
        if any(np.may_share_memory(array, arena) for arena in self._arenas):
            return array.copy()
        # A view would keep its whole base alive, and be counted with its own size only.
        return array if array.base is None else array.copy()

    def memory_scope(self, lease: int, limit: int) -> contextlib.AbstractContextManager[None]:
        return _NO_SCOPE

    def drop(self, lease: int) -> None:
        """Nothing to do: the arrays were the memory."""

    def when_short(self, give_back: Callable[[], None]) -> None:
        """Nothing to do: what could be given back are mapped files, most of the time."""

    def free_memory(self) -> int:
        return self._memory

    def pointer(self, array: Any) -> int:
        return int(array.ctypes.data)

    def wrap(self, pointer: int, dtype: np.dtype[Any], shape: tuple[int, ...], owner: object) -> Any:
        raise TypeError("host tensors are passed as arrays, never by address")

    def mark(self) -> Any:
        return time.perf_counter_ns()

    def elapsed_ns(self, start: Any, end: Any) -> int:
        return int(end - start)

    def is_broken(self, error: BaseException) -> bool:
        return False

    def memory_error(self, error: BaseException) -> int | None:
        return 0 if isinstance(error, MemoryError) else None


def _private_bytes() -> int:
    """The writable private memory of this process, which RLIMIT_DATA counts (proc(5), statm field `data`)."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
