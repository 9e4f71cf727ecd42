# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How a client for threads lives through forks and snapshots; its counterpart for an event loop has the same name.
Written by hand, both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from remotegpu.channel import stay_initialised
from remotegpu.generation import registry

if TYPE_CHECKING:
    from .client import Client
    from .transport import Transport

# How long a fork waits for calls of other threads that have streams of their own. Seconds.
_PATIENCE = 1.0


def watch(client: Client) -> None:
    """Has the client start anew in each generation."""
    registry.watch(client, type(client)._begin_again, _quieten)


def _quieten(client: Client) -> Callable[[], None] | None:
    """No thread is inside of gRPC any more for the client's sake, nor comes to be: calls wait before they begin, those
    on the long-lived stream are sent again later, and those that have a stream of their own may end first, for a while.
    Returns what ends that."""
    transport = client._transport
    if transport is None or not transport.counts.connections or not transport._conversation.pause():
        return None
    stay_initialised()
    held = _hold(transport)

    def go_on() -> None:
        if held:
            transport._lock.release()
        transport._conversation.resume()

    return go_on


def _hold(transport: Transport) -> bool:
    """Ends its connections, and lets nobody make one. False if somebody does not let it."""
    until = time.monotonic() + _PATIENCE
    while True:
        connection = transport._connection
        transport.hang_up()
        if connection is not None:
            connection.closed.wait(max(until - time.monotonic(), 0.0))
        if not transport._lock.acquire(timeout=_PATIENCE):
            return False
        if transport._connection is None or time.monotonic() >= until:
            return True
        transport._lock.release()  # a call that has a stream of its own has come between
