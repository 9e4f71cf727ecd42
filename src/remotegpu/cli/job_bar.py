# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How the orchestrator's work goes, as one line of a terminal that is written over and over."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from typing import TextIO

from remotegpu import errors
from remotegpu.cli import tables
from remotegpu.orchestrator.metrics import JobReport, Outcome
from remotegpu.orchestrator.progress import Tally

# Between two drawings, and between two looks at how many messages wait. Seconds.
PACE, BACKLOG_PACE = 0.25, 5.0


class Bar:
    """A reporter for a terminal; also a context manager, within which it draws.

    `backlog`: how many messages wait in the queue; `busy`: how many jobs run."""

    def __init__(self, stream: TextIO, backlog: Callable[[], int], busy: Callable[[], int]) -> None:
        self._stream, self._backlog, self._busy = stream, backlog, busy
        self._palette = tables.colours(stream)
        self._tally = Tally()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._draw_all, daemon=True)

    def __enter__(self) -> Bar:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(BACKLOG_PACE)
        self._write(f"\r\x1b[K{self._tally} in {time.monotonic() - self._started:.1f} s\n")

    def job(self, report: JobReport) -> None:
        """Counts it; one that failed is told in a line of its own."""
        self._tally.add(report.outcome)
        if report.outcome is Outcome.FAILED:
            self.note(f"s3://{report.bucket}/{report.key}, delivery {report.delivery}: {report.error}")

    def note(self, text: str) -> None:
        """Shows it above the bar."""
        self._write(f"\r\x1b[K{tables.printable(text)}\n")

    def _draw_all(self) -> None:
        waiting, looked = 0, float("-inf")
        while not self._end.is_set():
            if time.monotonic() - looked >= BACKLOG_PACE:
                looked = time.monotonic()
                try:
                    waiting = self._backlog()
                except errors.Error as error:
                    self.note(str(error))
            self._draw(waiting)
            self._end.wait(PACE)

    def _draw(self, waiting: int) -> None:
        busy, settled = self._busy(), self._tally.settled
        share = settled / max(settled + busy + waiting, 1)
        speed = settled / max(time.monotonic() - self._started, 0.001)
        failed = self._tally.counts[Outcome.FAILED]
        line = tables.line(
            (tables.bar(share), "green"),
            f"  {settled} done  ",
            (f"{failed} failed  ", "red" if failed else ""),
            f"{busy} running  about {waiting} waiting  {speed:.1f}/s",
        )
        width = shutil.get_terminal_size().columns
        self._write("\r" + tables.painted([tables.cut(line, width - 1)], self._palette)[0] + "\x1b[K")

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()
