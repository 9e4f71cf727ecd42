# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A call on its way to a worker and back: its slab, its record, who is told how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from remotegpu_server import records

if TYPE_CHECKING:
    from .life import Life


@dataclass(slots=True, eq=False)
class Slab:
    """A piece of the request arena of one process. `free` is harmless after that process's death."""

    life: Life
    offset: int
    view: memoryview

    def free(self) -> None:
        """Gives the slab back; only before it was submitted."""
        self.life.free_slab(self)


@dataclass(slots=True)
class Reply:
    """A result, in the reply arena until `close`, which the reader calls exactly once."""

    done: records.Done
    result: memoryview
    body: memoryview
    close: Callable[[], None]


class Outcome(Protocol):
    """Who waits for a call: a future, or one who is told in the same turn of the loop. Told at most once; a cancelled
    one is told nothing."""

    def done(self) -> bool:
        """Whether it was told, or cancelled."""

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, reply: Reply, /) -> None:
        """The call has run, well or not."""

    def set_exception(self, error: Exception, /) -> None:
        """It did not run to its end: ConnectionResetError if its worker died, or QueueTimeout."""


@dataclass(slots=True, eq=False)
class Job:
    """A call that is the worker's, or waits to be."""

    run: records.Run
    slab: Slab
    outcome: Outcome
    # On the loop's clock.
    deadline: float
    since: float
    ended: Callable[[], None]
    # Its number with the worker; 0: it is not there.
    call: int = 0
