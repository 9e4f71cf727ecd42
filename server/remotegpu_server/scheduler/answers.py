# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What those are told who get nothing: why, how long it may take, and what there is instead; and which counter counts
what."""

from collections.abc import Callable, Mapping

from .events import Busy, Explanation, Impossible, OverQuota, QueueFull, Reason, TimedOut
from .model import Ended, Free, Request, Why
from .outlook import HeldTimes, retry_after
from .pool import Pool
from .queue import Queue
from .tenants import Tenants

Choice = Callable[[Request], tuple[int, ...] | None]
"""The positions that a request would get, `None` if it does not fit."""

ENDINGS: Mapping[Why, str] = {
    "dealloc": "deallocated",
    "idle": "expired",
    "hard_cap": "expired",
    "cancelled": "cancelled",
    "device": "failed",
}
_COUNTERS: dict[type[Reason], str] = {
    Busy: "refused_busy",
    OverQuota: "refused_busy",
    Impossible: "refused_impossible",
    TimedOut: "refused_timeout",
    QueueFull: "refused_full",
    Ended: "refused_ended",
}


def counter(reason: Reason) -> str:
    """The counter that such a refusal goes to. Over quota after a wait is a wait that was too short."""
    return "refused_timeout" if isinstance(reason, OverQuota) and reason.waited else _COUNTERS[type(reason)]


class Answers:
    """Makes reasons from how things stand."""

    def __init__(self, pool: Pool, tenants: Tenants, held: HeldTimes) -> None:
        self._pool = pool
        self._tenants = tenants
        self._held = held

    def never(self, request: Request) -> Impossible | None:
        """Why waiting will not help, `None` if it may."""
        return self._pool.impossible(request) or self._tenants.impossible(request)

    def busy(self, request: Request, queue: Queue) -> Busy | OverQuota:
        """To one who does not wait."""
        ahead, _ = queue.ahead(request.priority)
        return self._over_quota(request, 0.0, queue) or Busy(len(queue), ahead + 1, *self._outlook(request, queue))

    def full(self, request: Request, queue: Queue) -> QueueFull:
        """To one who would wait."""
        return QueueFull(queue.limit, *self._outlook(request, queue))

    def timed_out(self, request: Request, waited: float, queue: Queue) -> TimedOut | OverQuota:
        """To one who has waited."""
        over = self._over_quota(request, waited, queue)
        return over or TimedOut(waited, len(queue), *self._outlook(request, queue))

    def explanation(self, request: Request, choice: Choice, queue: Queue) -> Explanation:
        """What one who does not wait would be told, and why."""
        reason: Reason | None = self.never(request)
        positions = None if reason else choice(request)
        if positions is None:
            reason = reason or self.busy(request, queue)
        devices = tuple(self._pool.devices[at].device.index for at in positions or ())
        return Explanation(reason, devices, tuple(self._pool.verdict(member, request) for member in self._pool))

    def _over_quota(self, request: Request, waited: float, queue: Queue) -> OverQuota | None:
        exceeded = self._tenants.exceeded(request)
        if exceeded is None:
            return None
        ahead, _ = queue.ahead(request.priority)
        return OverQuota(*exceeded, waited, len(queue), ahead + 1, *self._outlook(request, queue))

    def _outlook(self, request: Request, queue: Queue) -> tuple[float | None, float, Free]:
        """Estimated wait, when to ask again, and what is free."""
        _, slots_ahead = queue.ahead(request.priority)
        wait = self._held.wait(slots_ahead + self._pool.slots_asked(request), self._pool.ready_slots)
        return wait, retry_after(wait), self._pool.free()
