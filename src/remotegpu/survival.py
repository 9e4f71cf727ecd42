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

# How long a fork waits for calls of other threads that have streams of their own. Seconds.
_PATIENCE = 1.0


def watch(client: Client) -> None:
    """Has the client start anew in each generation."""
    registry.watch(client, type(client)._begin_again, _quieten)


def _quieten(client: Client) -> Callable[[], None] | None:
    """No thread is inside of gRPC any more for the client's sake, nor comes to be: connections end, and whoever needs
    one waits until what this returns is called. Calls on the long-lived stream are sent again then; those that have
    streams of their own may end first."""
    transport = client._transport
    if transport is None:
        return None
    until = time.monotonic() + _PATIENCE
    # A connection that is being made is waited for: that may import modules, whose locks a child would have forever.
    while transport._lock.acquire(timeout=_PATIENCE):
        connection = transport._connection
        if connection is None or time.monotonic() >= until:
            return transport._lock.release
        transport._lock.release()
        stay_initialised()
        transport.hang_up()
        connection.closed.wait(max(until - time.monotonic(), 0.0))
    return None
