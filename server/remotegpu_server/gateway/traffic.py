# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How many calls there were lately, how large, and how long they took. Pure; times in seconds, on any clock that starts
at 0 or later and does not go back.

Calls are counted in buckets of one second, so that a call costs the same however many there are. The window is the
second that has begun and those before it, `window` in all.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass

# Latencies that are remembered: of more calls in one window, the percentiles are those of the last ones.
LATENCIES = 4096
# Rates are told over at least so long: two calls in the first millisecond are not 2000 a second. Seconds.
_SHORTEST = 0.1


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the window's calls. Rates in calls and bytes per second; latencies in seconds, 0 if there was no call."""

    calls_per_s: float
    received_per_s: float
    sent_per_s: float
    p50_s: float
    p99_s: float


class Traffic:
    """Counts calls. `window` in whole seconds; `started`: when counting begins (None: with the first
    call or question)."""

    def __init__(self, window: int = 10, started: float | None = None) -> None:
        self._window = window
        self._started = started
        self._second = -1
        # [calls, received, sent] of the second `_second`, and with their seconds those of the seconds before it.
        self._now = [0, 0, 0]
        self._before: deque[tuple[int, list[int]]] = deque()
        # (when, seconds)
        self._latencies: deque[tuple[float, float]] = deque(maxlen=LATENCIES)

    def call(self, now: float, seconds: float, received: int, sent: int) -> None:
        """A call ended now, after so many seconds; so many bytes came and went. O(1)."""
        if now >= self._second + 1:
            self._turn(now)
        bucket = self._now
        bucket[0] += 1
        bucket[1] += received
        bucket[2] += sent
        self._latencies.append((now, seconds))

    def figures(self, now: float) -> Figures:
        """What the window that ends now holds."""
        self._turn(now)
        since = self._second - self._window + 1
        assert self._started is not None
        elapsed = max(now - max(since, self._started), _SHORTEST)
        buckets = [*(bucket for _, bucket in self._before), self._now]
        calls, received, sent = (sum(column) for column in zip(*buckets, strict=True))
        recent = itertools.takewhile(lambda entry: entry[0] >= since, reversed(self._latencies))
        latencies = sorted(seconds for _, seconds in recent)
        return Figures(
            calls / elapsed,
            received / elapsed,
            sent / elapsed,
            _percentile(latencies, 0.5),
            _percentile(latencies, 0.99),
        )

    def _turn(self, now: float) -> None:
        """Goes on to the second of `now`, and forgets what has left the window."""
        second = math.floor(now)
        if second > self._second:
            if self._now[0]:
                self._before.append((self._second, self._now))
            self._second, self._now = second, [0, 0, 0]
        while self._before and self._before[0][0] <= self._second - self._window:
            self._before.popleft()
        if self._started is None:
            self._started = now


def _percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least that share of them does not exceed (nearest rank)."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0
