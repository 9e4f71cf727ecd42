# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Renewal in the background: a lease that nobody uses for a while does not end as long as its object lives.

`due` and `next_look` decide; `Keeper` is the thread that does it. A lease is renewed when a third of its idle TTL has
passed since its last use, so that two renewals may fail before it ends.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from remotegpu import errors

logger = logging.getLogger("remotegpu.renewal")

# A lease with a shorter pace is not kept: the server would have to hear of it without end. Seconds.
LEAST_PACE = 0.05


@dataclass(slots=True)
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
        return max(self.idle_ttl / 3, LEAST_PACE)


def due(use: Use, now: float) -> bool:
    """Whether it is time to renew. Pure."""
    return not use.over and not use.running and now - use.last >= use.pace


def next_look(uses: Iterable[Use], now: float) -> float | None:
    """When the next of them may be due; None if there is nothing to wait for. Pure."""
    looks = [(now if use.running else use.last) + use.pace for use in uses if not use.over]
    return min(looks, default=None)


class Keeper:
    """Renews leases from a daemon thread, which runs while there are any.

    `renew` gets a lease's key and the seconds that it may take. Leases are held weakly: one that is collected is no
    longer renewed, and so ends by its TTL."""

    def __init__(self, renew: Callable[[str, float], object]) -> None:
        self._renew = renew
        self._changed = threading.Condition()
        self._leases: list[tuple[weakref.ref[object], str, Use]] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def keep(self, lease: object, key: str, use: Use) -> None:
        """Renews it from now on, until its use is over."""
        with self._changed:
            if self._closed:
                return
            self._leases.append((weakref.ref(lease), key, use))
            if self._thread is None or not self._thread.is_alive():  # a fork has the object and not the thread
                self._thread = threading.Thread(target=self._run, name="remotegpu-renewal", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread once a renewal that is under way has ended; does not wait for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while self._wait():
            self._turn()

    def _wait(self) -> bool:
        """Waits until a lease is due; False when there are none left."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                self._leases = [kept for kept in self._leases if kept[0]() is not None and not kept[2].over]
                look = next_look((use for _, _, use in self._leases), now)
                if look is None:
                    break
                if look <= now:
                    return True
                self._changed.wait(look - now)
            self._thread = None
            return False

    def _turn(self) -> None:
        with self._changed:
            kept = list(self._leases)
        for _, key, use in kept:
            now = time.monotonic()
            if self._closed or not due(use, now):
                continue
            use.last = now
            try:
                self._renew(key, use.pace)
            except errors.Error as error:
                # Its next use tells the caller what has become of it, so that nothing need be raised here.
                use.over = not (error.retryable or isinstance(error, errors.TransportError))
                logger.debug("lease %s %s: %s", key[:8], "is given up" if use.over else "was not renewed", error)
