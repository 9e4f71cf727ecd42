# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which calls can be taken back at this moment, and taking them back from another thread than the one that runs them.

A call that pauses is held here and nowhere else, so that all of it is gone as soon as it is taken back: the daemon uses
its slab for others then, and may believe that nothing of it is left on the device.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Verdict(enum.Enum):
    """What came of an attempt to take a call back: it is; it goes on, at least to its next pause; it has ended, or was
    taken back before."""

    TAKEN = enum.auto()
    BUSY = enum.auto()
    OVER = enum.auto()


@dataclass(slots=True)
class _State(Generic[T]):
    # While it pauses; None while the main thread is at it.
    held: T | None
    fresh: bool = True
    # It is to be taken back at its next pause: at once, or only if it has not begun by then.
    wanted: bool = False
    forced: bool = False


class Cancellation(Generic[T]):
    """The calls of a worker that have not ended. `begin`, `enter`, `pause` and `end` are the main thread's."""

    def __init__(self, let_go: Callable[[T], None]) -> None:
        """`let_go` frees what was held of a call that is taken back, in the thread that does so."""
        self._let_go = let_go
        self._lock = threading.Lock()
        # Calls are numbered in the order in which they begin.
        self._last = 0
        self._unseen: set[int] = set()
        self._states: dict[int, _State[T]] = {}
        self._gone: list[int] = []

    def begin(self, call: int) -> bool:
        """A call has its turn, and goes on at least to its first pause. False if it was taken back before."""
        with self._lock:
            self._last = call
            if call in self._unseen:
                self._unseen.remove(call)
                return False
            self._states[call] = _State(None)
            return True

    def enter(self, call: int) -> T | None:
        """What is held of a call that pauses; it cannot be taken back from now on. None if it was before."""
        with self._lock:
            state = self._states.get(call)
            if state is None:
                return None
            held, state.held = state.held, None
            return held

    def pause(self, call: int, held: T, *, fresh: bool) -> bool:
        """It can be taken back from now on; `fresh`: it could as well begin anew. False if it is taken back by this."""
        with self._lock:
            state = self._states[call]
            if state.wanted and (fresh or state.forced):
                del self._states[call]
                return False
            state.held, state.fresh = held, fresh
            return True

    def end(self, call: int) -> None:
        """It has run."""
        with self._lock:
            self._states.pop(call, None)

    def take_back(self, call: int, *, force: bool) -> Verdict:
        """Any thread. A call that has begun is taken back only by force, and none before its next pause."""
        with self._lock:
            if call > self._last:
                if call in self._unseen:
                    return Verdict.OVER  # it was told already: its queue timeout and its deadline come at once
                self._unseen.add(call)
                return Verdict.TAKEN
            state = self._states.get(call)
            if state is None:
                return Verdict.OVER
            held = state.held
            if held is None:
                state.wanted, state.forced = True, state.forced or force
            if held is None or not (state.fresh or force):
                return Verdict.BUSY
            del self._states[call]
        self._let_go(held)  # not under the lock: to give large arrays back takes the system a while
        with self._lock:
            self._gone.append(call)
        return Verdict.TAKEN

    def gone(self) -> list[int]:
        """The calls that were taken back while they paused, since this was asked last."""
        if not self._gone:
            return []
        with self._lock:
            gone, self._gone = self._gone, []
            return gone
