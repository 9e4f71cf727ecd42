# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A call that a worker has and no task waits for: who is told of its end, at once, and its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from remotegpu import errors
from remotegpu_server.supervisor.job import Job, Reply

# The reply, an error, or None for one that was cancelled.
Ending = Reply | errors.Error | None


class Begun:
    """Implements `supervisor.job.Outcome`. `lost` makes the error for the death of its worker; `told` hears the end
    once. `deadline` in seconds; it `ends` on the loop's clock."""

    # Set by who submits it.
    job: Job

    def __init__(
        self, lost: Callable[[], errors.Error], told: Callable[[Ending], None], deadline: float, ends: float
    ) -> None:
        self._lost = lost
        self._told = told
        self._deadline = deadline
        self._over = self._cancelled = False
        self._timer = asyncio.get_running_loop().call_at(ends, self._expired)

    def done(self) -> bool:
        """Whether it is over, or cancelled."""
        return self._over

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled

    def set_result(self, reply: Reply, /) -> None:
        """The worker has answered."""
        self._end(reply)

    def set_exception(self, error: Exception, /) -> None:
        """It did not run to its end."""
        if isinstance(error, ConnectionResetError):
            error = self._lost()
        assert isinstance(error, errors.Error), "nothing else is told"
        self._end(error)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._give_up(None)

    def _expired(self) -> None:
        self._give_up(errors.DeadlineExceeded(deadline=self._deadline))

    def _give_up(self, error: errors.Error | None) -> None:
        if not self._over:
            self._cancelled = True
            self.job.slab.life.give_up(self.job)
            self._end(error)

    def _end(self, outcome: Ending) -> None:
        self._over = True
        self._timer.cancel()
        self._told(outcome)
