# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: priorities, long queues, settings, what is kept for the head of the queue, what is explained.

First come, first served, and gangs: see `test_scheduler.py`. Devices have 100 bytes each.
"""

import math
import random
from itertools import pairwise

import pytest

from remotegpu_server.scheduler import (
    POLICIES,
    Busy,
    Cancel,
    Configure,
    Device,
    DeviceLost,
    DeviceReady,
    Explanation,
    Finish,
    Free,
    Grant,
    Impossible,
    QueueFull,
    Refuse,
    Request,
    Scheduler,
    Tick,
    TimedOut,
    Verdict,
)
from tests.fixtures.scheduling import busy, end, make, nowait, wait


def reserved(scheduler: Scheduler, now: float) -> list[int]:
    return [view.device.index for view in scheduler.snapshot(now).devices if view.state == "reserved"]


def places(scheduler: Scheduler) -> list[str]:
    queue = scheduler.snapshot(0).queue
    assert [waiter.place for waiter in queue] == list(range(1, len(queue) + 1))
    return [waiter.key for waiter in queue]


# ---- priorities -------------------------------------------------------------------------------------------


def test_higher_priorities_are_served_first_and_nobody_loses_a_lease() -> None:
    scheduler = make(1)
    nowait(scheduler, "a")
    for key, priority in [("low", 0), ("mid", 3), ("top", 9), ("mid2", 3)]:
        assert wait(scheduler, key, priority=priority) == []
    assert places(scheduler) == ["top", "mid", "mid2", "low"]
    assert [waiter.priority for waiter in scheduler.snapshot(0).queue] == [9, 3, 3, 0]
    assert nowait(scheduler, "a") == [Grant("a", (0,))]  # it is still a's
    assert [busy(nowait(scheduler, "x", priority=p)).place for p in (0, 3, 4, 9)] == [5, 4, 2, 2]
    order = ["a", "top", "mid", "mid2", "low"]
    for key, following in pairwise(order):
        assert end(scheduler, key, 0, 0) == [Grant(following, (0,))]


@pytest.mark.parametrize(("priority", "limit"), [(10, 9), (-1, 0)])
def test_priorities_are_0_to_9(priority: int, limit: int) -> None:
    assert wait(make(), "a", priority=priority) == [Refuse("a", Impossible("priority", priority, limit))]
    assert wait(make(), "b", priority=9) == [Grant("b", (0,))]


def test_the_estimate_counts_those_of_lower_priority_out() -> None:
    scheduler = make(1)
    nowait(scheduler, "a")
    end(scheduler, "a", 8, 0)
    nowait(scheduler, "b", 8)
    wait(scheduler, "low", 8)
    wait(scheduler, "high", 8, priority=5)
    waits = [busy(nowait(scheduler, "x", 8, priority=priority)).estimated_wait for priority in (0, 5, 6)]
    assert waits == [24, 16, 8]


def test_a_newcomer_of_higher_priority_may_use_what_is_kept_and_nobody_else() -> None:
    scheduler = make(2, gang_patience=1)
    nowait(scheduler, "a")
    wait(scheduler, "gang", 0, gpus=2)
    assert reserved(scheduler, 1) == [0, 1]
    busy(nowait(scheduler, "x", 1, priority=9))  # who does not wait is no part of the queue
    assert wait(scheduler, "same", 1) == []
    assert wait(scheduler, "high", 1, priority=1) == [Grant("high", (1,))]
    assert wait(scheduler, "next", 1, priority=1, memory=1) == []
    assert reserved(scheduler, 1) == [0, 1]  # the head is "next", and patient, but the gang was there before
    assert reserved(scheduler, 2) == [0, 1]
    assert end(scheduler, "a", 2, 0) == [Grant("next", (0,))]
    assert end(scheduler, "high", 2, 1) == []
    assert end(scheduler, "next", 2, 0) == [Grant("gang", (1, 0))]


def test_one_who_comes_before_and_gets_nothing_does_not_undo_what_is_kept() -> None:
    scheduler = make(3, gang_patience=1)
    for key in "abc":
        nowait(scheduler, key)
    wait(scheduler, "gang", 0, gpus=3)
    assert end(scheduler, "a", 2, 0) == []
    wait(scheduler, "first", 2, 3, gpus=2, priority=1)
    busy(nowait(scheduler, "x", 2.5))
    assert [type(effect) for effect in scheduler.handle(Tick(), 3)] == [Refuse]
    busy(nowait(scheduler, "x", 3.5))
    assert reserved(scheduler, 3.5) == [0, 1, 2]
    wait(scheduler, "patient", 3.5, gpus=3, priority=1)
    scheduler.handle(Cancel("gang"), 3.6)
    assert reserved(scheduler, 3.6) == []  # it was the gang's, and the head has waited for a moment only


# ---- long queues ------------------------------------------------------------------------------------------


def test_a_long_queue_with_many_gaps_stays_in_order() -> None:
    scheduler = make(1)
    nowait(scheduler, "held", exclusive=True)
    chance, left = random.Random(1), list[tuple[str, int]]()
    for number in range(2000):
        memory = chance.randrange(101)
        assert wait(scheduler, f"{number}", memory=memory) == [] or len(left) == 1000
        if len(left) < 1000:
            left.append((f"{number}", memory))
        if chance.random() < 0.5:
            key, _ = left.pop(chance.randrange(len(left)))
            scheduler.handle(Cancel(key), 0)
    assert places(scheduler) == [key for key, _ in left]
    scheduler.handle(Configure(slots=4), 0)
    effects = scheduler.handle(Finish("held"), 0)
    free, slots, served = 100, 4, list[str]()
    for key, memory in left:
        if slots and memory <= free:
            free, slots, served = free - memory, slots - 1, [*served, key]
    assert [effect.key for effect in effects] == served
    assert places(scheduler) == [key for key, _ in left if key not in served]


def test_when_the_first_leaves_devices_are_kept_for_the_next() -> None:
    """Also when the two are alike, so that they stand in one line."""
    scheduler = make(2, gang_patience=1)
    nowait(scheduler, "a")
    for key in ("one", "two"):
        wait(scheduler, key, 0, gpus=2)
    scheduler.handle(Cancel("one"), 0.5)
    assert reserved(scheduler, 1) == [0, 1]
    scheduler.handle(Cancel("two"), 1)
    assert reserved(scheduler, 1) == []


# ---- settings ---------------------------------------------------------------------------------------------


def test_fewer_slots_hold_for_newcomers_only() -> None:
    scheduler = make(2, slots=3)
    for key in "abcd":
        nowait(scheduler, key)
    assert scheduler.handle(Configure(slots=1), 0) == []
    assert scheduler.snapshot(0).slots == 1
    views = scheduler.snapshot(0).devices
    assert [(view.leases, view.used_slots, view.device.slots) for view in views] == [(2, 2, 1), (2, 2, 1)]
    assert busy(nowait(scheduler, "x")).free == Free(0, 0, 0)
    assert wait(scheduler, "w") == []
    assert end(scheduler, "a", 0, 0) == []
    assert end(scheduler, "c", 0, 0) == [Grant("w", (0,))]
    assert wait(scheduler, "v") == []
    scheduler.handle(DeviceLost(1), 0)
    assert scheduler.handle(Configure(slots=2), 0) == [Grant("v", (0,))]
    assert scheduler.handle(DeviceReady(1), 0) == []
    assert scheduler.snapshot(0).free == Free(0, 0, 0)
    end(scheduler, "b", 0, 1)
    assert scheduler.snapshot(0).free == Free(0, 1, 100)


def test_the_estimate_knows_how_many_slots_there_are_now() -> None:
    scheduler = make(2, slots=1)
    nowait(scheduler, "a")
    end(scheduler, "a", 6, 0)
    nowait(scheduler, "all", 6, gpus=2, exclusive=True)
    scheduler.handle(DeviceLost(1), 6)
    scheduler.handle(Configure(slots=3), 6)
    assert busy(nowait(scheduler, "x", 6)).estimated_wait == 2  # 6 s for three places
    scheduler.handle(DeviceReady(1), 6)
    assert busy(nowait(scheduler, "x", 6, exclusive=True)).estimated_wait == 3
    scheduler.handle(Configure(slots=2), 6)
    assert busy(nowait(scheduler, "x", 6)).estimated_wait == 1.5


def test_a_shorter_queue_keeps_those_who_wait() -> None:
    scheduler = make(1)
    for key in "abc":
        wait(scheduler, key)
    assert scheduler.handle(Configure(queue_limit=0), 0) == []
    assert places(scheduler) == ["b", "c"]
    (refusal,) = wait(scheduler, "d")
    assert refusal == Refuse("d", QueueFull(0, None, 1.0, Free(0, 0, 0)))
    assert end(scheduler, "a", 0, 0) == [Grant("b", (0,))]
    scheduler.handle(Configure(queue_limit=2), 0)
    assert scheduler.snapshot(0).queue_limit == 2
    assert wait(scheduler, "d") == []
    assert places(scheduler) == ["c", "d"]


# ---- what is kept for the head ----------------------------------------------------------------------------


def test_the_tightest_ones_that_fit_are_kept_and_no_more_than_asked_for() -> None:
    scheduler = make(5, slots=2, gang_patience=0)
    for key, memory in enumerate((90, 30, 10, 20, 90)):
        nowait(scheduler, f"{key}", memory=memory)
    nowait(scheduler, "two", memory=10)  # on 0 as well
    wait(scheduler, "gang", 0, gpus=4, memory=70)
    assert reserved(scheduler, 0) == [1, 2, 3, 4]  # 4 must empty, and has one lease less than 0
    scheduler.handle(DeviceLost(4), 0)
    assert reserved(scheduler, 0) == [0, 1, 2, 3]


def test_what_comes_free_for_the_head_is_kept_with_the_rest() -> None:
    scheduler = make(4, gang_patience=0)
    for key in "abcd":
        nowait(scheduler, key)
    wait(scheduler, "gang", 0, gpus=2)
    assert reserved(scheduler, 0) == [0, 1]
    wait(scheduler, "small", 0)
    assert end(scheduler, "d", 0, 3) == []
    assert reserved(scheduler, 0) == [0, 1, 3]
    scheduler.handle(DeviceLost(3), 0)
    assert reserved(scheduler, 0) == [0, 1]
    scheduler.handle(DeviceReady(3), 0)
    assert reserved(scheduler, 0) == [0, 1, 3]
    assert end(scheduler, "c", 0, 2) == [Grant("gang", (2, 3))]
    assert reserved(scheduler, 0) == [0]  # for "small" now
    assert end(scheduler, "b", 0, 1) == [Grant("small", (1,))]


def test_devices_that_fit_by_more_slots_are_kept_too() -> None:
    scheduler = make(3, slots=2, gang_patience=0, policy=POLICIES["best-fit"]())
    for key in "ab":
        nowait(scheduler, key, memory=90)
    for key in "cd":
        nowait(scheduler, key, memory=20)
    wait(scheduler, "gang", 0, gpus=2, memory=50)
    wait(scheduler, "small", 0, memory=20)
    assert reserved(scheduler, 0) == [0, 1]
    assert scheduler.handle(Configure(slots=3), 0) == []
    assert reserved(scheduler, 0) == [0, 1, 2]
    assert end(scheduler, "a", 0, 0) == [Grant("gang", (2, 0)), Grant("small", (0,))]


def test_a_device_that_comes_back_is_kept_though_nothing_was_left_to_keep() -> None:
    scheduler = make(2, gang_patience=0)
    nowait(scheduler, "a")
    nowait(scheduler, "b")
    scheduler.handle(DeviceLost(1), 0)
    wait(scheduler, "gang", 0, gpus=2)
    assert reserved(scheduler, 0) == [0]
    assert end(scheduler, "b", 0) == []
    scheduler.handle(DeviceReady(1), 0)
    assert reserved(scheduler, 0) == [0, 1]
    busy(nowait(scheduler, "x"))
    assert end(scheduler, "a", 0, 0) == [Grant("gang", (0, 1))]


def test_another_head_is_not_denied_what_was_no_use_to_the_one_before() -> None:
    scheduler = Scheduler([Device(0, "", "", 100, 1), Device(1, "", "", 50, 1)], gang_patience=0)
    nowait(scheduler, "a")
    nowait(scheduler, "b")
    scheduler.handle(DeviceLost(0), 0)
    wait(scheduler, "big", 0, memory=80)
    assert reserved(scheduler, 0) == []
    wait(scheduler, "small", 0, priority=1)
    assert reserved(scheduler, 0) == [1]


def test_what_is_told_to_those_who_time_out_counts_what_is_kept() -> None:
    scheduler = make(2, gang_patience=1)
    nowait(scheduler, "a")
    wait(scheduler, "gang", 0, gpus=2)
    wait(scheduler, "other", 0, until=2, memory=100, gpus=2)
    assert scheduler.handle(Tick(), 2) == [Refuse("other", TimedOut(2, 1, None, 1.0, Free(0, 0, 0)))]


def test_in_a_large_pool_the_few_large_devices_are_found() -> None:
    """Only some devices are looked at when some are to be kept, but never too few."""
    devices = [Device(i, "", "", 100 if i in (150, 190) else 10, 2) for i in range(200)]
    scheduler = Scheduler(devices, gang_patience=0, policy=POLICIES["best-fit"]())
    for number in range(4):
        nowait(scheduler, f"{number}", memory=50, idle_ttl=math.inf)
    wait(scheduler, "big", 0, memory=80, exclusive=True)
    assert reserved(scheduler, 0) == [150]
    assert reserved(scheduler, 1) == [150, 190]
    assert reserved(scheduler, 99) == [150, 190]
    wait(scheduler, "small", 99, memory=60)
    scheduler.handle(Finish("2"), 99)
    assert scheduler.handle(Finish("3"), 99) == [Grant("big", (190,))]


def test_in_a_large_pool_those_in_least_use_are_kept() -> None:
    scheduler = make(1000, slots=3, gang_patience=0)
    nowait(scheduler, "all", gpus=1000)
    nowait(scheduler, "most", gpus=998)
    wait(scheduler, "gang", 0, gpus=400, exclusive=True)
    kept = reserved(scheduler, 0)
    assert len(kept) == 400
    assert kept == list(range(400))
    assert len(reserved(scheduler, 1)) == 800  # twice as many after a second
    assert len(reserved(scheduler, 3)) == 1000


def test_of_a_large_pool_only_some_are_looked_at() -> None:
    scheduler = make(1000, slots=3, gang_patience=0)
    nowait(scheduler, "all", gpus=1000)
    nowait(scheduler, "most", gpus=998)  # all but the last two
    wait(scheduler, "first", 0, gpus=2, exclusive=True)
    assert reserved(scheduler, 0) == [0, 1]
    scheduler.handle(Cancel("first"), 0)
    wait(scheduler, "second", 0, gpus=2, exclusive=True)
    assert reserved(scheduler, 0) == [64, 65]  # the next ones


# ---- what is explained ------------------------------------------------------------------------------------


def test_each_device_is_judged_by_itself() -> None:
    scheduler = make(6, slots=2, gang_patience=0)
    nowait(scheduler, "whole", exclusive=True, memory=100)  # on 0
    nowait(scheduler, "p", gpus=2)  # on 1 and 2
    nowait(scheduler, "m", memory=60)  # on 3
    nowait(scheduler, "q", gpus=3)  # on 4, 5 and 1
    scheduler.handle(DeviceLost(5), 0)
    wait(scheduler, "head", 0, exclusive=True)
    why = {
        0: "a lease has it whole",
        1: "all of its 2 slots are taken",
        2: "it is kept for the request at the head of the queue",
        3: "40 of 100 bytes are free, 50 were asked",
        4: "",
        5: "it is not there now",
    }
    explanation = scheduler.explain(Request("t", memory=50))
    assert explanation == Explanation(None, (4,), tuple(Verdict(*each) for each in why.items()))
    whole = scheduler.explain(Request("t", exclusive=True))
    assert isinstance(whole.reason, Busy)
    assert [verdict.why for verdict in whole.verdicts[3:5]] == ["1 leases are on it"] * 2


def test_a_request_that_fits_is_told_its_devices_and_gets_nothing() -> None:
    scheduler = make(3)
    nowait(scheduler, "a")
    for _ in range(2):
        assert scheduler.explain(Request("t", gpus=2)) == Explanation(
            None, (1, 2), (Verdict(0, "all of its 1 slots are taken"), Verdict(1, ""), Verdict(2, ""))
        )
    assert nowait(scheduler, "b", gpus=2) == [Grant("b", (1, 2))]


def test_a_request_that_does_not_fit_is_told_why() -> None:
    scheduler = make(2, slots=2)
    nowait(scheduler, "a", memory=60)
    explained = scheduler.explain(Request("t", gpus=2, memory=50))
    assert explained.reason == Busy(0, 1, None, 1.0, Free(1, 3, 100))
    assert (explained.devices, explained.verdicts[1]) == ((), Verdict(1, ""))
    assert explained.verdicts[0].why == "40 of 100 bytes are free, 50 were asked"
    impossible = scheduler.explain(Request("t", gpus=3))
    assert impossible == Explanation(Impossible("gpus", 3, 2), (), (Verdict(0, ""), Verdict(1, "")))
    assert scheduler.snapshot(0).counters.requested == 1


def test_the_device_that_replaces_a_lost_one_is_kept_in_the_same_step() -> None:
    scheduler = make(2, slots=2, gang_patience=0)
    nowait(scheduler, "a", gpus=2)
    wait(scheduler, "big", 0, exclusive=True)
    assert scheduler.explain(Request("t")).devices == (1,)
    scheduler.handle(DeviceLost(0), 0)
    assert scheduler.explain(Request("t")).devices == ()
