# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Renewal in the background: a lease that nobody uses for a while does not end as long as anybody holds it.

`next_due`, `next_look` and `patience` decide; `Keeper` is the thread that does it. A lease is renewed when a quarter of
its idle TTL has passed since its last use, and a renewal may take no longer than that, so that two of them may fail
before it ends.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from remotegpu import errors

logger = logging.getLogger("remotegpu.renewal")

# A lease with a shorter pace is not kept: the server would have to hear of it without end. Seconds.
LEAST_PACE = 0.05
# The longest that a renewal may take. Seconds.
LONGEST_RENEWAL = 5.0


@dataclass(slots=True, eq=False)
class Use:
    """How a lease is used. Times in seconds, readings of one monotonic clock.

    `last`: when it was used last, or when it was tried to renew it. `running`: its calls under way, during which the
    server's idle clock stands still. `over`: it has ended, or must not be renewed any more."""

    idle_ttl: float
    last: float
    running: int = 0
    over: bool = False

    @property
    def pace(self) -> float:
        """How long it may be unused before it is renewed."""
        return max(self.idle_ttl / 4, LEAST_PACE)


def next_due(uses: Iterable[Use], now: float) -> Use | None:
    """Which of them to renew now, None if there is none: of those that are due the one that must be renewed most often,
    since it has the least time left. Pure."""
    due = (use for use in uses if not use.over and not use.running and now - use.last >= use.pace)
    return min(due, key=lambda use: use.pace, default=None)


def next_look(uses: Iterable[Use], now: float) -> float | None:
    """When the next of them may be due; None if there is nothing to wait for. Pure."""
    looks = [(now if use.running else use.last) + use.pace for use in uses if not use.over]
    return min(looks, default=None)


def patience(uses: Iterable[Use]) -> float:
    """Seconds that any renewal may take: one that hangs must not cost another lease more than one of its own. Pure."""
    return min([LONGEST_RENEWAL, *(use.pace for use in uses if not use.over)])


class Keeper:
    """Renews leases from a daemon thread, which runs while there are any.

    `renew`, a bound method, gets a lease's key and the seconds that it may take. Its object and the leases are held
    weakly: a lease that nobody holds is no longer renewed, and so ends by its TTL."""

    def __init__(self, renew: Callable[[str, float], object]) -> None:
        self._renew = weakref.WeakMethod(renew)
        self._lock = threading.Lock()
        self._leases: list[tuple[weakref.ref[object], str, Use]] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        # Wakes the thread. Of all queues this one may be written to by the garbage collector, in whatever it came.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def keep(self, lease: object, key: str, use: Use) -> None:
        """Renews it from now on, until its use is over or `lease` is gone."""
        wakes = self._wakes
        with self._lock:
            if self._closed:
                return
            self._leases.append((weakref.ref(lease, lambda _: wakes.put(None)), key, use))
            if self._thread is None or not self._thread.is_alive():  # a fork has the object and not the thread
                self._thread = threading.Thread(target=self._run, name="remotegpu-renewal", daemon=True)
                self._thread.start()
        wakes.put(None)

    def close(self) -> None:
        """Ends the thread once a renewal that is under way has ended; does not wait for it."""
        self._closed = True
        self._wakes.put(None)

    def _run(self) -> None:
        while self._look():
            pass

    def _look(self) -> bool:
        """Renews the lease that is due, or waits until one may be; False when there are none left."""
        kept = self._alive()
        if not kept:
            return False
        now, uses = time.monotonic(), [use for _, use in kept]
        use = next_due(uses, now)
        if use is not None:
            key = next(key for key, other in kept if other is use)
            self._renew_one(key, use, now, patience(uses))
            return True
        look = next_look(uses, now)
        try:
            self._wakes.get(timeout=None if look is None else max(look - now, 0.0))
        except queue.Empty:
            pass
        return True

    def _alive(self) -> list[tuple[str, Use]]:
        """The leases that are to be kept; without any the thread is given up."""
        with self._lock:
            if not self._closed:
                self._leases = [kept for kept in self._leases if kept[0]() is not None and not kept[2].over]
                if self._leases:
                    return [(key, use) for _, key, use in self._leases]
            self._thread = None
            return []

    def _renew_one(self, key: str, use: Use, now: float, seconds: float) -> None:
        renew = self._renew()
        if renew is None:
            use.over = True
            return
        use.last = now
        try:
            renew(key, seconds)
        except errors.Error as error:
            # Its next use tells the caller what has become of it, so that nothing need be raised here.
            use.over = not (error.retryable or isinstance(error, errors.TransportError))
            logger.debug("lease %s %s: %s", key[:8], "is given up" if use.over else "was not renewed", error)
