# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The life of a lease and its two clocks: idle (stands still while calls run) and hard cap; and all of them by key."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from .deadlines import Timed
from .model import Ended, LeaseView, Request, Why


@dataclass(slots=True, eq=False)
class Lease(Timed):
    """A granted request. `why` is set when it has ended; it holds its places until `outstanding` is 0."""

    key: str
    request: Request
    devices: tuple[int, ...]
    granted: float
    idle_since: float
    calls_running: int = 0
    calls_made: int = 0
    why: Why | None = None
    outstanding: int = 0  # devices whose worker has not yet confirmed the release
    slots: int = 1  # that it takes, counted in shared places
    expected: float = 0.0  # seconds that it would last: what its tenant was charged
    failed: int | None = None  # the device that failed, if that is why it ended

    @property
    def idle_deadline(self) -> float:
        """When it ends for want of calls; infinite while one runs."""
        return math.inf if self.calls_running else self.idle_since + self.request.idle_ttl

    @property
    def hard_deadline(self) -> float:
        """When it ends whatever it does; infinite without a cap."""
        cap = self.request.hard_ttl
        return math.inf if cap is None else self.granted + cap

    @property
    def deadline(self) -> float:
        """Whichever comes first."""
        return min(self.idle_deadline, self.hard_deadline)

    @property
    def cause(self) -> Why:
        """Which of the two it is: what ended the lease when its deadline has passed, however long ago."""
        return "hard_cap" if self.hard_deadline <= self.idle_deadline else "idle"

    def view(self, now: float) -> LeaseView:
        """The facts at time `now`."""
        deadline = self.deadline if self.why is None else now
        return LeaseView(
            key=self.key,
            tenant=self.request.tenant,
            devices=self.devices,
            memory=self.request.memory,
            exclusive=self.request.exclusive,
            state="active" if self.why is None else "releasing",
            age=now - self.granted,
            idle=0.0 if self.calls_running else now - self.idle_since,
            ttl_left=None if deadline == math.inf else max(0.0, deadline - now),
            calls_running=self.calls_running,
            calls_made=self.calls_made,
            priority=self.request.priority,
            one_call=self.request.one_call,
        )


class Leases:
    """Those that hold something, by key, and how the last ones ended. `remembered`: how many of these."""

    def __init__(self, remembered: int) -> None:
        self._holding: dict[str, Lease] = {}  # active and releasing
        self._ended: OrderedDict[str, Ended] = OrderedDict()
        self._remembered = remembered

    def __len__(self) -> int:
        return len(self._holding)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._holding.values())

    def add(self, lease: Lease) -> None:
        """It was granted."""
        self._holding[lease.key] = lease

    def active(self, key: str) -> Lease | None:
        """The lease if it is not over."""
        lease = self._holding.get(key)
        return lease if lease is not None and lease.why is None else None

    def lookup(self, key: str, now: float) -> LeaseView | Ended | None:
        """How it stands, or ended; `None` if it was never granted or ended too long ago."""
        lease = self._holding.get(key)
        if lease is None:
            return self._ended.get(key)
        return lease.view(now) if lease.why is None else Ended(lease.why, lease.failed)

    def remove(self, lease: Lease, why: Why) -> None:
        """It has ended and holds nothing any more."""
        del self._holding[lease.key]
        self._ended[lease.key] = Ended(why, lease.failed)
        if len(self._ended) > self._remembered:
            self._ended.popitem(last=False)
