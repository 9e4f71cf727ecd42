# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What one client has asked over its streams, so that a call that is sent again does not run again. Pure.

A client numbers its calls 1, 2, 3, ... and sends them in that order; after a broken connection it sends those again
whose answers it has not seen. So a number above all seen before is a new call, and any other one is known: it runs
still, or its answer is kept here, or that was given up. What the client says it has received is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto

# Answers that are kept for a client: how large one may be, and all together, each with what it takes beside its bytes.
LARGEST_KEPT = 64 * 1024
MOST_KEPT = 1024 * 1024
_OVERHEAD = 256
# Calls that were taken back and may come again; of more, the first to go are those that could come again for longest.
MOST_WITHDRAWN = 1024


class Known(Enum):
    """What is known of a call that arrives."""

    NEW = auto()
    RUNNING = auto()
    GONE = auto()


class CallLog:
    """The calls of one client."""

    def __init__(self) -> None:
        self._highest = 0
        self._running: set[int] = set()
        # Begun and taken back before anything ran: they may come again.
        self._withdrawn: dict[int, None] = {}
        # Frames by call, the oldest first.
        self._answers: OrderedDict[int, bytes] = OrderedDict()
        self._kept = 0

    @property
    def highest(self) -> int:
        """The highest number that has arrived."""
        return self._highest

    def begin(self, call: int) -> Known | bytes:
        """NEW: run it, `settle` or `withdraw` follows. RUNNING: its answer will come. GONE: it ran, and the answer is
        not here. Bytes: the answer."""
        if call > self._highest or call in self._withdrawn:
            self._withdrawn.pop(call, None)
            self._highest = max(call, self._highest)
            self._running.add(call)
            return Known.NEW
        if call in self._running:
            return Known.RUNNING
        return self._answers.get(call, Known.GONE)

    def settle(self, call: int, answer: bytes) -> None:
        """The call is over. Its answer is kept if it is small; the oldest ones make room."""
        self._running.remove(call)
        if len(answer) > LARGEST_KEPT:
            return
        self._answers[call] = answer
        self._kept += len(answer) + _OVERHEAD
        while self._kept > MOST_KEPT:
            self._kept -= len(self._answers.popitem(last=False)[1]) + _OVERHEAD

    def withdraw(self, call: int) -> None:
        """The call was taken back before anything of it ran."""
        self._running.remove(call)
        self._withdrawn[call] = None
        if len(self._withdrawn) > MOST_WITHDRAWN:
            del self._withdrawn[next(iter(self._withdrawn))]

    def acknowledge(self, upto: int) -> None:
        """The client has the answers to all calls up to that one."""
        while self._answers:
            oldest = next(iter(self._answers))
            if oldest > upto:
                # Answers come in any order, so a later one may be acknowledged; it goes when those before it do.
                return
            self._kept -= len(self._answers.pop(oldest)) + _OVERHEAD
        if self._withdrawn:
            self._withdrawn = {call: None for call in self._withdrawn if call > upto}
