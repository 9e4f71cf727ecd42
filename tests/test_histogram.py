# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The histogram of `remotegpu bench` against sorted lists."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu.cli.bench.histogram import RELATIVE_ERROR, Histogram, bounds_of, coarse, index_of

VALUES = st.integers(0, 2**45) | st.integers(0, 300) | st.integers(0, 45).map(lambda power: 2**power)
LISTS = st.lists(VALUES, min_size=1, max_size=200)
PERCENTS = st.decimals(0, 100, allow_nan=False, places=3).map(str) | st.sampled_from(["0", "50", "99", "99.9", "100"])


def test_the_error_is_at_most_one_per_cent() -> None:
    assert RELATIVE_ERROR <= 0.01


@given(VALUES)
def test_a_bucket_holds_its_value_and_is_narrow(value: int) -> None:
    low, high = bounds_of(index_of(value))
    assert low <= value < high
    assert index_of(low) == index_of(high - 1) == index_of(value)
    assert index_of(high) == index_of(value) + 1, "no number is left out, and none comes twice"
    assert abs((low + high - 1) / 2 - value) <= RELATIVE_ERROR * value


@given(LISTS, PERCENTS)
def test_percentiles_are_those_of_the_sorted_list(values: list[int], percent: str) -> None:
    histogram = Histogram.of(values)
    rank = max(math.ceil(Fraction(percent) / 100 * len(values)), 1)
    exact = sorted(values)[rank - 1]
    assert abs(histogram.percentile(percent) - exact) <= RELATIVE_ERROR * exact
    assert histogram.percentile("0") == histogram.least == min(values)
    assert histogram.percentile("100") == histogram.greatest == max(values)
    assert (histogram.count, histogram.sum) == (len(values), sum(values))
    assert histogram.mean == sum(values) / len(values)


@given(st.lists(st.lists(VALUES, max_size=50), max_size=5))
def test_merging_counts_everything_once(parts: list[list[int]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(Histogram.of(part))
    everything = [value for part in parts for value in part]
    whole = Histogram.of(everything)
    assert list(merged.buckets()) == list(whole.buckets())
    assert (merged.count, merged.sum) == (len(everything), sum(everything))
    assert sum(bucket.count for bucket in merged.buckets()) == len(everything)
    if everything:
        assert (merged.least, merged.greatest) == (min(everything), max(everything))


@given(LISTS, st.integers(1, 20))
def test_a_coarse_picture_loses_no_count(values: list[int], rows: int) -> None:
    shown = coarse(Histogram.of(values), rows)
    assert 1 <= len(shown) <= rows
    assert sum(bucket.count for bucket in shown) == len(values)
    fine = list(Histogram.of(values).buckets())
    for row in shown:
        assert row.count == sum(bucket.count for bucket in fine if row.low <= bucket.middle < row.high)
    assert shown[0].low <= min(values)
    assert shown[-1].high > max(values)
    assert all(one.high == next_.low for one, next_ in itertools.pairwise(shown))


def test_ranks_are_exact_where_floats_are_not() -> None:
    # 99.9 / 100 * 1000 is above 999 as a float, which would be the next value.
    assert Histogram.of([1] * 999 + [100]).percentile("99.9") == 1


def test_what_cannot_be_counted_or_told_is_refused() -> None:
    histogram = Histogram()
    assert coarse(histogram, 5) == []
    for ask in (lambda: histogram.mean, lambda: histogram.least, lambda: histogram.percentile("50")):
        with pytest.raises(ValueError, match="nothing was counted"):
            ask()
    with pytest.raises(ValueError, match="-1"):
        histogram.record(-1)
    histogram.record(1)
    for percent in ("-1", "100.1"):
        with pytest.raises(ValueError, match="between 0 and 100"):
            histogram.percentile(percent)
