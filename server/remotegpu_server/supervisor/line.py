# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Records to a worker over one socket. Nothing here waits: what the socket does not take now, the event loop sends."""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from remotegpu_server import records

# How long a record may wait for another to travel with. Seconds.
_LATER = 0.005


class Line:
    """The daemon's end of a SEQPACKET socket, which must not block. That the other end is gone is for its reader to
    find out: records to it are lost in silence."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._unsent: deque[bytes] = deque()
        # Looks whether a record has waited for long enough; when the oldest one has.
        self._later: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def send(self, record: records.Record) -> None:
        """Sends a record, and with it those that waited for one."""
        self._unsent.append(records.pack(record))
        self.flush()

    def send_soon(self, record: records.Record) -> None:
        """With the next record, or a moment later: waking the worker costs more than the record."""
        if not self._unsent:
            self._due = self._loop.time() + _LATER
        self._unsent.append(records.pack(record))
        if self._later is None and not self._closed:
            self._later = self._loop.call_at(self._due, self._look)

    def close(self) -> None:
        """Closes the socket; what was not sent is lost."""
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()

    def _look(self) -> None:
        """The timer is not set anew for each record, so it may come too early."""
        self._later = None
        if self._unsent and self._loop.time() < self._due:
            self._later = self._loop.call_at(self._due, self._look)
        else:
            self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        while self._unsent and not self._closed:
            packet, count = b"", 0
            while count < len(self._unsent) and len(packet) + len(self._unsent[count]) <= records.PACKET_LIMIT:
                packet += self._unsent[count]
                count += 1
            try:
                self._socket.send(packet)
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._write_on)
                return
            except OSError:
                return
            for _ in range(count):
                self._unsent.popleft()

    def _write_on(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self.flush()
