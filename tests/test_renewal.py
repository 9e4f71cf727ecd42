# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""When a lease is renewed in the background, and when no longer. No network."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest

from remotegpu import errors
from remotegpu.renewal import LEAST_PACE, LONGEST_RENEWAL, Keeper, Use, next_due, next_look, patience
from tests.conftest import wait_until


@pytest.mark.parametrize(
    ("use", "now", "is_due"),
    [
        (Use(40.0, last=100.0), 109.9, False),
        (Use(40.0, last=100.0), 110.0, True),
        (Use(40.0, last=105.0), 110.0, False),  # used meanwhile
        (Use(40.0, last=0.0, running=1), 110.0, False),  # the server's clock stands still
        (Use(40.0, last=0.0, over=True), 110.0, False),
        (Use(0.001, last=100.0), 100.0 + LEAST_PACE / 2, False),
        (Use(0.001, last=100.0), 100.0 + LEAST_PACE * 2, True),
    ],
)
def test_due(use: Use, now: float, is_due: bool) -> None:
    assert next_due([use], now) is (use if is_due else None)


def test_the_most_urgent_is_renewed_first() -> None:
    slow, quick, used = Use(40.0, last=0.0), Use(4.0, last=99.0), Use(0.4, last=99.99)
    assert next_due([slow, quick, used], 100.0) is quick
    assert next_due([], 100.0) is None


def test_next_look_is_that_of_the_most_urgent() -> None:
    assert next_look([Use(40.0, last=100.0), Use(4.0, last=101.0)], 101.0) == 102.0
    assert next_look([Use(40.0, last=100.0), Use(4.0, last=101.0, over=True)], 101.0) == 110.0
    # A call under way may end at any time: its clock starts then, so that one look per pace is enough.
    assert next_look([Use(40.0, last=0.0, running=1)], 101.0) == 111.0
    assert next_look([Use(40.0, last=0.0, over=True)], 101.0) is None
    assert next_look([], 101.0) is None


def test_no_renewal_may_take_longer_than_the_most_urgent_lease_can_spare() -> None:
    assert patience([Use(40.0, last=0.0), Use(4.0, last=0.0)]) == 1.0
    assert patience([Use(400.0, last=0.0), Use(4.0, last=0.0, over=True)]) == LONGEST_RENEWAL == 5.0
    # Two renewals that fail at the last moment leave time for a third one.
    assert 3 * Use(1.0, last=0.0).pace + patience([Use(1.0, last=0.0)]) <= 1.0


class Owner:
    """Stands for a lease."""


class Server:
    """Counts renewals and answers them with errors in turn."""

    def __init__(self, *answers: errors.Error | None) -> None:
        self.keys: list[str] = []
        self.times: list[float] = []
        self.patience: list[float] = []
        self._answers = list(answers)

    def renew(self, key: str, patience: float) -> None:
        self.times.append(time.monotonic())
        self.keys.append(key)
        self.patience.append(patience)
        answer = self._answers.pop(0) if self._answers else None
        if answer is not None:
            raise answer


def use(ttl: float) -> Use:
    return Use(ttl, time.monotonic())


def running(keeper: Keeper) -> Callable[[], bool]:
    return lambda: keeper._thread is not None and keeper._thread.is_alive()


def test_leases_are_renewed_each_at_its_own_pace_by_one_thread() -> None:
    server, owner, over = Server(), Owner(), use(0.2)
    keeper = Keeper(server.renew)
    keeper.keep(owner, "slow", use(1000.0))
    keeper.keep(owner, "over", over)
    over.over = True
    wait_until(lambda: len(keeper._leases) == 1, "the thread sleeps for long")
    keeper.keep(owner, "quick", use(0.2))
    wait_until(lambda: len(server.keys) >= 3, "renewals")
    assert set(server.keys) - {"over"} == {"quick"}
    assert set(server.patience) == {0.05}
    assert all(later - earlier > 0.049 for earlier, later in pairwise(server.times))
    assert [thread.name for thread in threading.enumerate()].count("remotegpu-renewal") == 1
    keeper.close()
    wait_until(lambda: not running(keeper)(), "the thread has ended")
    keeper.keep(owner, "late", use(0.2))
    assert not running(keeper)()


def test_lease_that_is_collected_or_over_is_not_renewed_and_the_thread_ends() -> None:
    server, first, second = Server(), Owner(), Owner()
    keeper = Keeper(server.renew)
    over = use(0.2)
    keeper.keep(first, "first", use(0.2))
    keeper.keep(second, "second", over)
    wait_until(lambda: {"first", "second"} <= set(server.keys), "both")
    del first
    over.over = True
    wait_until(lambda: not running(keeper)(), "nobody is left")
    seen = len(server.keys)
    third = Owner()
    keeper.keep(third, "third", use(0.2))  # a new thread
    wait_until(lambda: len(server.keys) > seen, "the third")
    assert set(server.keys[seen:]) == {"third"}
    keeper.close()


def test_errors_of_the_network_are_tried_again_and_others_end_it() -> None:
    server, owner = (
        Server(
            errors.ConnectionLost(address="a", why="reset"),
            errors.DeadlineExceeded(deadline=1.0),
            errors.Unavailable(why="too many calls"),
            None,
            errors.LeaseExpired(lease="key", why="hard_cap"),
        ),
        Owner(),
    )
    keeper, kept = Keeper(server.renew), use(0.2)
    keeper.keep(owner, "key", kept)
    wait_until(lambda: not running(keeper)(), "the lease is over")
    assert len(server.keys) == 5
    assert kept.over


def test_lease_in_use_is_not_renewed() -> None:
    server, owner = Server(), Owner()
    keeper, busy, idle = Keeper(server.renew), use(0.2), use(0.2)
    busy.running = 1
    keeper.keep(owner, "busy", busy)
    keeper.keep(owner, "idle", idle)
    wait_until(lambda: server.keys.count("idle") >= 3, "the other one's renewals")
    assert "busy" not in server.keys
    busy.running = 0
    wait_until(lambda: "busy" in server.keys, "its own, when its call has ended")
    keeper.close()


@pytest.mark.slow
def test_renewals_that_hang_do_not_delay_a_more_urgent_one() -> None:
    class Hanging(Server):
        def renew(self, key: str, patience: float) -> None:
            super().renew(key, patience)
            if key != "urgent":
                threading.Event().wait(patience)  # as a server that says nothing
                raise errors.DeadlineExceeded(deadline=patience)

    server, owner, urgent = Hanging(), Owner(), use(1.2)
    keeper = Keeper(server.renew)
    slow = [Use(40.0, last=0.0) for _ in range(5)]  # long overdue, all of them
    for number, one in enumerate(slow):
        keeper.keep(owner, f"slow {number}", one)
    wait_until(lambda: server.keys, "the first one hangs")
    keeper.keep(owner, "urgent", urgent)
    wait_until(lambda: all(one.last for one in slow), "each was tried", 20)
    keeper.close()
    times = [at for key, at in zip(server.keys, server.times, strict=True) if key == "urgent"]
    assert len(times) >= 2
    assert max(later - earlier for earlier, later in pairwise(times)) < 1.2 * 0.9
    assert set(server.patience[1:]) == {urgent.pace}


def test_keeper_holds_neither_who_renews_nor_what_is_renewed() -> None:
    server, owner = Server(), Owner()
    keeper, gone = Keeper(server.renew), weakref.ref(server)
    keeper.keep(owner, "key", use(1000.0))
    del server
    assert gone() is None
    assert running(keeper)()
    del owner
    wait_until(lambda: not running(keeper)(), "it is told, long before its next look")
