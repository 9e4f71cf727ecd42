# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Who waits, in which order, and who of them can be served.

The order is: higher priorities first; then, if tenants take turns, the one who has received least; then who came
first. To find the first one that fits without asking each, those who wait stand in lines:

    priority → lane (one per tenant where tenants differ, else one for all) → line (one per number of GPUs and kind)

In one line all differ only in the memory that they want, so "the first in the line that is content with m bytes"
is one search in a tournament tree (`positions.py`). Lanes are sorted by whose turn it is. A decision costs the
logarithm of the number of waiters, times the lines of the lanes that it looks at: the first, and the next ones while
those before do not fit or are kept back by a quota.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .deadlines import Timed
from .model import PRIORITIES, Request, WaiterView
from .positions import NOTHING, UNLIMITED, Positions
from .tenants import Tenant, Tenants

Limit = Callable[[Tenant | None, int, bool], int]
"""The most memory that a request of a tenant (`None`: of one without limits), for so many GPUs, whole ones or not,
could be granted; `NOTHING` for none at all."""

_LINE = 16
"""Places of a new line."""


@dataclass(slots=True, eq=False)
class Waiter(Timed):
    """A queued request; `slots` is what it asks for, counted in shared places. `number` counts arrivals."""

    key: str
    request: Request
    since: float
    slots: int
    number: int = 0
    place: int = 0  # in its line

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
            priority=self.request.priority,
        )


class _Line:
    """Waiters in the order of their arrival, who differ only in memory. Gaps are closed when the line is full."""

    def __init__(self) -> None:
        self._places: list[Waiter | None] = []
        self._positions = Positions(_LINE)  # of the negated memory: less is easier to serve
        self._alive = 0

    def __len__(self) -> int:
        return self._alive

    def join(self, waiter: Waiter) -> None:
        if len(self._places) == len(self._positions):
            self._close_gaps()
        waiter.place = len(self._places)
        self._places.append(waiter)
        self._positions.set(waiter.place, -waiter.request.memory)
        self._alive += 1

    def leave(self, waiter: Waiter) -> None:
        self._places[waiter.place] = None
        self._positions.set(waiter.place, NOTHING)
        self._alive -= 1

    def first(self, memory: int) -> Waiter | None:
        place = self._positions.next(0, -memory)
        return None if place is None else self._places[place]

    def _close_gaps(self) -> None:
        waiting = [waiter for waiter in self._places if waiter is not None]
        self._places, self._alive = [], 0
        self._positions = Positions(max(_LINE, 2 * len(waiting)))
        for waiter in waiting:
            self.join(waiter)

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for waiter in self._places if waiter is not None)


class _Lane:
    """Lines of requests that nobody but their shape tells apart; `tenant` is `None` for the lane that many share."""

    def __init__(self, tenant: Tenant | None) -> None:
        self.tenant = tenant
        self.turn = (0.0, 0)  # by which it is sorted: what the tenant has received, the first arrival
        self.lines: dict[tuple[int, bool], _Line] = {}

    def oldest(self) -> int:
        """The number of who came first."""
        firsts = (line.first(UNLIMITED) for line in self.lines.values())
        return min(waiter.number for waiter in firsts if waiter is not None)

    def first(self, limit: Limit) -> Waiter | None:
        """Who came first of those who can be granted."""
        best: Waiter | None = None
        for (gpus, exclusive), line in self.lines.items():
            memory = limit(self.tenant, gpus, exclusive)
            if memory >= 0:
                found = line.first(memory)
                if found is not None and (best is None or found.number < best.number):
                    best = found
        return best


