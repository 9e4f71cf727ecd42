# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Who waits, in which order, and for about how long."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from .deadlines import Timed
from .model import Request, WaiterView

_WEIGHT = 0.1  # of the newest observation: about the last twenty leases count
_RETRY_UNKNOWN = 1.0
_RETRY_LEAST, _RETRY_MOST = 0.05, 30.0


@dataclass(slots=True, eq=False)
class Waiter(Timed):
    """A queued request; `slots` is what it asks for, counted in shared places."""

    key: str
    request: Request
    since: float
    slots: int

    def view(self, place: int, now: float) -> WaiterView:
        """The facts at time `now`."""
        return WaiterView(
            key=self.key,
            tenant=self.request.tenant,
            place=place,
            gpus=self.request.gpus,
            memory=self.request.memory,
            exclusive=self.request.exclusive,
            waited=now - self.since,
            time_left=None if self.due == math.inf else max(0.0, self.due - now),
        )


class Queue:
    """First in, first out, with O(1) for joining, leaving from anywhere, and the head."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.slots = 0  # asked for by all that wait
        self._waiters: OrderedDict[str, Waiter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, key: str) -> bool:
        return key in self._waiters

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters.values())

    @property
    def head(self) -> Waiter | None:
        """Who has waited longest, `None` if nobody waits."""
        return next(iter(self._waiters.values()), None)

    def join(self, waiter: Waiter) -> None:
        """At the end."""
        self._waiters[waiter.key] = waiter
        self.slots += waiter.slots

    def leave(self, key: str) -> Waiter:
        """From wherever it stands. Raises `KeyError` if it does not wait."""
        waiter = self._waiters.pop(key)
        self.slots -= waiter.slots
        return waiter


class HeldTimes:
    """How long leases last: an exponentially weighted mean of what was observed, in seconds."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def observe(self, held: float) -> None:
        """A lease's places came free after `held` seconds."""
        self.mean = held if self.mean is None else self.mean + _WEIGHT * (held - self.mean)

    def wait(self, asked: int, slots: int) -> float | None:
        """Seconds until `asked` places have come free where `slots` are in use, `None` if nobody can know.

        With all places in use and each held for the mean time m, `slots / m` places come free per second
        (Little's law), which gives m * asked / slots.
        """
        return self.mean * asked / slots if self.mean is not None and slots else None


def retry_after(estimated_wait: float | None) -> float:
    """Seconds after which asking again makes sense: the estimate, kept within 0.05 and 30."""
    if estimated_wait is None:
        return _RETRY_UNKNOWN
    return min(max(estimated_wait, _RETRY_LEAST), _RETRY_MOST)
