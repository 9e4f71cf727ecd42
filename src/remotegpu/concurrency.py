# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What waits and what is locked, for the client of threads; its counterpart for an event loop has the same names.
Written by hand, both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Held while something is waited for.
Lock = threading.Lock
# Held for a few statements, in which nothing is waited for.
StateLock = threading.Lock
# What ends a generator that is waiting.
ENDINGS: tuple[type[BaseException], ...] = (GeneratorExit,)

sleep = time.sleep


def in_thread(function: Callable[..., T], *args: object) -> T:
    """What the function returns: here it is just called."""
    return function(*args)
