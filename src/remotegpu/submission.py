# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Calls in the background, for the client of threads: each in one of the client's own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

from remotegpu.channel import closed
from remotegpu.multiplexer import MOST_CALLS

T = TypeVar("T")
Inputs = Iterable[Any]


class Submissions:
    """Runs calls in threads, which are made when they are needed; at most as many as a stream takes calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: futures.ThreadPoolExecutor | None = None
        self._closed = False

    def submit(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> futures.Future[T]:
        """Begins a call. Raises ConfigurationError after `close`."""
        with self._lock:
            if self._closed:
                raise closed()
            if self._pool is None:
                self._pool = futures.ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="remotegpu-call")
            # In the caller's context, which has the deadline of his invocation.
            return self._pool.submit(copy_context().run, call, *args, **kwargs)

    def map(
        self, call: Callable[[Any], T], inputs: Inputs, in_flight: int, *, ordered: bool
    ) -> Generator[T, None, None]:
        """The result for each input, which is taken when there is room for its call. The end of the iterator, however
        it comes, cancels the calls that have not begun."""
        pending: deque[futures.Future[T]] = deque()
        done: SimpleQueue[futures.Future[T]] = SimpleQueue()

        def result() -> T:
            future = pending[0] if ordered else done.get()
            pending.remove(future)
            try:
                return future.result()
            except futures.CancelledError:
                raise closed() from None

        try:
            for item in inputs:
                pending.append(self.submit(call, item))
                if not ordered:
                    pending[-1].add_done_callback(done.put)
                if len(pending) >= in_flight:
                    yield result()
            while pending:
                yield result()
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """Cancels the calls that have not begun; the threads end with theirs, and are not waited for, since this may be
        one of them."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
