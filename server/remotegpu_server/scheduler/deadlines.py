# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A heap of deadlines that may move.

Moving a deadline later is the common case (each call restarts an idle clock), so it costs one assignment: the
heap entry stays where it is, too early, and is put right when it comes to the top. An entry that became
meaningless also stays until it comes to the top, or until such entries are the majority and all are swept
out: the heap never holds more than twice the living entries and a constant.
"""

import math
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar

_SWEEP_FROM = 64


@dataclass(slots=True, eq=False)
class Timed:
    """Something with a deadline: `due`, infinite when there is none. The rest belongs to `Deadlines`."""

    due: float = field(default=math.inf, init=False)
    armed: float = field(default=math.inf, init=False)  # the time of its heap entry, never after `due`
    entry: int = field(default=0, init=False)  # the number of that entry; 0 for none


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """All deadlines, the earliest first; equal ones in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._entries = 0
        self._stale = 0

    def __len__(self) -> int:
        """Heap entries, meaningless ones included: what it costs in memory."""
        return len(self._heap)

    def set(self, item: T, due: float) -> None:
        """Give `item` another deadline; infinity for none for now."""
        item.due = due
        if due < item.armed:
            self._retire(item)
            heappush(self._heap, self._entry(item))

    def drop(self, item: T) -> None:
        """`item` is over and done with."""
        item.due = math.inf
        self._retire(item)

    def next(self) -> float | None:
        """The earliest deadline, `None` if there is none."""
        heap = self._heap
        while heap:
            time, entry, item = heap[0]
            if item.entry != entry:
                heappop(heap)
                self._stale -= 1
            elif item.due == time:
                return time
            elif item.due < math.inf:
                heapreplace(heap, self._entry(item))
            else:
                heappop(heap)
                item.armed, item.entry = math.inf, 0
        return None

    def due(self, now: float) -> bool:
        """Whether a deadline may have come at `now`. Entries are never late, so a look at the top suffices."""
        return bool(self._heap) and self._heap[0][0] <= now

    def pop(self, now: float) -> T | None:
        """Take out the earliest item whose deadline has come at `now`, `None` if there is none."""
        time = self.next()
        if time is None or time > now:
            return None
        item = heappop(self._heap)[2]
        item.due, item.armed, item.entry = math.inf, math.inf, 0
        return item

    def _entry(self, item: T) -> tuple[float, int, T]:
        self._entries += 1
        item.armed, item.entry = item.due, self._entries
        return item.due, self._entries, item

    def _retire(self, item: T) -> None:
        if not item.entry:
            return
        item.armed, item.entry = math.inf, 0
        self._stale += 1
        if self._stale > _SWEEP_FROM and 2 * self._stale > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].entry == entry[1]]
            heapify(self._heap)
            self._stale = 0
