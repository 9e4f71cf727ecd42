# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of a load: throughput and latencies. The client's only file that imports matplotlib."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from remotegpu import errors
from remotegpu.cli.bench.outcome import Level

_MS = 1e6
_SIZE, _DOTS = (15, 4.5), 120


def check(file: Path) -> None:
    """Raises ConfigurationError if the picture could not be drawn or written, before the load was made for nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise errors.ConfigurationError(setting="--plot", why="matplotlib is missing: pip install 'remotegpu[plot]'")
    if file.suffix != ".png":
        raise errors.ConfigurationError(setting="--plot", why=f"{file} does not end in .png")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise errors.ConfigurationError(setting="--plot", why=f"{file} cannot be written")


def draw(levels: Sequence[Level], title: str, file: Path) -> None:
    """Writes the picture of levels that have answered calls; without any it is not written. Raises ConfigurationError
    if it cannot be."""
    measured = [level for level in levels if level.outcome.latencies.count]
    if not measured:
        return
    # The figure of a class and not of pyplot, which would ask for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
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
    try:
        figure.savefig(file, dpi=_DOTS)
    except OSError as error:
        raise errors.ConfigurationError(setting="--plot", why=f"{file}: {error.strerror or error}") from error
