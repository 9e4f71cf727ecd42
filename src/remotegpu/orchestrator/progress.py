# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Who is told how the work goes: lines of JSON here; the bar of a terminal is the command line's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from remotegpu.orchestrator.metrics import JobReport, Outcome, line


class Reporter(Protocol):
    """Is told of everything, by many threads."""

    def job(self, report: JobReport) -> None:
        """A job has ended."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


@dataclass(slots=True)
class Tally:
    """How many jobs ended how."""

    counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: Outcome) -> None:
        """One more."""
        with self._lock:
            self.counts[outcome] += 1

    @property
    def settled(self) -> int:
        """Jobs of which nothing is left to do."""
        return sum(count for outcome, count in self.counts.items() if outcome is not Outcome.FAILED)

    def __str__(self) -> str:
        shown = [f"{count} {outcome.value}" for outcome, count in self.counts.items() if count]
        return ", ".join(shown) or "no jobs"


class Lines:
    """One line of JSON for each job, by `write`; notes by `complain`."""

    def __init__(
        self, queue: str, invoke: str, write: Callable[[str], object], complain: Callable[[str], object]
    ) -> None:
        self._dimensions = queue, invoke
        self._write, self._complain = write, complain
        self._lock = threading.Lock()

    def job(self, report: JobReport) -> None:
        """Writes its line."""
        text = line(report, *self._dimensions, now_ms=time.time_ns() // 1_000_000)
        with self._lock:
            self._write(text)

    def note(self, text: str) -> None:
        """Complains."""
        with self._lock:
            self._complain(text)
