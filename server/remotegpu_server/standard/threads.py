# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Work that takes longer than the event loop may be held up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """The result of work that takes a while. It is waited for even when the caller has gone: it reads memory that is
    given back afterwards."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    gone: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:  # perhaps more than once
            gone = error
    if gone is not None:
        task.exception()  # nobody hears of it
        raise gone
    return task.result()
