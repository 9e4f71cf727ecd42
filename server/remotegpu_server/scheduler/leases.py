# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The life of one lease and its two clocks: idle (stands still while calls run) and hard cap."""

import math
from dataclasses import dataclass

from .deadlines import Timed
from .model import LeaseView, Request, Why


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
