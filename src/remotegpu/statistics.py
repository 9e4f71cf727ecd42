# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a client has done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a client has done so far. Bytes of messages, without the transport's own framing."""

    round_trips: int
    connections: int
    bytes_sent: int
    bytes_received: int


@dataclass(slots=True)
class Counts:
    """What went over the wire: calls that waited for an answer, connections, bytes of messages."""

    round_trips: int = 0
    connections: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def add(self, sent: int, received: int) -> None:
        """One more round trip, with its bytes."""
        self.round_trips += 1
        self.bytes_sent += sent
        self.bytes_received += received

    def frozen(self) -> Statistics:
        """As they are now."""
        return Statistics(self.round_trips, self.connections, self.bytes_sent, self.bytes_received)
