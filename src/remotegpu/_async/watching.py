# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Snapshots that a server sends again and again."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from remotegpu import errors, wire
from remotegpu.v1 import scheduler_pb2

from .transport import AsyncTransport

# How long a stream of them lives: then the next one begins, so that no server keeps one forever for a client that has
# gone silently. Seconds.
STREAM_LIFE = 3600.0


async def snapshots(
    connected: Callable[[], Awaitable[AsyncTransport]], interval: float, patience: float
) -> AsyncGenerator[scheduler_pb2.Snapshot, None]:
    """One every `interval` seconds, without an end; each may come `patience` seconds late. Raises any error of the
    tree."""
    request = scheduler_pb2.WatchRequest(interval_ms=round(interval * 1000)).SerializeToString()
    transport, silence = await connected(), interval + patience
    life = STREAM_LIFE + silence
    while True:
        ends, shown = time.monotonic() + life, False
        stream = transport.stream("Scheduler/Watch", lambda: iter((request,)), True, life, silence=silence)
        try:
            async with aclosing(stream) as messages:
                async for message in messages:
                    yield wire.parse(scheduler_pb2.Snapshot, message)
                    shown = True
        except errors.DeadlineExceeded:
            if time.monotonic() < ends:
                raise
        except errors.AuthError:  # the credential of that stream has expired; the next one is opened with a fresh one
            if not shown:
                raise
        else:
            raise errors.ConnectionLost(address=transport.target, why="the server has ended the stream")
