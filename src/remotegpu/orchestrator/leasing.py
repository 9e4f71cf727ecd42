# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of the scheduler beside leases themselves, without waiting for one that does not answer."""

from __future__ import annotations

import time
from collections.abc import Iterable

from remotegpu import errors
from remotegpu.client import Client

# How long a scheduler has for taking leases back, all of those that are given back together. Seconds.
PATIENCE = 2.0


def end(client: Client, leases: Iterable[str], seconds: float = PATIENCE) -> None:
    """Gives leases back by their keys, as many as so many seconds allow; the others end by their TTL."""
    until = time.monotonic() + seconds
    for lease in leases:
        left = until - time.monotonic()
        if left <= 0:
            return
        client.dealloc(lease, timeout=left, tolerant=True)


def obstacle(client: Client, gpus: int) -> str:
    """Why the scheduler would neither grant a lease nor let one wait; empty if nothing is in the way. One round
    trip."""
    try:
        explained = client.explain(gpus=gpus)
    except errors.Error as error:
        return f"the scheduler is away: {error}"
    if explained.verdict in {"granted", "busy"}:
        return ""
    return f"the scheduler: {explained.why or explained.verdict}"
