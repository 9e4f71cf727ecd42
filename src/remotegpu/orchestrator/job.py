# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The course of one message and of the jobs in it: what has happened goes in, what is to be done comes out. Pure.

Its jobs begin one after the other (the receiver takes them to their leases) and run beside each other:

    pending ─▶ looked at ─▶ waiting for a lease ─▶ running ─▶ done
                   └──▶ done (nothing to do)           └───▶ failed

When all are settled, the message is deleted if all are done. Otherwise it is given back: at once if only a lease was
missing, else after a time that doubles with each delivery, so that what always fails is never a hot loop; the queue's
redrive policy ends it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# SQS holds a message for a receiver for at most so long, however often it is extended. Seconds.
LONGEST_HOLD = 12 * 3600.0
# The longest that a message which failed is kept back. Seconds.
LONGEST_DELAY = 900
# Of its visibility, when it is extended.
EXTEND_AT = 1 / 3


def delay(deliveries: int) -> int:
    """For how long a message that failed is kept back, by how often it was delivered: 0, 1, 3, 7, ... seconds."""
    return int(min(2 ** min(max(deliveries - 1, 0), 32) - 1, LONGEST_DELAY))


# What happened.


@dataclass(frozen=True, slots=True)
class Looked:
    """It was looked whether a job has anything to do."""

    index: int
    needed: bool


@dataclass(frozen=True, slots=True)
class Granted:
    """A job has its lease."""

    index: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A job gets no lease, and the ones after it would wait just as long; or (`delayed`) it could not be looked at, for
    a reason that need not be theirs and will not go away by itself."""

    index: int
    delayed: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A job has run."""

    index: int
    done: bool


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The process ends."""


Event = Looked | Granted | Refused | Ended | Ticked | Stopped


# What is to be done.


@dataclass(frozen=True, slots=True)
class Look:
    """See whether there is anything to do for a job."""

    index: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Wait for the lease of a job."""

    index: int


@dataclass(frozen=True, slots=True)
class Run:
    """Run a job. `deadline`: a reading of the clock."""

    index: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Abandon:
    """Take the lease from a job whose time is over. What it still answers counts no more."""

    index: int


@dataclass(frozen=True, slots=True)
class Extend:
    """Hide the message from other receivers for so many seconds from now."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Delete:
    """All is done."""


@dataclass(frozen=True, slots=True)
class Release:
    """Let the queue deliver the message again, after so many seconds."""

    seconds: int


Effect = Look | Lease | Run | Abandon | Extend | Delete | Release


class State(enum.Enum):
    """Of one job."""

    PENDING = "pending"
    BEGINNING = "looked at, or waiting for a lease"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


_SETTLED = {State.DONE, State.FAILED}


@dataclass(slots=True)
class _Job:
    state: State = State.PENDING
    deadline: float = math.inf


@dataclass(slots=True)
class Message:
    """A message that is held, from its receipt to its end. Times in seconds; `received` and every `now` are readings of
    one monotonic clock.

    `count`: its jobs; None if nobody can read it. `deliveries`: this one included. `visibility`: for how long the queue
    hides it from others, from the receipt and from each extension. `patience`: for how long a job may run."""

    count: int | None
    deliveries: int
    received: float
    visibility: int
    patience: float
    over: bool = False
    _jobs: list[_Job] = field(init=False)
    _extend_at: float = field(init=False)
    _delayed: bool = field(init=False)

    def __post_init__(self) -> None:
        self._jobs = [_Job() for _ in range(self.count or 0)]
        self._extend_at = self.received + self.visibility * EXTEND_AT
        self._delayed = self.count is None

    @property
    def states(self) -> Sequence[State]:
        """Of its jobs."""
        return [job.state for job in self._jobs]

    @property
    def due(self) -> float:
        """When `Ticked` is wanted."""
        if self.over:
            return math.inf
        return min([self._extend_at, *(job.deadline for job in self._jobs if job.state is State.RUNNING)])

    def begin(self) -> list[Effect]:
        """What to do first."""
        if self.count is None:
            return self._end(Release(delay(self.deliveries)))
        return self._onward()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do after that. An event of a message that is over, or of a job that is settled, says nothing new."""
        if self.over:
            return []
        match event:
            case Ticked():
                return self._tick(now)
            case Stopped():
                return self._end(Release(0))
            case Ended(index=index, done=done):
                if self._jobs[index].state is State.RUNNING:
                    self._settle(index, done)
                return self._onward()
        return self._begun(event, now)

    def _begun(self, event: Looked | Granted | Refused, now: float) -> list[Effect]:
        index = event.index
        match event:
            case Looked(needed=True):
                return [Lease(index)]
            case Looked():
                self._settle(index, True)
                return self._onward()
            case Granted():
                job = self._jobs[index]
                job.state, job.deadline = State.RUNNING, now + self.patience
                return [Run(index, job.deadline), *self._onward()]
            case Refused(delayed=True):
                self._settle(index, False)
                return self._onward()
        for job in self._jobs:
            if job.state in {State.PENDING, State.BEGINNING}:
                job.state = State.FAILED
        return self._onward()

    def _settle(self, index: int, done: bool) -> None:
        self._jobs[index].state = State.DONE if done else State.FAILED
        self._delayed |= not done

    def _onward(self) -> list[Effect]:
        states = self.states
        if all(state in _SETTLED for state in states):
            if State.FAILED not in states:
                return self._end(Delete())
            return self._end(Release(delay(self.deliveries) if self._delayed else 0))
        if State.BEGINNING in states or State.PENDING not in states:
            return []
        index = states.index(State.PENDING)
        self._jobs[index].state = State.BEGINNING
        return [Look(index)]

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for index, job in enumerate(self._jobs):
            if job.state is State.RUNNING and now >= job.deadline:
                self._settle(index, False)
                effects.append(Abandon(index))
        effects += self._onward() if effects else []
        if now >= self._extend_at and not self.over:
            seconds = int(min(self.visibility, self.received + LONGEST_HOLD - now))
            self._extend_at = now + seconds * EXTEND_AT if seconds > 0 else math.inf
            if seconds > 0:
                effects.append(Extend(seconds))
        return effects

    def _end(self, last: Delete | Release) -> list[Effect]:
        self.over = True
        return [last]
