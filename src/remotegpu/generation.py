# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a process has lost without noticing: by a freeze its connections, by a fork its threads and locks, and by a
SnapStart restore that it is the only one of its kind.

A freeze shows as a gap of the wall clock between two uses of a connection (`Idle`): then the connection is replaced
before it is used. A fork and a restore begin a new `Generation`, and each client starts anew in it with a connection,
an identity, locks and threads of its own. What a forked child has of its parent's is neither used nor closed.

Before a fork, clients close their connections: gRPC prepares a fork only while no thread is inside it, and a child of
an unprepared one crashes or hangs now and then in its own first call (grpcio 1.85: 4 of 80, and none of 400 prepared).
The next call opens a new one, in the parent as in the child. Before a snapshot it is the same, since no connection
lives through one.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# As AWS Lambda sets it: "snap-start", "on-demand", "provisioned-concurrency", ...
INITIALIZATION_VARIABLE = "AWS_LAMBDA_INITIALIZATION_TYPE"
SNAP_START = "snap-start"
# Clocks are set, and threads read them before they come to say so: less than this is no step back. Seconds.
_STEP_BACK = 1.0


@dataclass(frozen=True, slots=True)
class Generation:
    """A process, and how often it was restored from a snapshot."""

    process: int
    restores: int


class Idle:
    """When a connection was used last, by the wall clock: monotonic ones may stand still while a machine is paused.

    `limit`: seconds that it may have been unused."""

    __slots__ = ("_last", "_limit")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._last: float | None = None

    def used(self, now: float) -> None:
        """It is in use at `now` (of `time.time`)."""
        self._last = now

    def passed(self, now: float) -> bool:
        """Whether it was unused for longer, or the clock was set back, so that nobody knows; not before its first
        use."""
        last = self._last
        return last is not None and not -_STEP_BACK <= now - last <= self._limit


# Has a survivor replace what it made in the generation before, and touch none of it; whether in a forked child.
Begin = Callable[[Any, bool], None]
# Makes a survivor quiet before a fork or a snapshot, and returns what ends that in the process that stays.
Quieten = Callable[[Any], Callable[[], None] | None]


class Registry:
    """All clients of the process, held weakly."""

    def __init__(self) -> None:
        self.current = Generation(os.getpid(), 0)
        self._lock = threading.Lock()
        self._survivors: weakref.WeakKeyDictionary[object, tuple[Begin, Quieten | None]] = weakref.WeakKeyDictionary()
        # What ends the quiet of those that are quiet now.
        self._quiet: list[Callable[[], None]] = []
        # What a child has of its parent's: never destroyed, since destructors would touch it.
        self._forsaken: list[object] = []
        self._hooked = False

    def watch(self, survivor: object, begin: Begin, quieten: Quieten | None = None) -> None:
        """Has it begin each new generation from now on, after it was made quiet."""
        with self._lock:
            self._survivors[survivor] = begin, quieten
            hooked, self._hooked = self._hooked, True
        if not hooked:
            self._hook(os.environ)

    def _hook(self, environment: Mapping[str, str]) -> None:
        os.register_at_fork(before=self.before, after_in_parent=self.after, after_in_child=self.forked)
        if environment.get(INITIALIZATION_VARIABLE) != SNAP_START:
            return
        try:
            import snapshot_restore_py
        except ImportError:  # it comes with the runtimes that can do it
            return
        snapshot_restore_py.register_before_snapshot(self.before_snapshot)
        snapshot_restore_py.register_after_restore(self.restored)

    def before(self) -> None:
        """A fork is about to come."""
        with self._lock:
            known = list(self._survivors.items())
        for survivor, (_, quieten) in known:
            go_on = quieten(survivor) if quieten is not None else None
            if go_on is not None:
                self._quiet.append(go_on)

    def after(self) -> None:
        """It is over, and this is the parent."""
        quiet, self._quiet = self._quiet, []
        for go_on in quiet:
            go_on()

    def forked(self) -> None:
        """It is over, and this is the child. No other thread is here, whatever locks they had."""
        self._lock = threading.Lock()
        self._quiet = []
        self._begin(Generation(os.getpid(), self.current.restores), forked=True)

    def before_snapshot(self) -> None:
        """Nothing of a snapshot may be connected."""
        self.before()
        self.after()

    def restored(self) -> None:
        """This process is one of many that have the same past."""
        self._begin(Generation(os.getpid(), self.current.restores + 1), forked=False)

    def _begin(self, generation: Generation, *, forked: bool) -> None:
        self.current = generation
        with self._lock:
            survivors = list(self._survivors.items())
        for survivor, (begin, _) in survivors:
            begin(survivor, forked)

    def forsake(self, *objects: object) -> None:
        """Keeps what must not be destroyed."""
        self._forsaken.extend(objects)


registry = Registry()
