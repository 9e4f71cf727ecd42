# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Retries. Only a connection that could not be made is tried again by itself: nothing was sent, so nothing can run
twice; and a call that may run twice, when its connection broke. tenacity is loaded on the first failure, not before."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from remotegpu import errors

T = TypeVar("T")

# Before the second attempt, at least. Seconds.
_LEAST_PAUSE = 0.05
_LOST_TOO = (errors.ConnectError, errors.ConnectionLost)


async def until_connected(
    attempt: Callable[[], Awaitable[T]], patience: float, *, idempotent: bool = False, timeout: float = math.inf
) -> T:
    """The result of `attempt`, which is repeated with growing, jittered pauses while it raises ConnectError, or, if it
    is `idempotent`, ConnectionLost.

    It may go without a connection for `patience` seconds in all: the time of calls that were under way when theirs
    broke does not count. `timeout` seconds are for everything together. Raises the last of those errors, but
    ConnectionLost if any attempt was sent: then it is unknown what ran."""
    failures = _LOST_TOO if idempotent else (errors.ConnectError,)
    started = time.monotonic()
    try:
        return await attempt()
    except failures as error:
        outage = _Outage(started, patience, timeout)
        outage.note(error, started)
        if outage.too_late(_LEAST_PAUSE):
            raise
    return await _again(attempt, failures, outage)


class _Outage:
    """How long there has been no connection, of all that is allowed, and what became of the attempts."""

    def __init__(self, started: float, patience: float, timeout: float) -> None:
        self._started = started
        self._patience = patience
        self._timeout = timeout
        self._under_way = 0.0
        # Why the last attempt that was sent has no answer.
        self.broken = ""

    def note(self, error: errors.Error, begun: float) -> None:
        """An attempt that was begun then has failed."""
        if isinstance(error, errors.ConnectionLost):
            self._under_way += time.monotonic() - begun
            self.broken = error.why

    def too_late(self, pause: float) -> bool:
        """Whether another attempt after such a pause, in seconds, is one too many."""
        passed = time.monotonic() - self._started + pause
        return passed >= self._timeout or passed - self._under_way >= self._patience


async def _again(attempt: Callable[[], Awaitable[T]], failures: tuple[type[errors.Error], ...], outage: _Outage) -> T:
    import tenacity

    async def timed() -> T:
        begun = time.monotonic()
        try:
            return await attempt()
        except errors.ConnectionLost as error:
            outage.note(error, begun)
            raise

    growing = tenacity.wait_exponential(multiplier=_LEAST_PAUSE, max=1.0)
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(failures),
        wait=lambda state: growing(state) + _jitter(),
        stop=lambda state: outage.too_late(state.upcoming_sleep),
        reraise=True,
    )
    try:
        return await retrying(timed)
    except errors.Error as error:
        if outage.broken and isinstance(error, errors.ConnectError):
            why = f"{outage.broken}; and then no new connection could be made: {error.why}"
            raise errors.ConnectionLost(address=error.address, why=why) from None
        # Without the frames of tenacity: they hold the error, and it would hold them.
        error.__traceback__ = None
        raise


def _jitter() -> float:
    """Seconds. Not of `random`, whose state forks and restored snapshots have in common."""
    return secrets.randbelow(1000) / 1000 * _LEAST_PAUSE
