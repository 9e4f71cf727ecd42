# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A histogram of latencies in log-linear buckets: every value is counted, and told back within a stated error. Pure.

Values below 2**BITS have a bucket each. Above that, each doubling is cut into 2**(BITS - 1) buckets of one width, so
that no bucket is wider than 1/64 of its least value. Source of the scheme: G. Tene, HdrHistogram,
https://github.com/HdrHistogram/HdrHistogram.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

BITS = 7
# A value is told as the middle of its bucket, which is off by at most this part of it.
RELATIVE_ERROR = 2.0**-BITS


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many values `v` had `low <= v < high`."""

    low: int
    high: int
    count: int

    @property
    def middle(self) -> float:
        """What stands for its values: exact where the bucket holds one value only."""
        return (self.low + self.high - 1) / 2


def index_of(value: int) -> int:
    """The number of the bucket that holds a value of 0 or more; greater values never have smaller numbers."""
    shift = max(value.bit_length() - BITS, 0)
    return (shift << (BITS - 1)) + (value >> shift)


def bounds_of(index: int) -> tuple[int, int]:
    """The least value of a bucket, and the least of the next one."""
    shift = max((index >> (BITS - 1)) - 1, 0)
    low = index - (shift << (BITS - 1))
    return low << shift, (low + 1) << shift


class Histogram:
    """Counts of whole numbers of 0 or more, such as nanoseconds. Count, sum, least and greatest are exact."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.sum = 0
        self._least = 0
        self._greatest = 0

    @classmethod
    def of(cls, values: Iterable[int]) -> Histogram:
        """With these values."""
        made = cls()
        for value in values:
            made.record(value)
        return made

    def record(self, value: int) -> None:
        """Counts one value. Raises ValueError for one below 0."""
        if value < 0:
            raise ValueError(f"a histogram counts from 0 on, not {value}")
        index = index_of(value)
        self._counts[index] = self._counts.get(index, 0) + 1
        self._least = min(self._least, value) if self.count else value
        self._greatest = max(self._greatest, value)
        self.count += 1
        self.sum += value

    def merge(self, other: Histogram) -> None:
        """Counts all that the other has counted, as if it had been recorded here."""
        if not other.count:
            return
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self._least = min(self._least, other._least) if self.count else other._least
        self._greatest = max(self._greatest, other._greatest)
        self.count += other.count
        self.sum += other.sum

    @property
    def least(self) -> int:
        """The least value. Raises ValueError if nothing was counted, as do `greatest`, `mean` and `percentile`."""
        self._check()
        return self._least

    @property
    def greatest(self) -> int:
        """The greatest value."""
        self._check()
        return self._greatest

    @property
    def mean(self) -> float:
        """The arithmetic mean, exact but for the division."""
        self._check()
        return self.sum / self.count

    def percentile(self, percent: str) -> float:
        """The value that so many per cent of all do not exceed (nearest rank), within RELATIVE_ERROR; "0" is the least
        value and "100" the greatest, both exact. `percent` is a decimal number as text, since 99.9 has no exact float.

        Raises ValueError for one that is not between 0 and 100."""
        self._check()
        share = Fraction(percent) / 100
        if not 0 <= share <= 1:
            raise ValueError(f"a percentile is between 0 and 100, not {percent}")
        rank = math.ceil(share * self.count)
        if rank in {0, self.count}:
            return float(self._greatest if rank else self._least)
        for bucket in self.buckets():
            rank -= bucket.count
            if rank <= 0:
                return float(min(max(bucket.middle, self._least), self._greatest))
        raise AssertionError("the buckets hold as many values as were counted")

    def buckets(self) -> Iterator[Bucket]:
        """Those that hold values, from the least on."""
        for index in sorted(self._counts):
            yield Bucket(*bounds_of(index), self._counts[index])

    def _check(self) -> None:
        if not self.count:
            raise ValueError("nothing was counted")


def coarse(histogram: Histogram, rows: int) -> list[Bucket]:
    """The same counts in at most `rows` buckets, each as much wider than the last one as all others, for a picture.
    A fine bucket belongs where its middle lies; empty rows between others stay."""
    fine = list(histogram.buckets())
    if not fine:
        return []
    low, high = fine[0].low, fine[-1].high
    ratio = (high / max(low, 1)) ** (1 / rows)
    edges = [low, *(round(max(low, 1) * ratio**step) for step in range(1, rows)), high]
    edges = sorted({min(max(edge, low), high) for edge in edges})
    counts = [0] * (len(edges) - 1)
    row = 0
    for bucket in fine:
        while row + 1 < len(counts) and bucket.middle >= edges[row + 1]:
            row += 1
        counts[row] += bucket.count
    return [Bucket(low, high, count) for (low, high), count in zip(itertools.pairwise(edges), counts, strict=True)]
