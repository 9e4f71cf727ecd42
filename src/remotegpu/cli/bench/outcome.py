# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a load has found: latencies of the calls that were answered, and the others by their kind. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from remotegpu import errors
from remotegpu.cli.bench.histogram import Histogram


@dataclass(slots=True)
class Failures:
    """Calls that failed in one way, and what the first of them said."""

    count: int
    first: str


@dataclass(slots=True)
class Outcome:
    """Of one slot, or of many merged. Latencies in nanoseconds, of answered calls only. Calls of the warm-up are not
    measured, but their failures are told."""

    latencies: Histogram = field(default_factory=Histogram)
    failures: dict[str, Failures] = field(default_factory=dict)
    warm_up_failures: dict[str, Failures] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Measured calls that failed."""
        return sum(failures.count for failures in self.failures.values())

    def fail(self, error: errors.Error, *, warm_up: bool = False) -> None:
        """Counts a call that was not answered."""
        _count(self.warm_up_failures if warm_up else self.failures, kind_of(error), 1, str(error))

    def merge(self, other: Outcome) -> None:
        """Takes over all that another slot has counted."""
        self.latencies.merge(other.latencies)
        for mine, theirs in (
            (self.failures, other.failures),
            (self.warm_up_failures, other.warm_up_failures),
        ):
            for kind, failures in theirs.items():
                _count(mine, kind, failures.count, failures.first)


@dataclass(frozen=True, slots=True)
class Level:
    """What came of one concurrency. `seconds`: from the first measured call's begin to the last one's end."""

    concurrency: int
    seconds: float
    outcome: Outcome
    interrupted: bool

    @property
    def calls_per_second(self) -> float:
        """Answered calls; 0 if there was none."""
        return self.outcome.latencies.count / self.seconds if self.seconds > 0 else 0.0

    @property
    def hopeless(self) -> str:
        """A sentence if no call of the warm-up was answered, so that nothing was measured; "" otherwise."""
        failures = self.outcome.warm_up_failures
        if self.interrupted or not failures or self.outcome.failed or self.outcome.latencies.count:
            return ""
        count = sum(found.count for found in failures.values())
        said = "; ".join(f"{found.count} × {kind}: {found.first}" for kind, found in sorted(failures.items()))
        what = f"all {count} calls of the warm-up failed" if count > 1 else "the one call of the warm-up failed"
        return f"{what}, so nothing was measured: {said}"


def kind_of(error: errors.Error) -> str:
    """The class of an error, or what another server calls it, such as NOT_FOUND."""
    return error.kind if isinstance(error, errors.UnknownRemoteError) else type(error).__name__


def _count(failures: dict[str, Failures], kind: str, count: int, first: str) -> None:
    if kind in failures:
        failures[kind].count += count
    else:
        failures[kind] = Failures(count, first)
