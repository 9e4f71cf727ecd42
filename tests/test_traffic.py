# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the last calls, against a plain list and by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_server.gateway.traffic import LATENCIES, Figures, Traffic

NOTHING = Figures(0, 0, 0, 0, 0)
# (when, seconds, received, sent)
Call = tuple[float, float, int, int]


def plain(calls: Sequence[Call], started: float, now: float, window: int = 10) -> Figures:
    """The same from all calls there ever were."""
    since = math.floor(now) - window + 1
    inside = [call for call in calls if call[0] >= since]
    elapsed = max(now - max(started, since), 0.1)
    times = sorted(call[1] for call in inside)

    def percentile(share: float) -> float:
        enough = [t for t in times if sum(other <= t for other in times) >= share * len(times)]
        return min(enough, default=0.0)

    return Figures(
        len(inside) / elapsed,
        sum(call[2] for call in inside) / elapsed,
        sum(call[3] for call in inside) / elapsed,
        percentile(0.5),
        percentile(0.99),
    )


@given(
    st.lists(
        st.tuples(st.floats(0, 4), st.floats(0, 60), st.integers(0, 2**40), st.integers(0, 2**40), st.booleans()),
        max_size=60,
    ),
    st.floats(0, 1e6),
    st.floats(0, 25),
    st.integers(1, 12),
)
def test_the_figures_are_those_of_a_plain_list(
    steps: list[tuple[float, float, int, int, bool]], started: float, quiet: float, window: int
) -> None:
    traffic, calls, now = Traffic(window, started), [], started
    for pause, seconds, received, sent, look in steps:
        now += pause
        traffic.call(now, seconds, received, sent)
        calls.append((now, seconds, received, sent))
        if look:
            assert astuple(traffic.figures(now)) == pytest.approx(astuple(plain(calls, started, now, window)))
    now += quiet
    assert astuple(traffic.figures(now)) == pytest.approx(astuple(plain(calls, started, now, window)))


def test_rates_right_after_the_start_are_over_the_time_that_has_passed() -> None:
    traffic = Traffic(started=100.0)
    for number in range(50):
        traffic.call(100.0 + number / 100, 0.002, 1000, 3000)
    assert astuple(traffic.figures(100.5)) == pytest.approx((100, 100_000, 300_000, 0.002, 0.002))


def test_the_very_first_call_is_not_thousands_a_second() -> None:
    traffic = Traffic(started=7.0)
    traffic.call(7.0001, 0.001, 0, 0)
    assert traffic.figures(7.0002).calls_per_s == pytest.approx(10)


def test_counting_may_begin_with_the_first_call() -> None:
    traffic = Traffic()
    for number in range(11):
        traffic.call(1000 + number / 5, 0.002, 10, 0)
    assert traffic.figures(1002.2).calls_per_s == pytest.approx(5)


@pytest.mark.parametrize("now", [25.0, 25.3, 25.999, 26.0])
def test_a_steady_rate_is_told_at_any_moment(now: float) -> None:
    traffic = Traffic(started=0.0)
    for number in range(math.ceil(now * 200)):
        traffic.call(number / 200, 0.01, 500, 0)
    figures = traffic.figures(now)
    assert figures.calls_per_s == pytest.approx(200, rel=0.002)
    assert figures.received_per_s == pytest.approx(100_000, rel=0.002)


def test_idle_is_zero() -> None:
    traffic = Traffic(started=0.0)
    assert traffic.figures(0.0) == NOTHING
    traffic.call(1.0, 0.5, 1, 1)
    assert traffic.figures(10.9).calls_per_s > 0
    assert traffic.figures(10.9).p50_s == 0.5
    assert traffic.figures(11.0) == NOTHING
    assert traffic.figures(1e6) == NOTHING


def test_percentiles_leave_out_the_rarest() -> None:
    traffic = Traffic(started=0.0)
    for number in range(200):
        traffic.call(number / 100, 5.0 if number in {51, 151} else 0.001 * (1 + number % 2), 0, 0)
    figures = traffic.figures(2.0)
    assert (figures.p50_s, figures.p99_s) == (0.001, 0.002)
    traffic.call(2.0, 5.0, 0, 0)
    assert traffic.figures(2.0).p99_s == 5.0


def test_memory_is_bounded_and_percentiles_are_of_the_last_calls() -> None:
    traffic = Traffic(started=0.0)
    for number in range(100_000):
        traffic.call(number / 10_000, 1.0 if number < 90_000 else 2.0, 1, 1)
    figures = traffic.figures(10.0)
    assert figures.calls_per_s == pytest.approx(10_000, rel=0.01)
    assert figures.p50_s == figures.p99_s == 2.0  # 10,000 of them are enough to fill what is remembered
    held = traffic._latencies, traffic._before
    assert [len(each) for each in held] == [LATENCIES, 9]
    assert sum(map(sys.getsizeof, held)) < 64 * 1024