class Queue:
    """All who wait. Joining and leaving from anywhere costs the logarithm of their number."""

    def __init__(self, limit: int, per_tenant: bool = False) -> None:
        self.limit = limit
        self.per_tenant = per_tenant
        self._waiters: dict[str, Waiter] = {}
        self._arrivals = 0
        self._lanes: list[dict[str | None, _Lane]] = [{} for _ in range(PRIORITIES)]
        self._turns: list[list[tuple[float, int, str | None]]] = [[] for _ in range(PRIORITIES)]  # of the lanes
        self._counts = [0] * PRIORITIES
        self._slots = [0] * PRIORITIES

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, key: str) -> bool:
        return key in self._waiters

    def __iter__(self) -> Iterator[Waiter]:
        """In the order of service, if everybody could be served. Takes time in proportion to the queue."""
        for priority in reversed(range(PRIORITIES)):
            lanes = list(self._ordered(priority))
            groups = [[lane] for lane in lanes] if self.per_tenant else [lanes]
            for group in groups:
                waiters = [waiter for lane in group for line in lane.lines.values() for waiter in line]
                yield from sorted(waiters, key=lambda waiter: waiter.number)

    def ahead(self, priority: int) -> tuple[int, int]:
        """How many a newcomer would find before it, at the most, and how many slots they ask for."""
        return sum(self._counts[priority:]), sum(self._slots[priority:])

    def first(self, limit: Limit) -> Waiter | None:
        """The first in order who can be granted."""
        if not self._waiters:
            return None
        for priority in reversed(range(PRIORITIES)):
            if not self._counts[priority]:
                continue
            best: Waiter | None = None
            for _, oldest, name in self._turns[priority]:
                if best is not None and best.number < oldest:
                    break  # who waits there came later
                found = self._lanes[priority][name].first(limit)
                if found is not None:
                    if self.per_tenant:
                        return found
                    best = found if best is None or found.number < best.number else best
            if best is not None:
                return best
        return None

    def before(self, waiter: Waiter, tenant: Tenant, other: Waiter, others: Tenant) -> bool:
        """Whether it is that one's turn before the other's."""
        return self._order(waiter, tenant) < self._order(other, others)

    def _order(self, waiter: Waiter, tenant: Tenant) -> tuple[int, tuple[float, int], int]:
        priority = waiter.request.priority
        turn = self._lanes[priority][self._name(tenant)].turn if self.per_tenant else (0.0, 0)
        return -priority, turn, waiter.number

    def join(self, waiter: Waiter, tenant: Tenant) -> None:
        """At the end of its lane."""
        self._arrivals += 1
        waiter.number = self._arrivals
        self._enter(waiter, tenant)

    def leave(self, key: str, tenants: Tenants) -> Waiter:
        """From wherever it stands. Raises `KeyError` if it does not wait."""
        waiter = self._waiters.pop(key)
        request, tenant = waiter.request, tenants[waiter.request.tenant]
        priority, name, shape = request.priority, self._name(tenant), (request.gpus, request.exclusive)
        lane = self._lanes[priority][name]
        line = lane.lines[shape]
        line.leave(waiter)
        if not line:
            del lane.lines[shape]
        if not lane.lines:
            self._unsort(priority, lane)
            del self._lanes[priority][name]
        elif waiter.number == lane.turn[1]:
            self._unsort(priority, lane)
            self._sort(priority, name, lane)
        self._counts[priority] -= 1
        self._slots[priority] -= waiter.slots
        tenant.waiting -= 1
        tenants.forget(tenant)
        return waiter

    def resort(self, tenant: Tenant) -> None:
        """The tenant has received more or less: its turn comes later or sooner."""
        if self.per_tenant and tenant.waiting:
            for priority, lanes in enumerate(self._lanes):
                lane = lanes.get(tenant.name)
                if lane is not None:
                    self._unsort(priority, lane)
                    self._sort(priority, tenant.name, lane)

    def rebuilt(self, per_tenant: bool, tenants: Tenants) -> "Queue":
        """The same waiters under another order."""
        queue = Queue(self.limit, per_tenant)
        queue._arrivals = self._arrivals
        for waiter in sorted(self._waiters.values(), key=lambda waiter: waiter.number):
            tenant = tenants[waiter.request.tenant]
            tenant.waiting -= 1
            queue._enter(waiter, tenant)
        return queue

    def _enter(self, waiter: Waiter, tenant: Tenant) -> None:
        request = waiter.request
        priority, name = request.priority, self._name(tenant)
        lane = self._lanes[priority].get(name)
        if lane is None:
            lane = self._lanes[priority][name] = _Lane(None if name is None else tenant)
        line = lane.lines.get((request.gpus, request.exclusive))
        if line is None:
            line = lane.lines[request.gpus, request.exclusive] = _Line()
        line.join(waiter)
        if lane.turn[1] == 0:
            self._sort(priority, name, lane)
        self._waiters[waiter.key] = waiter
        self._counts[priority] += 1
        self._slots[priority] += waiter.slots
        tenant.waiting += 1

    def _name(self, tenant: Tenant) -> str | None:
        """Of its lane: those without limits share one, which has none, unless tenants take turns."""
        return tenant.name if self.per_tenant or tenant.limited else None

    def _ordered(self, priority: int) -> Iterator[_Lane]:
        return (self._lanes[priority][name] for _, _, name in self._turns[priority])

    def _sort(self, priority: int, name: str | None, lane: _Lane) -> None:
        received = lane.tenant.received if self.per_tenant and lane.tenant is not None else 0.0
        lane.turn = received, lane.oldest()
        insort(self._turns[priority], (*lane.turn, name))

    def _unsort(self, priority: int, lane: _Lane) -> None:
        turns = self._turns[priority]
        del turns[bisect_left(turns, lane.turn)]  # a shorter tuple is less than a longer one that begins alike
