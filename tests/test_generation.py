# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is decided about gaps, generations and the time of an invocation, without a server."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

import remotegpu
from remotegpu import config, deadlines
from remotegpu.aws.identity import _Kept
from remotegpu.generation import Generation, Idle, Registry
from remotegpu.reservation import Reservation
from remotegpu.submission import Submissions


@pytest.mark.parametrize(
    ("now", "passed"),
    [(1000.0, False), (1060.0, False), (1060.1, True), (1e9, True), (999.5, False), (990.0, True), (0.0, True)],
)
def test_gap_is_too_long_a_time_or_a_clock_that_went_back(now: float, passed: bool) -> None:
    idle = Idle(60.0)
    assert not idle.passed(now)  # nothing was used yet
    idle.used(1000.0)
    assert idle.passed(now) is passed
    idle.used(now)
    assert not idle.passed(now + 60.0)


def test_gap_of_the_environment() -> None:
    assert config.idle_gap_from({}) == config.idle_gap_from({"REMOTEGPU_IDLE_GAP": ""}) == 50.0
    assert config.idle_gap_from({"REMOTEGPU_IDLE_GAP": "0.5"}) == 0.5
    for given in ("soon", "-1", "nan", "inf"):
        with pytest.raises(remotegpu.ConfigurationError, match=f"REMOTEGPU_IDLE_GAP.*'{given}'"):
            config.idle_gap_from({"REMOTEGPU_IDLE_GAP": given})


class Thing:
    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, forked: bool) -> None:
        self.told.append("forked" if forked else "restored")

    def quieten(self) -> Callable[[], None]:
        self.told.append("quiet")
        return lambda: self.told.append("goes on")


def test_registry_tells_what_lives_and_holds_nothing() -> None:
    registry, quick, plain = Registry(), Thing(), Thing()
    registry._hooked = True  # it is no registry of this process
    registry.watch(quick, Thing.begin, Thing.quieten)
    registry.watch(plain, Thing.begin)
    registry.watch(Thing(), Thing.begin, Thing.quieten)
    gc.collect()
    first = registry.current
    registry.before()
    registry.after()
    assert registry.current is first == Generation(os.getpid(), 0)
    registry.before()
    registry.forked()
    assert registry.current is not first
    registry.after()  # of nobody: a child does not end what its parent began
    registry.before_snapshot()
    registry.restored()
    assert registry.current == Generation(os.getpid(), 1)
    assert quick.told == ["quiet", "goes on", "quiet", "forked", "quiet", "goes on", "restored"]
    assert plain.told == ["forked", "restored"]


def test_registry_of_a_child_does_not_wait_for_a_thread_of_the_parent() -> None:
    registry = Registry()
    registry._lock.acquire()
    done = threading.Thread(target=registry.forked, daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()


def test_credential_of_before_a_restore_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, made = Registry(), [0]
    registry._hooked = True

    class Numbered(_Kept):
        kept = 1000.0

        def _made(self, now: float) -> str:
            made[0] += 1
            return str(made[0])

    monkeypatch.setattr("remotegpu.aws.identity.registry", registry)
    numbered = Numbered("server", {})
    assert numbered.metadata() == numbered.metadata() == (("authorization", "1"),)
    registry.restored()
    assert numbered.metadata() == (("authorization", "2"),)


@pytest.mark.parametrize(
    ("asked", "left", "given"),
    [
        ((60.0, 0.5), 100.0, (60.0, 0.5)),
        ((60.0, 0.5), 60.2, (59.7, 0.5)),
        ((60.0, 0.5), 2.0, (1.8, 0.2)),
        ((60.0, 0.0), 2.0, (2.0, 0.0)),
        ((1.0, 0.5), 1.2, (1.0, 0.12)),
    ],
)
def test_shares_of_the_time_that_is_left(asked: tuple[float, float], left: float, given: tuple[float, float]) -> None:
    assert deadlines.shares(*asked, left) == pytest.approx(given)
    assert sum(deadlines.shares(*asked, left)) <= left


class Context:
    """Of an invocation with so many seconds left."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.reads = 0

    def get_remaining_time_in_millis(self) -> int:
        self.reads += 1
        return round(self.seconds * 1000)


def test_calls_of_an_invocation_end_before_it() -> None:
    context = Context(10.0)
    with remotegpu.invocation(context, margin=2.0):
        assert 7.9 < deadlines.bounded(60.0)[0] <= 8.0
        assert deadlines.bounded(5.0) == (5.0, 0.0)
        assert 14.9 < (deadlines.lease_limit() or 0) <= 15.0
        with remotegpu.invocation(Context(100.0)):  # inside of another one it has no more time
            assert deadlines.bounded(60.0)[0] <= 8.0
        with remotegpu.invocation(Context(1.0)):
            assert deadlines.bounded(60.0)[0] <= 0.5
        assert deadlines.bounded(60.0)[0] > 7.9
    assert context.reads == 1
    assert deadlines.bounded(60.0) == (60.0, 0.0)
    assert deadlines.lease_limit() is None


def test_nothing_left_is_an_error_that_says_so() -> None:
    with (
        remotegpu.invocation(Context(0.4)),
        pytest.raises(remotegpu.DeadlineExceeded, match="no time was left for the call, so nothing was sent"),
    ):
        deadlines.bounded(60.0)


@pytest.mark.parametrize("margin", [-1.0, float("nan"), float("inf"), "1", True])
def test_margin_is_seconds(margin: float) -> None:
    with pytest.raises(remotegpu.InvalidInput, match="margin"), remotegpu.invocation(Context(1.0), margin=margin):
        raise AssertionError("not reached")


def test_reservations_fit_their_invocation() -> None:
    with remotegpu.invocation(Context(10.0)):
        made = Reservation.asked("alloc", {"timeout": 60.0})
        assert 8.9 < made.timeout <= 9.0  # half a second is the server's, to say that the time is over
        assert made.hard_ttl is not None
        assert 14.9 < made.hard_ttl <= 15.0
        assert Reservation.asked("alloc", {"timeout": 1.0, "hard_ttl": 70.0}) == Reservation(timeout=1.0, hard_ttl=70.0)
        assert Reservation.asked("alloc", {"hard_ttl": None}).hard_ttl is None
    assert Reservation.asked("alloc", {"timeout": 60.0}) == Reservation(timeout=60.0)


def test_handlers_are_bound_also_async_ones_and_what_they_submit() -> None:
    submissions = Submissions()

    @remotegpu.lambda_handler
    def plain(event: str, context: Context) -> tuple[str, float, float]:
        submitted: Future[tuple[float, float]] = submissions.submit(deadlines.bounded, 60.0)
        return event, deadlines.bounded(60.0)[0], submitted.result(10)[0]

    @remotegpu.lambda_handler(margin=4.0)
    async def awaited(event: str, context: Context) -> tuple[str, float, float]:
        task = asyncio.create_task(asyncio.to_thread(deadlines.bounded, 60.0))
        return event, deadlines.bounded(60.0)[0], (await task)[0]

    try:
        for outcome, wanted in (plain("e", Context(10.0)), 9.5), (asyncio.run(awaited("e", Context(10.0))), 6.0):
            assert outcome[0] == "e"
            assert outcome[1:] == pytest.approx((wanted, wanted), abs=0.1)
        assert plain.__name__ == "plain"
    finally:
        submissions.close()


def test_invocations_of_two_threads_do_not_mix() -> None:
    bounds: list[float] = []

    def other() -> None:
        bounds.append(deadlines.bounded(60.0)[0])

    with remotegpu.invocation(Context(10.0)):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert bounds == [60.0]
