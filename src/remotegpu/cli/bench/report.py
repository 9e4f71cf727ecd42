# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The results of a load as JSON and as lines of text. Pure; the lines need rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remotegpu.cli.bench.histogram import RELATIVE_ERROR, Histogram, coarse
from remotegpu.cli.bench.outcome import Failures, Level

if TYPE_CHECKING:
    from remotegpu.cli.bench.inputs import Array
    from remotegpu.cli.bench.settings import Settings
    from remotegpu.cli.tables import Line

# Of the JSON. A new number for a change that a reader of the old one would misread; new keys do not count.
SCHEMA = "remotegpu.bench/1"
PERCENTILES = ("50", "90", "99", "99.9")
_ROWS, _BAR = 12, 40
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found out."""

    settings: Settings
    started: str
    versions: Mapping[str, str]
    server: Mapping[str, Any]
    inputs: Mapping[str, Array]
    levels: Sequence[Level]

    @property
    def interrupted(self) -> bool:
        """Whether it is only a part."""
        return any(level.interrupted for level in self.levels)

    @property
    def failed(self) -> bool:
        """Whether any measured call was not answered, or none was made."""
        return any(level.outcome.failed or not level.outcome.latencies.count for level in self.levels)


def fields(report: Report) -> dict[str, Any]:
    """As JSON has it. Times are whole or real nanoseconds where the name says ns, else seconds."""
    settings = report.settings
    amount, choice = settings.amount, settings.choice
    return {
        "schema": SCHEMA,
        "started": report.started,
        "versions": dict(report.versions),
        "server": dict(report.server),
        "settings": {
            "url": settings.address.url,
            "protocol": settings.address.protocol,
            "model": settings.address.model,
            "version": settings.address.version,
            "tenant": settings.address.tenant,
            "timeout": settings.address.timeout,
            "loop": "closed",
            "concurrency": list(settings.concurrencies),
            "duration": None if amount.requests else amount.duration,
            "requests": amount.requests or None,
            "warm_up": amount.warm_up,
            "seed": choice.seed if choice.file is None else None,
            "input": None if choice.file is None else str(choice.file),
        },
        "inputs": [
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in report.inputs.items()
        ],
        "interrupted": report.interrupted,
        "runs": [_level_fields(level) for level in report.levels],
    }


def _level_fields(level: Level) -> dict[str, Any]:
    latencies = level.outcome.latencies
    return {
        "concurrency": level.concurrency,
        "seconds": level.seconds,
        "calls": latencies.count,
        "failed": level.outcome.failed,
        "calls_per_second": level.calls_per_second,
        "latency_ns": latency_fields(latencies) if latencies.count else None,
        "histogram": {
            "relative_error": RELATIVE_ERROR,
            "buckets": [[bucket.low, bucket.high, bucket.count] for bucket in latencies.buckets()],
        },
        "errors": _failure_fields(level.outcome.failures),
        "warm_up_errors": _failure_fields(level.outcome.warm_up_failures),
    }


def latency_fields(latencies: Histogram) -> dict[str, float]:
    """Mean, extremes and percentiles in nanoseconds, of at least one latency."""
    named = {f"p{percent}": latencies.percentile(percent) for percent in PERCENTILES}
    return {"mean": latencies.mean, "min": latencies.least, **named, "max": latencies.greatest}


def _failure_fields(failures: Mapping[str, Failures]) -> dict[str, Any]:
    return {kind: {"count": found.count, "first": found.first} for kind, found in sorted(failures.items())}


def time_text(ns: float) -> str:
    """Nanoseconds in three digits: "412 µs", "1.23 ms", "25.4 ms"."""
    unit, name = next(((unit, name) for unit, name in _UNITS if ns >= unit), _UNITS[-1])
    value = ns / unit
    return f"{value:.{0 if value >= 99.95 or unit == 1 else 1 if value >= 9.995 else 2}f} {name}"


def lines(report: Report, width: int | None) -> list[Line]:
    """For a person: what was asked, a table with a row for each concurrency, histograms, and what failed."""
    from remotegpu.cli.tables import Column, cut, line, table

    address = report.settings.address
    inputs = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in report.inputs.items())
    shown = [cut(line(f"{address.model} at {address.url} ({address.protocol}, closed loop): {inputs}"), width), line()]
    heads = ("callers", "calls", "calls/s", "mean", "p50", "p99", "p99.9", "max", "errors")
    ranks = (0, 6, 0, 5, 0, 0, 3, 4, 0)
    columns = [Column(head, rank, right=True) for head, rank in zip(heads, ranks, strict=True)]
    shown += table(columns, [_row(level) for level in report.levels], width)
    for level in report.levels:
        shown += [line(), *_histogram(level, width)]
    for level in report.levels:
        shown += [cut(found, width) for found in _failures(level)]
    if report.interrupted:
        shown += [line(), line(("interrupted: this is what was measured until then", "bold"))]
    return shown


def _row(level: Level) -> list[str]:
    latencies = level.outcome.latencies
    times = ["-"] * 5
    if latencies.count:
        found = latency_fields(latencies)
        times = [time_text(found[name]) for name in ("mean", "p50", "p99", "p99.9", "max")]
    rate = f"{level.calls_per_second:.1f}"
    return [str(level.concurrency), str(latencies.count), rate, *times, str(level.outcome.failed)]


def _histogram(level: Level, width: int | None) -> list[Line]:
    from remotegpu.cli.tables import cut, line

    rows = coarse(level.outcome.latencies, _ROWS)
    most = max((row.count for row in rows), default=0)
    shown = [line((f"latencies of {level.concurrency} callers", "bold"))] if rows else []
    for row in rows:
        bar = "█" * -(-row.count * _BAR // most)
        text = f"{time_text(row.low):>8} to {time_text(row.high):>8} {row.count:>9}  {bar}"
        shown.append(cut(line(text), width))
    return shown


def _failures(level: Level) -> list[Line]:
    from remotegpu.cli.tables import line

    shown = []
    for what, failures in (("", level.outcome.failures), (" in the warm-up", level.outcome.warm_up_failures)):
        for kind, found in sorted(failures.items()):
            shown.append(line((f"{level.concurrency} callers: {found.count} × {kind}{what}: {found.first}", "red")))
    return shown
