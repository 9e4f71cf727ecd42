# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Everybody's things in order, and everybody in turn, so that who has many does not hold up who has few. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue of things that have owners. The owner whose thing was taken goes to the end."""

    def __init__(self) -> None:
        self._queues: OrderedDict[int, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All things, in no order to rely on."""
        for queue in self._queues.values():
            yield from queue

    def add(self, owner: int, thing: T) -> None:
        """Puts a thing at the end of its owner's queue."""
        queue = self._queues.get(owner)
        if queue is None:
            queue = self._queues[owner] = deque()
        queue.append(thing)
        self._count += 1

    def remove(self, owner: int, thing: T) -> None:
        """Takes a thing out. Raises KeyError or ValueError if it is not there."""
        queue = self._queues[owner]
        queue.remove(thing)
        self._count -= 1
        if not queue:
            del self._queues[owner]

    def take(self, fits: Callable[[T], bool] = lambda thing: True) -> T | None:
        """The first thing of the first owner whose first thing fits, taken out; None if nobody's does. Owners that are
        passed keep their place."""
        for owner, queue in self._queues.items():
            if fits(queue[0]):
                self._count -= 1
                thing = queue.popleft()
                if queue:
                    self._queues.move_to_end(owner)
                else:
                    del self._queues[owner]
                return thing
        return None

    def heads(self) -> Iterator[T]:
        """The first thing of each owner."""
        return (queue[0] for queue in self._queues.values())

    def clear(self) -> None:
        """Forgets everything."""
        self._queues.clear()
        self._count = 0
