# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Renewal in the background, for an event loop: a task in the place of a thread. `remotegpu.renewal` decides."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable
from contextvars import Context

from remotegpu import errors
from remotegpu.renewal import Use, logger, next_due, next_look, patience


class AsyncKeeper:
    """Renews leases from a task, which runs while there are any.

    `renew`, a bound method, gets a lease's key and the seconds that it may take. Its object and the leases are held
    weakly: a lease that nobody holds is no longer renewed, and so ends by its TTL."""

    def __init__(self, renew: Callable[[str, float], Awaitable[object]]) -> None:
        self._renew = weakref.WeakMethod(renew)
        self._leases: list[tuple[weakref.ref[object], str, Use]] = []
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closed = False

    def keep(self, lease: object, key: str, use: Use) -> None:
        """Renews it from now on, until its use is over or `lease` is gone."""
        if self._closed:
            return
        loop, wake = asyncio.get_running_loop(), self._wake

        def gone(_: object) -> None:
            # The garbage collector may come in any thread, and after the end of the loop.
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake.set)

        self._leases.append((weakref.ref(lease, gone), key, use))
        if self._task is None or self._task.done():
            # Outside of the caller's context: it outlives the invocation whose deadline that may have.
            self._task = loop.create_task(self._run(), name="remotegpu-renewal", context=Context())
        wake.set()

    async def close(self) -> None:
        """Ends the task, and a renewal that is under way."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._alive():
            await self._look()

    async def _look(self) -> None:
        """Renews the lease that is due, or waits until one may be."""
        now, uses = time.monotonic(), [use for _, _, use in self._leases]
        use = next_due(uses, now)
        if use is not None:
            key = next(key for _, key, other in self._leases if other is use)
            await self._renew_one(key, use, now, patience(uses))
            return
        look = next_look(uses, now)
        self._wake.clear()
        try:
            async with asyncio.timeout(None if look is None else max(look - now, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _alive(self) -> bool:
        """Whether there are any leases to be kept."""
        self._leases = [kept for kept in self._leases if kept[0]() is not None and not kept[2].over]
        return bool(self._leases)

    async def _renew_one(self, key: str, use: Use, now: float, seconds: float) -> None:
        renew = self._renew()
        if renew is None:
            use.over = True
            return
        use.last = now
        try:
            await renew(key, seconds)
        except errors.Error as error:
            # Its next use tells the caller what has become of it, so that nothing need be raised here.
            use.over = not (error.retryable or isinstance(error, errors.TransportError))
            logger.debug("lease %s %s: %s", key[:8], "is given up" if use.over else "was not renewed", error)
