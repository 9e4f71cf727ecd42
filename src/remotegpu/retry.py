# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Retries. Only a connection that could not be made is tried again by itself: nothing was sent, so nothing can run
twice. tenacity is loaded on the first failure, not before."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from remotegpu import errors

T = TypeVar("T")


def until_connected(attempt: Callable[[], T], patience: float) -> T:
    """The result of `attempt`, which is repeated with growing, jittered pauses while it raises ConnectError, for at
    most `patience` seconds. Raises the last ConnectError."""
    until = time.monotonic() + patience
    try:
        return attempt()
    except errors.ConnectError:
        patience = until - time.monotonic()
        if patience <= 0:
            raise
    import tenacity

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors.ConnectError),
        wait=tenacity.wait_exponential(multiplier=0.05, max=1.0) + tenacity.wait_random(0.0, 0.05),
        stop=tenacity.stop_before_delay(patience),
        reraise=True,
    )
    return retrying(attempt)
