# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Replies of a worker: finished results wait here for room in the reply arena.

The daemon frees reply slabs as callers read them. A slow reader must not stop the worker, so a result that does not fit
now keeps its arrays on the device and is written when slabs come back; the order between such results is kept.

Results are the main thread's. Other threads send messages of their own (`tell`), which never wait for a result.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from remotegpu import errors, wire
from remotegpu_server.backends.device import Device
from remotegpu_server.records import Answered, Done, Record, Warm
from remotegpu_server.slabs import Arena, FreeList

from .layout import Layout, check_size
from .outcome import Outcome, failure

_ZEROS = bytes(wire.ALIGNMENT)


@dataclass(slots=True)
class Finished:
    """A call that has run. Times in nanoseconds; `batch` as in `records.Done`."""

    call: int
    started_ns: int
    outcome: Outcome
    batch: int = 0


class Replies:
    """Writes results into the reply arena and tells the daemon, by `send`."""

    def __init__(
        self,
        arena: Arena,
        device: Device,
        send: Callable[[Record], None],
        held: Callable[[], int],
        figures: AbstractContextManager[object],
    ) -> None:
        """`held`: bytes that leases hold on the device; `figures` is entered while it is asked and sent."""
        self._arena = arena
        self._free = FreeList(arena.size)
        self._device = device
        self._send = send
        self._held = held
        self._figures = figures
        self._waiting: deque[Finished] = deque()
        # Held for the allocator, and for messages that wait for room.
        self._lock = threading.Lock()
        self._untold: deque[tuple[Callable[[int, int], Record], bytes]] = deque()

    def succeed(self, finished: Finished) -> None:
        """Sends a result that is laid out, now or when there is room. Raises InvalidInput if it is larger than the
        arena."""
        try:
            check_size(finished.outcome.layout.size, self._arena.size)
        except errors.InvalidInput:
            finished.outcome.discard()
            raise
        self._answer(finished)

    def fail(self, call: int, started_ns: int, error: errors.Error) -> None:
        """Sends an error. Errors are small; one that finds no room waits like a result would."""
        self._answer(Finished(call, started_ns, Outcome.of(error)))

    def waits(self, call: int) -> bool:
        """Whether the reply to that call found no room yet."""
        return bool(self._waiting) and self._waiting[-1].call == call

    def put(self, data: bytes) -> int:
        """Stores bytes outside of any call, at the start of the worker's life."""
        offset = self._allocate(len(data))
        assert offset is not None, "the arena is empty then"
        self._arena.view[offset : offset + len(data)] = data
        return offset

    def tell(self, call: int, answer: bytes | errors.Error) -> None:
        """Sends the answer to a command, or an error, now or when there is room. Any thread may call it."""
        failed = isinstance(answer, errors.Error)
        data = wire.error_detail(answer) if isinstance(answer, errors.Error) else answer
        if wire.aligned(len(data)) > self._arena.size:
            limit, given = f"at most {self._arena.size} bytes in one answer", f"{len(data)} bytes"
            failed, data = True, wire.error_detail(errors.InvalidInput(field="answer", limit=limit, given=given))
        self._say(lambda offset, size: Answered(call, int(failed), offset, size), data)

    def warm(self, model: str) -> None:
        """Tells that a program has run a model."""
        self._say(Warm, model.encode())

    def _say(self, record: Callable[[int, int], Record], data: bytes) -> None:
        with self._lock:
            self._untold.append((record, data))
        self._tell()

    def release(self, offset: int) -> None:
        """The daemon has read the slab."""
        with self._lock:
            self._free.free(offset)
        self._flush()
        if self._untold:
            self._tell()

    def _allocate(self, size: int) -> int | None:
        with self._lock:
            return self._free.allocate(size)

    def _tell(self) -> None:
        while True:
            with self._lock:
                offset = self._free.allocate(len(self._untold[0][1])) if self._untold else None
                if offset is None:
                    return
                record, data = self._untold.popleft()
            self._arena.view[offset : offset + len(data)] = data
            self._send(record(offset, len(data)))

    def _answer(self, finished: Finished) -> None:
        if self._waiting or not self._write(finished):
            self._waiting.append(finished)

    def _flush(self) -> None:
        while self._waiting and self._write(self._waiting[0]):
            self._waiting.popleft()

    def _write(self, finished: Finished) -> bool:
        outcome = finished.outcome
        layout = outcome.layout
        offset = self._allocate(layout.size)
        if offset is None:
            return False
        start = self._device.mark()
        try:
            self._fill(self._arena.view[offset : offset + layout.size], layout, outcome.arrays)
            d2h = self._device.elapsed_ns(start, self._device.mark())
        except Exception as error:
            with self._lock:
                self._free.free(offset)
            told = failure(self._device, error, outcome.last_node, "fetch of the results")
            outcome.discard()
            finished.outcome = Outcome.of(told)
            return self._write(finished)
        with self._figures:
            self._send(
                Done(
                    call=finished.call,
                    failed=outcome.failed,
                    offset=offset,
                    result_size=len(layout.head),
                    body_size=layout.body_size,
                    started_ns=finished.started_ns,
                    h2d_ns=outcome.h2d_ns,
                    compute_ns=outcome.compute_ns,
                    d2h_ns=d2h,
                    memory_held=self._held(),
                    batch=finished.batch,
                )
            )
        return True

    def _fill(self, slab: memoryview, layout: Layout, arrays: Sequence[Any]) -> None:
        slab[: len(layout.head)] = layout.head
        for (start, end, gap, dtype, shape, on_host), array in zip(layout.pieces, arrays, strict=True):
            if on_host:
                slab[start:end] = array
            else:
                self._device.download(array, np.ndarray(shape, dtype, slab, start))
            # The body travels with the gaps that align its values, and earlier replies, perhaps another tenant's, have
            # left their bytes there. The gap before the body does not travel.
            if gap:
                slab[end : end + gap] = _ZEROS[:gap]
