# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A time by which something must have happened, watched by a thread that hardly ever wakes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

# A thread that has had nothing to watch for so long ends. Seconds.
_IDLE = 60.0


class Watchdog:
    """Calls `expired` in a thread of its own when an armed time has passed.

    Times are usually armed in growing order and disarmed long before they come: then arming is one assignment, and the
    thread, which sleeps until the first of them, only looks. Times are those of `time.monotonic`."""

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._due = math.inf
        self._changed = threading.Condition()
        # When the thread looks again; infinity: there is no thread.
        self._looks = math.inf
        self._closed = False

    def arm(self, due: float) -> None:
        """Watches that time, instead of one that was armed before."""
        self._due = due
        if due < self._looks:
            self._look_at(due)

    def disarm(self) -> None:
        """What was to happen has happened."""
        self._due = math.inf

    def close(self) -> None:
        """Ends the thread; nothing is watched any more."""
        with self._changed:
            self._closed = True
            self._due = math.inf
            self._changed.notify()

    def _look_at(self, due: float) -> None:
        with self._changed:
            if self._closed:
                return
            start, self._looks = math.isinf(self._looks), due
            self._changed.notify()
        if start:
            threading.Thread(target=self._watch, name="remotegpu-watchdog", daemon=True).start()

    def _watch(self) -> None:
        armed = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                if self._due <= now:
                    self._due = math.inf
                    expired = True
                else:
                    expired = False
                    armed = armed if math.isinf(self._due) else now
                    if self._closed or now - armed >= _IDLE:
                        self._looks = math.inf
                        return
                    self._looks = min(self._due, now + _IDLE)
                    self._changed.wait(self._looks - now)
            if expired:
                self._expired()
