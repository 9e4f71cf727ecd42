# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Requests of the standard door by model and version, and where their time went. Pure: times are arguments.

A request counts as one inference and one execution, however many rows it has, since no model here has a batch
dimension of its own. Requests that are refused for what they hold are not counted; those that the queue refuses are
failures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Spent(NamedTuple):
    """Nanoseconds of one request: all in all, and of them in the queue, taking in the inputs, running, giving out the
    outputs."""

    total: int
    queue: int
    compute_input: int
    compute_infer: int
    compute_output: int


@dataclass(slots=True)
class Figures:
    """Sums over the requests of one version. `last_inference`: milliseconds since the epoch, 0 if there was none."""

    successes: int = 0
    failures: int = 0
    failure_ns: int = 0
    last_inference: int = 0
    spent: list[int] = field(default_factory=lambda: [0] * len(Spent._fields))


class Statistics:
    """Counts requests."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str], Figures] = {}

    def succeeded(self, name: str, version: str, spent: Spent, now_ms: int) -> None:
        """A request was answered. `now_ms`: milliseconds since the epoch."""
        figures = self.of(name, version)
        figures.successes += 1
        figures.last_inference = now_ms
        sums = figures.spent
        for position, value in enumerate(spent):
            sums[position] += value

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
