# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA devices: CuPy arrays. The only file that imports CuPy.

The worker sees one GPU, as device 0 (the daemon sets CUDA_VISIBLE_DEVICES to its UUID). All work goes to one stream,
ONNX Runtime's too, so order needs no events; events only measure.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import array_api_compat.cupy
import cupy
import numpy as np
from cupy.cuda import driver, runtime

from .device import HostArray

# Errors after which the context answers nothing but the same error (CUDA Runtime API, cudaError_t):
# assert, hardware stack error, illegal instruction, misaligned address, invalid address space, invalid pc,
# illegal address, launch failure, ECC uncorrectable, hang of a launch (timeout).
_STICKY = {214, 700, 702, 710, 714, 715, 716, 717, 718, 719}


class CudaDevice:
    """Implements `Device` on one GPU. A lease that declared memory has a pool of its own with that limit."""

    xp: Any = array_api_compat.cupy
    place = "cuda"

    def __init__(self) -> None:
        self._device = cupy.cuda.Device(0)
        self._device.use()
        # Not a non-blocking one: some copies of ONNX Runtime go to the default stream, and must keep their order with
        # what is here.
        self._stream = cupy.cuda.Stream()
        self._stream.use()
        self._pools: dict[int, Any] = {}
        # Pools of leases that have ended, until they are empty. `drop` comes from another thread than programs.
        self._dropped: list[Any] = []
        self._dropped_lock = threading.Lock()
        self._give_back: Callable[[], None] = lambda: None
        self.name = runtime.getDeviceProperties(0)["name"].decode()
        self.provider = (
            "CUDAExecutionProvider",
            {"device_id": "0", "user_compute_stream": str(self._stream.ptr)},
        )
        cupy.cuda.set_allocator(partial(self._malloc, self._pool(0)))

    def _pool(self, lease: int) -> Any:
        pool = self._pools.get(lease)
        if pool is None:
            pool = self._pools[lease] = cupy.cuda.MemoryPool()
        return pool

    def adopt_arena(self, memory: memoryview) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        runtime.hostRegister(address, len(memory), 0)

    def upload(self, source: HostArray) -> Any:
        array = cupy.empty(source.shape, dtype=source.dtype)
        if array.nbytes:
            array.data.copy_from_host_async(source.ctypes.data, array.nbytes, self._stream)
        return array

    def download(self, array: Any, target: HostArray) -> None:
        if not array.flags.c_contiguous:
            array = array.copy()  # cupy.ascontiguousarray would make [1] of an array without dimensions
        if array.dtype != target.dtype or array.shape != target.shape:
            raise TypeError(f"{array.dtype}{array.shape} into {target.dtype}{target.shape}")
        if array.nbytes:
            array.data.copy_to_host_async(target.ctypes.data, array.nbytes, self._stream)
        self._stream.synchronize()

    def own(self, array: Any) -> Any:
        # A view would keep its whole base; memory that ONNX Runtime owns is not the lease's.
        array = cupy.asarray(array)
        borrowed = array.base is not None or isinstance(array.data.mem, cupy.cuda.UnownedMemory)
        return array.copy() if borrowed else array

    @contextlib.contextmanager
    def memory_scope(self, lease: int, limit: int) -> Iterator[None]:
        self._free_dropped()
        # Leases that declared nothing share one pool: a pool of its own would cost them cudaMalloc in every call.
        pool = self._pool(lease if limit else 0)
        if limit:
            pool.set_limit(size=limit)
        with cupy.cuda.using_allocator(partial(self._malloc, pool)):
            yield

    def _malloc(self, pool: Any, size: int) -> Any:
        """Memory of a pool. When the device has no more, what is kept for later and was declared by nobody is given
        back first; a pool itself gives back only its own. Raises OutOfMemoryError."""
        try:
            return pool.malloc(size)
        except cupy.cuda.memory.OutOfMemoryError:
            if 0 < pool.get_limit() < pool.total_bytes() + size:
                raise  # the lease declared no more: nobody else need lose anything
        self._free_dropped()
        self._give_back()
        self._stream.synchronize()
        self._pool(0).free_all_blocks()
        return pool.malloc(size)

    def drop(self, lease: int) -> None:
        # Only the pool moves: giving memory back to the driver waits for the stream, where a program of another lease
        # may run for long, so that is for the thread that runs programs, before the next one allocates. Freed arrays
        # are safe meanwhile: pools lock themselves, and a block is used again behind the same stream's work only.
        pool = self._pools.pop(lease, None)
        if pool is not None:
            with self._dropped_lock:
                self._dropped.append(pool)

    def _free_dropped(self) -> None:
        # A result that waits for room in the reply arena outlives its lease. A pool must outlive its arrays: CuPy would
        # never free a block of which one part is in use when the pool goes.
        with self._dropped_lock:
            dropped, self._dropped = self._dropped, []
        if dropped:
            self._stream.synchronize()
            for pool in dropped:
                pool.free_all_blocks()
            with self._dropped_lock:
                self._dropped += [pool for pool in dropped if pool.used_bytes()]

    def when_short(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def free_memory(self) -> int:
        free, _total = runtime.memGetInfo()
        return int(free)

    def pointer(self, array: Any) -> int:
        return int(array.data.ptr)

    def wrap(self, pointer: int, dtype: np.dtype[Any], shape: tuple[int, ...], owner: object) -> Any:
        size = int(np.prod(shape)) * dtype.itemsize
        memory = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(pointer, size, owner, 0), 0)
        return cupy.ndarray(shape, dtype, memory)

    def mark(self) -> Any:
        event = cupy.cuda.Event()
        event.record(self._stream)
        return event

    def elapsed_ns(self, start: Any, end: Any) -> int:
        end.synchronize()
        return int(cupy.cuda.get_elapsed_time(start, end) * 1e6)

    def is_broken(self, error: BaseException) -> bool:
        # Kernels are launched by the driver API, whose numbers for these errors are the same.
        return isinstance(error, runtime.CUDARuntimeError | driver.CUDADriverError) and error.status in _STICKY

    def memory_error(self, error: BaseException) -> int | None:
        if not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
            return None
        # The exception keeps the request in its text only: "Out of memory allocating N bytes (...)".
        digits = [word.replace(",", "") for word in str(error).split() if word.replace(",", "").isdigit()]
        return int(digits[0]) if digits else 0
