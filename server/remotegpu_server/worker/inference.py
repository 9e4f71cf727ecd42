# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a model once for several calls: their inputs one after the other along the first dimension, and the outputs
taken apart again.

With one session the main thread runs models itself: a small call must not pay for a switch to another thread. With
more, threads run them, while the main thread goes on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from remotegpu_server.backends.device import Device
from remotegpu_server.backends.models import Model

Feed = dict[str, Any]


class NotJoinable(Exception):
    """A model's outputs do not have a row for each row of its inputs."""


def kind_of(feed: Feed) -> tuple[object, int]:
    """What calls that run together have in common (None: it runs alone), and the rows of this one."""
    rows, kind = -1, []
    for name in feed if len(feed) == 1 else sorted(feed):
        array = feed[name]
        shape = array.shape
        if not shape or rows not in (-1, shape[0]):
            return None, 0
        rows = shape[0]
        kind.append((name, array.dtype, shape[1:]))
    return (tuple(kind), rows) if kind else (None, 0)


def join(device: Device, feeds: Sequence[Feed]) -> Feed:
    """One feed of all rows, in the order of the feeds. Its memory belongs to no lease."""
    if len(feeds) == 1:
        return feeds[0]
    with device.memory_scope(0, 0):
        return {name: _joined(device, [feed[name] for feed in feeds]) for name in feeds[0]}


def _joined(device: Device, arrays: list[Any]) -> Any:
    # Strings lie on the host, whatever the device is.
    return np.concatenate(arrays) if isinstance(arrays[0], np.ndarray) else device.xp.concat(arrays)


def split(outputs: Sequence[Any], rows: Sequence[int]) -> list[list[Any]]:
    """The outputs for each of the feeds: views. Raises NotJoinable."""
    total = sum(rows)
    if any(not array.shape or array.shape[0] != total for array in outputs):
        raise NotJoinable
    parts: list[list[Any]] = []
    start = 0
    for count in rows:
        parts.append([array[start : start + count] for array in outputs])
        start += count
    return parts


T = TypeVar("T")


@dataclass(slots=True)
class Ended(Generic[T]):
    """A run that has ended: the model's outputs, or its error; when, by time.perf_counter_ns."""

    ticket: T
    model: Model
    outcome: list[Any] | Exception
    at_ns: int


class Sessions(Generic[T]):
    """Model runs, at most `count` at once. For one thread, but for those that it starts itself."""

    def __init__(self, count: int, ring: Callable[[], None]) -> None:
        """With one session, `submit` runs the model before it returns. With more, `ring` is called by another thread
        when a run has ended."""
        self._count = count
        self._ring = ring
        self._running = 0
        self._ended: deque[Ended[T]] = deque()
        self._submitted: queue.SimpleQueue[tuple[T, Model, Feed]] = queue.SimpleQueue()
        for number in range(count if count > 1 else 0):
            threading.Thread(target=self._serve, name=f"session-{number}", daemon=True).start()

    @property
    def are_threads(self) -> bool:
        """Whether `submit` returns before the model has run."""
        return self._count > 1

    @property
    def busy(self) -> bool:
        """Whether runs have not ended, or have and were not fetched by `ended`."""
        return self._running > 0

    @property
    def free(self) -> bool:
        """Whether another one can be submitted."""
        return self._running < self._count

    def submit(self, ticket: T, model: Model, feed: Feed) -> None:
        """Runs a model; `ended` gives the ticket back."""
        self._running += 1
        if self._count > 1:
            self._submitted.put((ticket, model, feed))
        else:
            self._ended.append(_run(ticket, model, feed))

    def ended(self) -> Ended[T] | None:
        """A run that has ended, each once."""
        if not self._ended:
            return None
        self._running -= 1
        return self._ended.popleft()

    def _serve(self) -> None:
        while True:
            # No names: what a run used must be gone when it has ended.
            self._ended.append(_run(*self._submitted.get()))
            self._ring()


def _run(ticket: T, model: Model, feed: Feed) -> Ended[T]:
    outcome: list[Any] | Exception
    try:
        outcome = model.run(feed)
    except Exception as error:  # the calls that it belongs to are told
        outcome = error
    return Ended(ticket, model, outcome, time.perf_counter_ns())
