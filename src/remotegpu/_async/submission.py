# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Calls in the background, for the client of an event loop: each in a task of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from remotegpu.channel import closed

T = TypeVar("T")
Inputs = AsyncIterable[Any] | Iterable[Any]
_END: Any = object()


class AsyncSubmissions:
    """Runs calls in tasks, and holds these, which the event loop does not."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def submit(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> asyncio.Task[T]:
        """Begins a call. Raises ConfigurationError after `close`, RuntimeError without a running event loop."""
        if self._closed:
            raise closed()
        task = asyncio.get_running_loop().create_task(call(*args, **kwargs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def map(
        self, call: Callable[[Any], Coroutine[Any, Any, T]], inputs: Inputs, in_flight: int, *, ordered: bool
    ) -> AsyncGenerator[T, None]:
        """The result for each input, which is taken when there is room for its call. The end of the iterator, however
        it comes, cancels the other calls."""
        pending: deque[asyncio.Task[T]] = deque()
        following = _following(inputs)
        try:
            while (item := await following()) is not _END:
                pending.append(self.submit(call, item))
                if len(pending) >= in_flight:
                    yield await _next(pending, ordered=ordered)
            while pending:
                yield await _next(pending, ordered=ordered)
        finally:
            await _end(pending)

    async def close(self) -> None:
        """Cancels the calls that are under way."""
        self._closed = True
        await _end(self._tasks - {asyncio.current_task()})


def _following(inputs: Inputs) -> Callable[[], Coroutine[Any, Any, Any]]:
    if isinstance(inputs, AsyncIterable):
        source = aiter(inputs)

        async def awaited() -> Any:
            return await anext(source, _END)

        return awaited
    items = iter(inputs)

    async def taken() -> Any:
        return next(items, _END)

    return taken


async def _next(pending: deque[asyncio.Task[T]], *, ordered: bool) -> T:
    """The result of the first call, or of the first that is done."""
    done, _ = await asyncio.wait([pending[0]] if ordered else pending, return_when=asyncio.FIRST_COMPLETED)
    task = done.pop()
    pending.remove(task)
    if task.cancelled():
        raise closed()
    return task.result()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
