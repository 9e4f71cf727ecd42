# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The load loop of `remotegpu bench`, with calls of the test's own."""

from __future__ import annotations

import itertools
import os
import signal
import threading

import pytest

from remotegpu import errors
from remotegpu.cli.bench import load, outcome
from remotegpu.cli.bench.load import Amount


def quiet(share: float, rate: float, failed: int) -> None:
    assert 0 <= share <= 1
    assert rate >= 0
    assert failed >= 0


def test_slots_share_the_requests_and_run_at_once() -> None:
    together, made = threading.Barrier(3), itertools.count()

    def call() -> None:
        together.wait(10)  # only passed if all three slots are in a call
        next(made)

    level = load.run([call] * 3, Amount(0.0, 30, 0.0), quiet)
    assert level.outcome.latencies.count == 30
    assert next(made) == 33, "and one call of each slot in the warm-up"
    assert not level.interrupted


def test_pauses_grow_and_are_bounded() -> None:
    assert [load.pause_after(failures, 0.0) for failures in range(7)] == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert load.pause_after(10**6, 0.0) == 1.0
    assert load.pause_after(1, 0.5) == pytest.approx(0.075)


def test_one_warm_slot_is_enough_to_measure() -> None:
    def fail() -> None:
        raise errors.Unavailable(why="always")

    level = load.run([fail, lambda: None], Amount(0.0, 20, 0.0), quiet)
    assert level.outcome.latencies.count + level.outcome.failed == 20
    assert level.outcome.warm_up_failures["Unavailable"].count == 1
    assert level.hopeless == ""
    level = load.run([fail, fail], Amount(30.0, 0, 0.2), quiet)
    assert level.hopeless.startswith(f"all {level.outcome.warm_up_failures['Unavailable'].count} calls of the warm-up")
    assert level.outcome.warm_up_failures["Unavailable"].count <= 8, "they paused"
    assert level.seconds == 0.0


def test_a_duration_ends_it() -> None:
    pause = threading.Event()
    level = load.run([lambda: pause.wait(0.02)], Amount(0.3, 0, 0.0), quiet)
    assert 1 <= level.outcome.latencies.count <= 15
    assert level.seconds >= 0.3
    assert level.outcome.latencies.least >= 0.02 * 1e9


def test_a_bug_is_raised_and_not_counted() -> None:
    calls = itertools.count()

    def call() -> None:
        if next(calls) == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load.run([call, call], Amount(30.0, 0, 0.0), quiet)


@pytest.mark.parametrize("warm_up", [0.0, 30.0])
def test_an_interrupt_gives_what_was_measured(warm_up: float) -> None:
    calls, ended, waiting = itertools.count(), threading.Event(), threading.Event()

    def call() -> None:
        if next(calls) == 50:
            waiting.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
        ended.wait(0.001)

    level = load.run([call, call], Amount(30.0, 0, warm_up), lambda *_: waiting.set())
    assert level.interrupted
    for slot in threading.enumerate():
        if isinstance(slot, load._Slot):
            slot.join(5)
            assert not slot.is_alive(), "nobody goes on calling"
    if warm_up:
        assert (level.outcome.latencies.count, level.seconds) == (0, 0.0)
    else:
        assert level.outcome.latencies.count >= 40


def test_a_call_that_outlives_the_interrupt_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "INTERRUPT_PATIENCE", 0.1)
    calls, late, waiting = itertools.count(), threading.Event(), threading.Event()

    def call() -> None:
        if next(calls) == 4:
            waiting.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
            late.wait(10)

    level = load.run([call], Amount(30.0, 0, 0.0), lambda *_: waiting.set())
    late.set()
    (slot,) = (thread for thread in threading.enumerate() if isinstance(thread, load._Slot))
    slot.join(5)
    assert not slot.is_alive()
    assert level.outcome.latencies.count == 3, "one of four calls was the warm-up's"


def test_failures_merge_by_kind() -> None:
    one, two = outcome.Outcome(), outcome.Outcome()
    one.fail(errors.Unavailable(why="first"))
    two.fail(errors.Unavailable(why="second"))
    two.fail(errors.UnknownRemoteError(kind="NOT_FOUND", why="gone"))
    two.fail(errors.Unavailable(why="third"), warm_up=True)
    one.merge(two)
    assert {kind: found.count for kind, found in one.failures.items()} == {"Unavailable": 2, "NOT_FOUND": 1}
    assert "first" in one.failures["Unavailable"].first
    assert one.failed == 3
    assert one.warm_up_failures["Unavailable"].count == 1
