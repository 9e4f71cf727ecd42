# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The load: a closed loop in each of N threads, which sends its next call when the last one was answered.

A server that slows down is so asked less: latencies are those of callers who wait, not of arrivals at a fixed rate. A
slot whose calls fail pauses before the next one, for longer each time: a server in trouble is not asked in a hot loop.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from remotegpu import errors
from remotegpu.cli.bench.outcome import Level, Outcome

# Between two looks at how far the load is, and how long calls under way are waited for after Ctrl-C. Seconds.
PACE = 0.1
INTERRUPT_PATIENCE = 2.0
# After a failed call; it doubles with each further one until it is the longest. Seconds.
_LEAST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_NS = 1_000_000_000

Call = Callable[[], object]
# Told the share that is done (0 to 1), calls per second and failed calls so far.
Progress = Callable[[float, float, int], None]


@dataclass(frozen=True, slots=True)
class Amount:
    """How much load: `requests` calls of all slots together if that is not 0, else calls that begin within `duration`
    seconds; `warm_up` seconds before that are not measured, in which each slot makes at least one call."""

    duration: float
    requests: int
    warm_up: float


def pause_after(failures: int, chance: float) -> float:
    """Seconds that a slot pauses after so many failed calls in a row (0: none). `chance`, from 0 to 1, spreads slots
    that have failed together."""
    if not failures:
        return 0.0
    # No power beyond the longest pause: a number of failures may be any.
    doublings = min(failures - 1, 16)
    return min(_LEAST_PAUSE * 2.0**doublings, _LONGEST_PAUSE) + chance * _LEAST_PAUSE


class _Turns:
    """Lets slots begin calls until the amount is used up."""

    def __init__(self, amount: Amount) -> None:
        self._amount = amount
        self._lock = threading.Lock()
        self._begun = 0
        self.started_ns = 0
        self.stopped = threading.Event()

    def start(self) -> None:
        """All slots are warm."""
        self.started_ns = time.monotonic_ns()

    def next(self) -> bool:
        """Whether one more call may begin, which is then counted as begun."""
        if self.stopped.is_set():
            return False
        if self._amount.requests:
            with self._lock:
                self._begun += 1
                return self._begun <= self._amount.requests
        return time.monotonic_ns() - self.started_ns < self._amount.duration * _NS

    def share(self, done: int) -> float:
        """Of the amount, 0 to 1."""
        if not self.started_ns:
            return 0.0
        if self._amount.requests:
            return min(done / self._amount.requests, 1.0)
        return min((time.monotonic_ns() - self.started_ns) / _NS / self._amount.duration, 1.0)


class _Slot(threading.Thread):
    """One caller."""

    def __init__(self, call: Call, turns: _Turns, warm_up: float, gate: threading.Barrier) -> None:
        # A daemon: after a second Ctrl-C nobody waits for its call.
        super().__init__(daemon=True)
        self._call = call
        self._turns = turns
        self._warm_up = warm_up
        self._gate = gate
        # Held to change or read what follows.
        self._lock = threading.Lock()
        self._outcome = Outcome()
        self._ended_ns = 0
        # In a row, until now.
        self._failures = 0
        # Whether a call of the warm-up was answered.
        self.is_warm = False
        self.bug: BaseException | None = None
        # Not `join`, which takes a thread for ended if Ctrl-C comes while it waits (Python 3.11).
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._warm()
            self._gate.wait()
            while self._turns.next():
                self._measure()
                self._pause()
        except threading.BrokenBarrierError:
            pass  # another slot has a bug, or the load was interrupted: both are told elsewhere
        except BaseException as error:
            self.bug = error
            self._gate.abort()
            self._turns.stopped.set()
        finally:
            self.done.set()

    def _warm(self) -> None:
        until = time.monotonic() + self._warm_up
        while not self._turns.stopped.is_set():
            try:
                self._call()
            except errors.Error as error:
                self._tell(error, warm_up=True)
            else:
                self.is_warm, self._failures = True, 0
            if time.monotonic() >= until:
                break
            self._pause()

    def _pause(self) -> None:
        if self._failures:
            self._turns.stopped.wait(pause_after(self._failures, random.random()))

    def _measure(self) -> None:
        started = time.monotonic_ns()
        try:
            self._call()
        except errors.Error as error:
            self._tell(error, started)
        else:
            self._tell(None, started)

    def _tell(self, error: errors.Error | None, started: int = 0, *, warm_up: bool = False) -> None:
        ended = time.monotonic_ns()
        self._failures = 0 if error is None else self._failures + 1
        with self._lock:
            if error is not None:
                self._outcome.fail(error, warm_up=warm_up)
            else:
                self._outcome.latencies.record(ended - started)
            if not warm_up:
                self._ended_ns = ended

    def counts(self) -> tuple[int, int]:
        """Calls that were answered and that failed, those of the warm-up among the latter, until now."""
        with self._lock:
            warm_up = sum(failures.count for failures in self._outcome.warm_up_failures.values())
            return self._outcome.latencies.count, self._outcome.failed + warm_up

    def add_to(self, outcome: Outcome) -> int:
        """Adds what it has found so far, and tells when its last measured call ended."""
        with self._lock:
            outcome.merge(self._outcome)
            return self._ended_ns


def run(calls: Sequence[Call], amount: Amount, progress: Progress) -> Level:
    """Puts the load of one concurrency on, each of `calls` in a slot of its own, and tells `progress` how it goes.

    Failed calls are counted if they raise an error of the tree; any other exception is a bug, and raised here. If all
    calls of the warm-up failed, nothing is measured. Ctrl-C ends the load early: calls that are then under way have 2
    seconds, and are left out if they take longer."""
    turns = _Turns(amount)

    def begin() -> None:
        if any(slot.is_warm for slot in slots):
            turns.start()
        else:
            turns.stopped.set()

    gate = threading.Barrier(len(calls), action=begin)
    slots = [_Slot(call, turns, amount.warm_up, gate) for call in calls]
    interrupted = False
    try:
        for slot in slots:
            slot.start()
        while waiting := [slot for slot in slots if not slot.done.is_set()]:
            waiting[0].done.wait(PACE)
            _tell(progress, turns, slots)
    except KeyboardInterrupt:
        interrupted = True
        turns.stopped.set()
        gate.abort()
        until = time.monotonic() + INTERRUPT_PATIENCE
        for slot in slots:
            if slot.ident is not None:  # it was started
                slot.done.wait(max(until - time.monotonic(), 0.0))
    for slot in slots:
        if slot.bug is not None:
            raise slot.bug
    outcome = Outcome()
    ended = max([slot.add_to(outcome) for slot in slots])
    seconds = (ended - turns.started_ns) / _NS if turns.started_ns and ended else 0.0
    return Level(len(calls), seconds, outcome, interrupted)


def _tell(progress: Progress, turns: _Turns, slots: Sequence[_Slot]) -> None:
    counts = [slot.counts() for slot in slots]
    answered, failed = sum(count for count, _ in counts), sum(count for _, count in counts)
    seconds = (time.monotonic_ns() - turns.started_ns) / _NS if turns.started_ns else 0.0
    progress(turns.share(answered + failed), answered / seconds if seconds else 0.0, failed)
