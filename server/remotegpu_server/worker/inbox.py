# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the main thread of a worker waits for: packets, and the bell that other threads of the process ring."""

from __future__ import annotations

import os
import select
import selectors
import socket

from remotegpu_server import records


class Inbox:
    """The call socket, which blocks, and a bell."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._rung = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived = select.poll()
        self._arrived.register(sock, select.POLLIN)
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def ring(self) -> None:
        """Ends a `wait` of the main thread, now or the next one. Any thread may call it."""
        self._rung = True
        os.eventfd_write(self._bell, 1)

    def rung(self) -> bool:
        """Whether the bell was rung since this was asked last."""
        if not self._rung:
            return False  # nothing is written: another thread may ring just now
        self._rung = False
        return True

    def wait(self, seconds: float | None) -> None:
        """Until there is a packet, or the bell has been rung, or the time is over."""
        if any(key.fileobj == self._bell for key, _ in self._selector.select(seconds)):
            os.eventfd_read(self._bell)

    def packet(self) -> bytes:
        """The next packet, as soon as there is one; none (b"") when the daemon has closed the socket."""
        return self._socket.recv(records.PACKET_LIMIT)

    def packet_now(self) -> bytes | None:
        """The next packet if it is there, None otherwise; none (b"") when the daemon has closed the socket."""
        # Nobody else reads here, so it is still there. Most of the time there is none, and to be told so by an error
        # takes four times as long.
        return self._socket.recv(records.PACKET_LIMIT) if self._arrived.poll(0) else None
