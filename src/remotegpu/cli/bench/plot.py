# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of a load: throughput and latencies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from remotegpu.cli import pictures
from remotegpu.cli.bench.outcome import Level

_MS = 1e6
_SIZE = (15, 4.5)

check = pictures.check


def draw(levels: Sequence[Level], title: str, file: Path) -> None:
    """Writes the picture of levels that have answered calls; without any it is not written. Raises ConfigurationError
    if it cannot be."""
    measured = [level for level in levels if level.outcome.latencies.count]
    if not measured:
        return
    figure = pictures.figure(*_SIZE)
    figure.suptitle(title)
    throughput, percentiles, shares = figure.subplots(1, 3)
    callers = [level.concurrency for level in measured]
    throughput.plot(callers, [level.calls_per_second for level in measured], "o-")
    throughput.set(xlabel="callers", ylabel="calls per second", ylim=(0, None))
    for percent in ("50", "99", "99.9"):
        values = [level.outcome.latencies.percentile(percent) / _MS for level in measured]
        percentiles.plot(callers, values, "o-", label=f"p{percent}")
    percentiles.set(xlabel="callers", ylabel="latency, ms", yscale="log")
    percentiles.legend()
    for level in measured:
        buckets = list(level.outcome.latencies.buckets())
        counts = accumulate(bucket.count for bucket in buckets)
        done = [100 * count / level.outcome.latencies.count for count in counts]
        shares.step([bucket.high / _MS for bucket in buckets], done, where="post", label=f"{level.concurrency} callers")
    shares.set(xlabel="latency, ms", ylabel="answered by then, % of calls", xscale="log")
    shares.legend()
    pictures.write(figure, file)
