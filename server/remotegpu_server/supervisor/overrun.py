# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""When a worker is to be killed because a call keeps it busy for too long after its deadline, and which call that is.

Several calls are with a worker, and it takes them in an order of its own, so the daemon does not see which one it is
at. It asks: a caller whose deadline passes gives up, and the worker is told to take the call back. A call that merely
waits there is taken back at once. If the worker answers that it has begun, it is at that call in this moment: that one
is to blame if it goes on for OVERRUN after its deadline, whoever else shares its run of a model. A worker that does not
answer at all runs code that does not let go of the interpreter, or hangs: then the call that has been there for longest
is timed, which is the one that the worker would have taken up first.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

# How long after its deadline a call may keep a device busy before the worker is killed. Seconds.
OVERRUN = 5.0


class Timed(Protocol):
    """A call: its number, and its deadline on the loop's clock."""

    call: int
    deadline: float


T = TypeVar("T", bound=Timed)


class Overrun(Generic[T]):
    """Watches the calls that are with a worker."""

    def __init__(self, running: Mapping[int, T], overran: Callable[[T], None]) -> None:
        """`running`: calls by number, the oldest first; `look` must hear of changes. `overran` hears whom to blame."""
        self._running = running
        self._overran = overran
        self._oldest: T | None = None
        # When it became that.
        self._since = 0.0
        # Calls that the worker is at although nobody waits for them: when that was heard.
        self._begun: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def begun(self, call: int) -> None:
        """The worker is at that call, whose caller has given up."""
        self._begun.setdefault(call, self._loop.time())
        self._arm()

    def look(self) -> None:
        """Calls have come or gone."""
        oldest = next(iter(self._running.values()), None)
        is_same = oldest is self._oldest
        if not is_same:
            self._oldest, self._since = oldest, self._loop.time()
        if self._begun:
            self._begun = {call: since for call, since in self._begun.items() if call in self._running}
        if not is_same:
            self._arm()

    def close(self) -> None:
        """Watches no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """A timer that fires too early only looks: one for each call would cost more than the call's share of it."""
        job, due = self._next()
        if job is not None and (self._timer is None or self._timer.when() > due):
            self.close()
            self._timer = self._loop.call_at(due, self._due)

    def _next(self) -> tuple[T | None, float]:
        """The call that is to blame first, and when."""
        found, due = self._oldest, math.inf
        if found is not None:
            due = max(found.deadline, self._since) + OVERRUN
        for call, since in self._begun.items():
            job = self._running[call]
            if max(job.deadline, since) + OVERRUN < due:
                found, due = job, max(job.deadline, since) + OVERRUN
        return found, due

    def _due(self) -> None:
        self._timer = None
        job, due = self._next()
        if job is not None and due <= self._loop.time():
            self._overran(job)
        else:
            self._arm()
