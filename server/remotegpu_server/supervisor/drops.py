# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Leases that a worker was told to drop, and how long it may take to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# How long a worker that runs nothing may take to answer a Drop. It needs a millisecond, and a process that waits for a
# core on a crowded machine some hundreds; whoever gives a lease back should see the capacity free within a second.
DROP_PATIENCE = 0.8
# A timer that fires so late says that the daemon itself was held up, and perhaps the worker with it. Seconds.
_LATE = 0.2


class Drops:
    """The Drops that are not answered."""

    def __init__(self, quiet: Callable[[], bool], hung: Callable[[], None]) -> None:
        """`quiet`: whether the worker has nothing to do, so that nothing can hold up its answers; `hung` hears when
        they do not come."""
        self._quiet = quiet
        self._hung = hung
        self._leases: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def __bool__(self) -> bool:
        return bool(self._leases)

    def sent(self, lease: int) -> None:
        """The worker was told to drop that lease."""
        self._leases.add(lease)
        self.look()

    def answered(self, lease: int) -> None:
        """It has done so."""
        self._leases.remove(lease)
        if self._timer is not None:  # it lives: those that are left have their time from now on
            self._timer.cancel()
            self._timer = None
        self.look()

    def look(self) -> None:
        """Times the answer while the worker is quiet. While something runs, its deadline decides: only code that does
        not let go of the interpreter can hold up the answer, and that ends with the call."""
        if not self._leases or not self._quiet():
            self._stop()
        elif self._timer is None:
            due = self._loop.time() + DROP_PATIENCE
            self._timer = self._loop.call_at(due, self._late, due)

    def close(self) -> None:
        """Nothing is waited for any longer."""
        self._leases.clear()
        self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self, due: float) -> None:
        self._timer = None
        if self._loop.time() > due + _LATE:
            self.look()
        else:
            self._hung()
