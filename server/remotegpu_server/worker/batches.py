# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which model calls are run together, and when. Pure: calls come and go, time is an argument.

Calls are put together along the first dimension if they are for the same model and agree in all dtypes and all other
sizes. Nothing waits for a batch to fill unless `max_delay` says so: while one batch runs, the calls of the next one
come together by themselves (continuous batching). The model whose oldest call has waited longest is next; in its batch
callers take turns, so that many calls of one do not crowd out the few of another.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial

from remotegpu_server.fairness import Turns

# How long after calls of different callers a batch may wait for more: one caller alone has nobody to wait for. Seconds.
_COMPANY = 1.0
# Models of which that is known; of more it is found out again.
_REMEMBERED = 1000


@dataclass(slots=True)
class Waiting:
    """A model call. `kind`: what calls that run together have in common beside the model; None: it runs alone. `since`
    is when it came, in seconds; `most`: rows that one run of its model may have."""

    call: int
    caller: int
    model: Hashable
    kind: Hashable
    rows: int
    most: int
    since: float

    @property
    def alone(self) -> bool:
        """Whether it runs by itself."""
        return self.kind is None or self.most < 2 or not 0 < self.rows <= self.most


@dataclass(slots=True)
class _Group:
    """Calls that may run together, or (`most` is 0) one after the other."""

    most: int
    turns: Turns[Waiting] = field(default_factory=Turns)
    rows: int = 0

    def oldest(self) -> float:
        return min(waiting.since for waiting in self.turns.heads())


@dataclass(slots=True)
class _Company:
    """Who called a model last, and when the caller before was another one."""

    caller: int
    mixed: float = float("-inf")


class Batches:
    """The model calls that wait. Times in seconds, of one clock that never goes back."""

    def __init__(self, max_delay: float = 0.0) -> None:
        """`max_delay`: how long a call waits for others if the batch is not full."""
        self._max_delay = max_delay
        self._groups: dict[Hashable, _Group] = {}
        self._waiting: dict[int, Waiting] = {}
        self._company: dict[Hashable, _Company] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """A call has come to a model step. No other of that number may be waiting."""
        group = self._groups.get(_key(waiting))
        if group is None:
            group = self._groups[_key(waiting)] = _Group(0 if waiting.alone else waiting.most)
        group.turns.add(waiting.caller, waiting)
        group.rows += waiting.rows
        self._waiting[waiting.call] = waiting
        if self._max_delay:
            self._meet(waiting)

    def remove(self, call: int) -> None:
        """A call has been taken back; harmless if it does not wait here."""
        waiting = self._waiting.pop(call, None)
        if waiting is not None:
            group = self._groups[_key(waiting)]
            group.turns.remove(waiting.caller, waiting)
            self._shrunk(waiting, group)

    def next(self, now: float) -> list[Waiting]:
        """The calls to run together now, taken out; none if nothing is due."""
        due = [group for group in self._groups.values() if self._due(group) <= now]
        if not due:
            return []
        group = min(due, key=_Group.oldest)
        batch: list[Waiting] = []
        waiting, room = group.turns.take(), group.most
        while waiting is not None:
            batch.append(waiting)
            del self._waiting[waiting.call]
            self._shrunk(waiting, group)
            room -= waiting.rows
            waiting = group.turns.take(partial(_fits, room)) if room > 0 else None
        return batch

    def due(self) -> float | None:
        """When `next` has something, perhaps in the past; None if nothing waits."""
        return min(map(self._due, self._groups.values()), default=None)

    def _due(self, group: _Group) -> float:
        oldest = group.oldest()
        if not self._max_delay or group.rows >= group.most:
            return oldest
        company = self._company.get(next(group.turns.heads()).model)
        together = company is not None and oldest - company.mixed <= _COMPANY
        return oldest + self._max_delay if together else oldest

    def _meet(self, waiting: Waiting) -> None:
        if len(self._company) > _REMEMBERED:
            self._company.clear()
        company = self._company.setdefault(waiting.model, _Company(waiting.caller))
        if company.caller != waiting.caller:
            company.caller, company.mixed = waiting.caller, waiting.since

    def _shrunk(self, waiting: Waiting, group: _Group) -> None:
        group.rows -= waiting.rows
        if not group.turns:
            del self._groups[_key(waiting)]


def _fits(room: int, waiting: Waiting) -> bool:
    return waiting.rows <= room


def _key(waiting: Waiting) -> Hashable:
    return (waiting.model, None if waiting.alone else (waiting.kind, waiting.most))
