# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Retries. Only a connection that could not be made is tried again by itself: nothing was sent, so nothing can run
twice; and a call that may run twice, when its connection broke. tenacity is loaded on the first failure, not before."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from remotegpu import errors

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

# Before the second attempt, at least. Seconds.
_LEAST_PAUSE = 0.05


async def until_connected(
    attempt: Callable[[], Awaitable[T]], patience: float, *, idempotent: bool = False, timeout: float = math.inf
) -> T:
    """The result of `attempt`, which is repeated with growing, jittered pauses while it raises ConnectError, or, if it
    is `idempotent`, ConnectionLost.

    It may go without a connection for `patience` seconds in all: the time of calls that were under way when theirs
    broke does not count. `timeout` seconds are for everything together. Raises the last of those errors, but
    ConnectionLost if any attempt was sent: then it is unknown what ran."""
    failures = (errors.ConnectError, errors.ConnectionLost) if idempotent else (errors.ConnectError,)
    started = time.monotonic()
    under_way = 0.0
    # Why the last attempt that was sent has no answer.
    broken = ""

    async def timed() -> T:
        nonlocal under_way, broken
        begun = time.monotonic()
        try:
            return await attempt()
        except errors.ConnectionLost as error:
            under_way += time.monotonic() - begun
            broken = error.why
            raise

    def too_late(pause: float) -> bool:
        passed = time.monotonic() - started + pause
        return passed >= timeout or passed - under_way >= patience

    def stop(state: RetryCallState) -> bool:
        return too_late(state.upcoming_sleep)

    try:
        return await timed()
    except failures:
        if too_late(_LEAST_PAUSE):
            raise
    import tenacity

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(failures),
        wait=tenacity.wait_exponential(multiplier=_LEAST_PAUSE, max=1.0) + tenacity.wait_random(0.0, _LEAST_PAUSE),
        stop=stop,
        reraise=True,
    )
    try:
        return await retrying(timed)
    except errors.Error as error:
        if broken and isinstance(error, errors.ConnectError):
            why = f"{broken}; and then no new connection could be made: {error.why}"
            raise errors.ConnectionLost(address=error.address, why=why) from None
        # Without the frames of tenacity: they hold the error, and it would hold them.
        error.__traceback__ = None
        raise
