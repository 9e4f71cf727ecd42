# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Requests of the standard door by model and version, and where their time went. Pure: times are arguments.

A request counts as one inference, however many rows it has, since no model here has a batch dimension of its own; an
execution is a run of the model, which may be for several requests. Requests that are refused for what they hold are not
counted; those that the queue refuses are failures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Spent(NamedTuple):
    """Nanoseconds of one request: all in all, and of them in the queue, taking in the inputs, running, giving out the
    outputs. `batch`: requests in the run of the model, told by one of them; 0 by the others."""

    total: int
    queue: int
    compute_input: int
    compute_infer: int
    compute_output: int
    batch: int


_TIMES = len(Spent._fields) - 1


@dataclass(slots=True)
class Figures:
    """Sums over the requests of one version. `last_inference`: milliseconds since the epoch, 0 if there was none.
    `batches`: by requests in a run, how many runs, and nanoseconds of taking in, running, giving out."""

    successes: int = 0
    failures: int = 0
    failure_ns: int = 0
    last_inference: int = 0
    spent: list[int] = field(default_factory=lambda: [0] * _TIMES)
    batches: dict[int, list[int]] = field(default_factory=dict)

    @property
    def executions(self) -> int:
        """Runs of the model."""
        return sum(runs for runs, *_ in self.batches.values())


class Statistics:
    """Counts requests."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str], Figures] = {}

    def succeeded(self, name: str, version: str, spent: Spent, now_ms: int) -> None:
        """A request was answered. `now_ms`: milliseconds since the epoch."""
        figures = self.of(name, version)
        figures.successes += 1
        figures.last_inference = now_ms
        _add(figures.spent, spent[:_TIMES])
        if spent.batch:
            sums = figures.batches.setdefault(spent.batch, [0] * 4)
            _add(sums, (1, spent.compute_input, spent.compute_infer, spent.compute_output))

    def failed(self, name: str, version: str, total_ns: int) -> None:
        """A request failed, or its caller gave up."""
        figures = self.of(name, version)
        figures.failures += 1
        figures.failure_ns += total_ns

    def of(self, name: str, version: str) -> Figures:
        """The sums of one version."""
        return self._figures.setdefault((name, version), Figures())

    def keep(self, served: Iterable[tuple[str, str]]) -> None:
        """Forgets all versions but these: one that is unloaded begins again."""
        wanted = set(served)
        self._figures = {key: figures for key, figures in self._figures.items() if key in wanted}


def _add(sums: list[int], values: Iterable[int]) -> None:
    for position, value in enumerate(values):
        sums[position] += value
