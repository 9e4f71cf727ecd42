# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What waits and what is locked, for the client of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

T = TypeVar("T")

# Held while something is waited for.
AsyncLock = asyncio.Lock
# Held for a few statements, in which nothing is waited for: so nobody else can come between.
StateLock = nullcontext[None]
# What ends a generator that is waiting.
ENDINGS: tuple[type[BaseException], ...] = (GeneratorExit, asyncio.CancelledError)

sleep = asyncio.sleep


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """What the function returns, which would hold up the event loop."""
    return await asyncio.to_thread(function, *args)
