# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The scheduler's rules, one by one: who gets what, who waits, who is refused. Ends and clocks: see
`test_scheduler_ends.py`; all rules together under random events: `test_scheduler_machine.py`.

Devices have 100 bytes each, which keeps the sums readable.
"""

import math
from typing import Any

import pytest

from remotegpu_server.scheduler import (
    Busy,
    Cancel,
    Dealloc,
    Device,
    DeviceLost,
    DeviceReady,
    Ended,
    Free,
    Grant,
    Impossible,
    QueueFull,
    Refuse,
    Released,
    Request,
    RoundRobin,
    Scheduler,
    Tick,
    TimedOut,
)
from remotegpu_server.scheduler.pool import Pool
from tests.fixtures.scheduling import busy, end, make, nowait, wait

# ---- grants and refusals ----------------------------------------------------------------------------------


def test_round_robin_gives_the_next_device_after_the_last_one() -> None:
    scheduler = make(3, slots=2)
    assert nowait(scheduler, "a") == [Grant("a", (0,))]
    assert nowait(scheduler, "b", gpus=3) == [Grant("b", (1, 2, 0))]
    assert end(scheduler, "a", 0, 0) == []
    assert nowait(scheduler, "c") == [Grant("c", (1,))]
    assert nowait(scheduler, "d", gpus=2) == [Grant("d", (2, 0))]
    busy(nowait(scheduler, "e"))
    end(scheduler, "c", 0, 1)
    assert nowait(scheduler, "f") == [Grant("f", (1,))]


def test_schedulers_do_not_share_where_their_round_stands() -> None:
    nowait(make(), "a")
    assert nowait(make(), "b") == [Grant("b", (0,))]


def test_another_policy_may_be_given_and_indices_need_not_be_positions() -> None:
    class Last(RoundRobin):
        name = "last"

        def choose(self, pool: Pool, request: Request) -> tuple[int, ...]:
            return tuple(member.position for member in pool if member.fits(request))[-request.gpus :]

    scheduler = Scheduler([Device(i, "GPU", "", 100, 1) for i in (7, 3, 5)], policy=Last())
    assert nowait(scheduler, "a", gpus=2) == [Grant("a", (5, 7))]
    assert scheduler.snapshot(0).policy == "last"
    assert repr(scheduler) == "<Scheduler last: 3 of 3 devices ready, 1 leases, 0 waiting>"


@pytest.mark.parametrize(
    ("held", "asked", "fits"),
    [
        ({}, {"memory": 100}, True),
        ({"memory": 60}, {"memory": 40}, True),
        ({"memory": 60}, {"memory": 41}, False),
        ({"memory": 100}, {}, True),  # a slot is free and nothing is declared
        ({}, {"exclusive": True}, False),
        ({"exclusive": True}, {}, False),
        ({"exclusive": True, "memory": 1}, {"memory": 1}, False),
    ],
)
def test_sharing_one_device(held: dict[str, Any], asked: dict[str, Any], fits: bool) -> None:
    scheduler = make(1, slots=2)
    assert nowait(scheduler, "held", **held) == [Grant("held", (0,))]
    effects = nowait(scheduler, "asked", **asked)
    if fits:
        assert effects == [Grant("asked", (0,))]
        busy(nowait(scheduler, "third"))  # both slots are taken
        end(scheduler, "asked", 0, 0)
    else:
        busy(effects)
    end(scheduler, "held", 0, 0)
    assert nowait(scheduler, "all", exclusive=True, memory=100) == [Grant("all", (0,))]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"gpus": 4}, Impossible("gpus", 4, 3)),
        ({"gpus": 0}, Impossible("gpus", 0, 1)),
        ({"gpus": -1}, Impossible("gpus", -1, 1)),
        ({"memory": 81}, Impossible("memory", 81, 80)),
        ({"memory": 81, "exclusive": True}, Impossible("memory", 81, 80)),
        ({"gpus": 2, "memory": 41}, Impossible("memory", 41, 40)),
        ({"gpus": 3, "memory": 21}, Impossible("memory", 21, 20)),
        ({"memory": -1}, Impossible("memory", -1, 0)),
        ({"idle_ttl": 0.0}, Impossible("idle_ttl", 0, 0)),
        ({"idle_ttl": -0.1}, Impossible("idle_ttl", -0.1, 0)),
        ({"hard_ttl": 0.0}, Impossible("hard_ttl", 0, 0)),
        ({"hard_ttl": -2.0}, Impossible("hard_ttl", -2, 0)),
    ],
)
def test_impossible_is_refused_at_once_even_if_it_would_wait(request_: dict[str, Any], reason: Impossible) -> None:
    scheduler = Scheduler([Device(i, "GPU", "", memory, 1) for i, memory in enumerate((40, 80, 20))])
    assert wait(scheduler, "a", **request_) == [Refuse("a", reason)]
    assert scheduler.next_wakeup() is None


def test_the_least_that_is_possible_is_possible() -> None:
    scheduler = Scheduler([Device(0, "CPU", "", 0, 1)])
    assert nowait(scheduler, "a", idle_ttl=0.001, hard_ttl=0.001) == [Grant("a", (0,))]


@pytest.mark.parametrize("field", ["idle_ttl", "hard_ttl"])
def test_a_ttl_that_is_not_a_number_is_impossible(field: str) -> None:
    (effect,) = nowait(make(), "a", **{field: math.nan})
    assert isinstance(effect, Refuse)
    assert isinstance(effect.reason, Impossible)
    assert effect.reason.what == field


@pytest.mark.parametrize(
    "devices",
    [
        [],
        [Device(0, "", "", 1, 1), Device(0, "", "", 1, 1)],
        [Device(0, "", "", 1, 0)],
        [Device(0, "", "", -1, 1)],
    ],
)
def test_devices_that_make_no_sense_are_refused(devices: list[Device]) -> None:
    with pytest.raises(ValueError, match="device"):
        Scheduler(devices)


def test_a_lost_device_exists_all_the_same() -> None:
    scheduler = make(2)
    assert scheduler.handle(DeviceLost(1), 0) == []
    assert busy(nowait(scheduler, "a", gpus=2)).free == Free(1, 1, 100)
    with pytest.raises(KeyError):
        scheduler.handle(DeviceLost(2), 0)


def test_busy_says_what_is_free() -> None:
    scheduler = make(3, slots=2)
    assert nowait(scheduler, "a", memory=30) == [Grant("a", (0,))]
    assert nowait(scheduler, "b", exclusive=True) == [Grant("b", (1,))]
    assert busy(nowait(scheduler, "c", gpus=3)) == Busy(0, 1, None, 1.0, Free(1, 3, 100))
    assert wait(scheduler, "d", gpus=3) == []
    assert nowait(scheduler, "e", memory=60) == [Grant("e", (2,))]
    assert busy(nowait(scheduler, "f", memory=71)) == Busy(1, 2, None, 1.0, Free(0, 2, 70))


def test_the_same_key_is_answered_the_same() -> None:
    scheduler = make(1)
    assert nowait(scheduler, "a") == nowait(scheduler, "a") == [Grant("a", (0,))]
    busy(nowait(scheduler, "b"))
    busy(nowait(scheduler, "b"))  # a refusal is not remembered: asking again is asking anew
    assert wait(scheduler, "b") == wait(scheduler, "b") == []
    assert nowait(scheduler, "b") == []
    assert end(scheduler, "a", 1, 0) == [Grant("b", (0,))]
    assert nowait(scheduler, "a") == [Refuse("a", Ended("dealloc"))]  # a late duplicate
    scheduler.handle(Cancel("b"), 2)
    assert nowait(scheduler, "b") == [Refuse("b", Ended("cancelled"))]  # not even released yet
    counters = scheduler.snapshot(2).counters
    assert (counters.requested, counters.granted, counters.refused_busy, counters.refused_ended) == (6, 2, 2, 2)


# ---- the queue --------------------------------------------------------------------------------------------


def test_first_in_first_out_and_leaving_frees_the_place() -> None:
    scheduler = make(1)
    nowait(scheduler, "a")
    for key in "bcde":
        assert wait(scheduler, key) == []
    assert busy(nowait(scheduler, "x")).place == 5
    assert scheduler.handle(Cancel("b"), 0) == []
    assert scheduler.handle(Dealloc("d"), 0) == []  # giving back what is not granted yet is giving up
    assert busy(nowait(scheduler, "x")).place == 3
    assert end(scheduler, "a", 1, 0) == [Grant("c", (0,))]
    assert end(scheduler, "c", 1, 0) == [Grant("e", (0,))]
    assert end(scheduler, "e", 1, 0) == []
    assert scheduler.snapshot(1).counters.abandoned == 2


def test_many_are_served_in_one_step_in_order() -> None:
    scheduler = make(1, slots=3)
    nowait(scheduler, "a", exclusive=True)
    wait(scheduler, "b", memory=50)
    wait(scheduler, "c", memory=60)
    wait(scheduler, "d", memory=60)  # as hopeless as c
    wait(scheduler, "alone", exclusive=True)
    wait(scheduler, "e", memory=40)
    wait(scheduler, "f", memory=10)
    assert end(scheduler, "a", 0, 0) == [Grant("b", (0,)), Grant("e", (0,)), Grant("f", (0,))]
    assert [waiter.key for waiter in scheduler.snapshot(0).queue] == ["c", "d", "alone"]


def test_a_full_queue_refuses_who_would_wait_only() -> None:
    scheduler = make(1, queue_limit=1)
    assert wait(scheduler, "a") == [Grant("a", (0,))]
    assert wait(scheduler, "b") == []
    assert wait(scheduler, "c") == [Refuse("c", QueueFull(1, None, 1.0, Free(0, 0, 0)))]
    assert busy(nowait(scheduler, "d")).place == 2
    scheduler.handle(Cancel("b"), 0)
    assert wait(scheduler, "c") == []


def test_a_waiter_hears_when_its_time_is_over() -> None:
    scheduler = make(1)
    nowait(scheduler, "a")
    assert wait(scheduler, "late", 5, until=5) == [Refuse("late", TimedOut(0, 0, None, 1.0, Free(0, 0, 0)))]
    wait(scheduler, "b", 5, until=8)
    wait(scheduler, "c", 5, until=9)
    assert scheduler.next_wakeup() == 8
    assert scheduler.handle(Tick(), 7.5) == []
    assert scheduler.handle(Tick(), 8) == [Refuse("b", TimedOut(3, 1, None, 1.0, Free(0, 0, 0)))]
    # Without any tick, and though the place comes free in this step: too late is too late.
    assert end(scheduler, "a", 8.5) == []
    assert scheduler.handle(Released("a", 0), 9.5) == [Refuse("c", TimedOut(4.5, 0, None, 1.0, Free(0, 0, 0)))]
    assert nowait(scheduler, "d", 9.5) == [Grant("d", (0,))]


# ---- gangs, exclusive requests and patience ---------------------------------------------------------------


def test_a_gang_gets_all_or_nothing_and_is_passed_until_its_patience_is_over() -> None:
    scheduler = make(3, gang_patience=1)
    for key in "abc":
        nowait(scheduler, key)
    wait(scheduler, "gang", 0, gpus=2)
    wait(scheduler, "small", 0)
    assert end(scheduler, "a", 0.5, 0) == [Grant("small", (0,))]  # passes, still patient
    assert end(scheduler, "b", 0.9, 1) == []
    assert nowait(scheduler, "x", 0.95) == [Grant("x", (1,))]  # passes too
    assert end(scheduler, "x", 0.97, 1) == []
    wait(scheduler, "y", 0.98, gpus=3)
    assert scheduler.snapshot(1).free == Free(0, 0, 0)
    assert busy(nowait(scheduler, "z", 1)).free == Free(0, 0, 0)  # device 1 is free, and reserved
    assert wait(scheduler, "z", 1) == []
    assert scheduler.snapshot(1).devices[1].state == "reserved"
    assert end(scheduler, "c", 1.5, 2) == [Grant("gang", (2, 1))]
    assert end(scheduler, "small", 1.6, 0) == [Grant("z", (0,))]  # y is the head, and patient
    assert end(scheduler, "gang", 2.5, 1, 2) == []
    assert end(scheduler, "z", 2.5, 0) == [Grant("y", (1, 2, 0))]


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_what_was_reserved_is_given_on_when_the_gang_leaves(how: str) -> None:
    scheduler = make(2)
    nowait(scheduler, "a")
    wait(scheduler, "gang", 0, until=3, gpus=2)
    assert [scheduler.snapshot(now).devices[1].state for now in (0.9, 1)] == ["ready", "reserved"]
    wait(scheduler, "b", 2)
    if how == "cancel":
        assert scheduler.handle(Cancel("gang"), 2.5) == [Grant("b", (1,))]
    else:  # who leaves is told how things stand after the others are served
        refuse = Refuse("gang", TimedOut(3, 0, None, 1.0, Free(0, 0, 0)))
        assert scheduler.handle(Tick(), 3) == [Grant("b", (1,)), refuse]


def test_others_leaving_does_not_move_the_reservation() -> None:
    scheduler = make(2, gang_patience=0)
    nowait(scheduler, "a")
    wait(scheduler, "gang", 0, gpus=2)
    wait(scheduler, "b", 0)
    wait(scheduler, "c", 0)
    assert scheduler.handle(Cancel("b"), 1) == []
    assert busy(nowait(scheduler, "x", 1)).queue_length == 2


def served_among_leases_in_turns(patience: float, **big: Any) -> float | None:
    """When a waiter is served while short leases overlap on four devices, and one lease never ends."""
    scheduler = make(4, slots=2, gang_patience=patience)
    nowait(scheduler, "forever", memory=20, idle_ttl=math.inf)
    held: dict[str, tuple[int, ...]] = {}
    for step in range(400):
        now = step * 0.1
        effects = nowait(scheduler, f"{step}", now, memory=20)
        if step == 6:
            assert wait(scheduler, "big", now, **big) == []
        effects += end(scheduler, f"{step - 5}", now, *held.pop(f"{step - 5}", ()))
        held.update((effect.key, effect.devices) for effect in effects if isinstance(effect, Grant))
        if "big" in held:
            return now
    return None


@pytest.mark.parametrize("big", [{"exclusive": True}, {"memory": 90}, {"gpus": 2, "memory": 90}])
def test_leases_in_turns_do_not_starve_one_who_needs_room(big: dict[str, Any]) -> None:
    """Devices must be let run empty for it: no device ever comes free by chance here."""
    assert served_among_leases_in_turns(math.inf, **big) is None
    served = served_among_leases_in_turns(1.0, **big)
    assert served is not None
    assert served < 3


def test_a_reservation_takes_no_more_than_it_needs_and_grows_with_time() -> None:
    def filled() -> Scheduler:
        scheduler = make(4, slots=2, gang_patience=1)
        nowait(scheduler, "two", memory=10)
        for key in "abcd":
            nowait(scheduler, key)  # on 1, 2, 3 and beside "two" on 0
        wait(scheduler, "alone", 0, exclusive=True)
        return scheduler

    def reserved(scheduler: Scheduler, now: float) -> list[int]:
        devices = scheduler.snapshot(now).devices
        return [view.device.index for view in devices if view.state == "reserved"]

    times = {0.9: [], 1: [1], 1.9: [1], 2: [1, 2], 3.9: [1, 2], 4: [0, 1, 2, 3], 8: [0, 1, 2, 3]}
    scheduler = filled()
    assert {now: reserved(scheduler, now) for now in times} == times
    assert {now: reserved(filled(), now) for now in times} == times
    scheduler = filled()
    assert nowait(scheduler, "x", 1.5) == [Grant("x", (2,))]  # passes on what is not reserved
    assert nowait(scheduler, "y", 1.5) == [Grant("y", (3,))]
    busy(nowait(scheduler, "z", 1.5))
    scheduler.handle(DeviceLost(1), 1.6)
    assert reserved(scheduler, 1.6) == [2]  # all that are left hold two leases, and on 0 less memory is free
    scheduler.handle(DeviceReady(1), 1.7)
    assert end(scheduler, "a", 1.8, 1) == [Grant("alone", (1,))]


def test_devices_too_small_for_the_waiter_are_not_reserved() -> None:
    scheduler = Scheduler([Device(0, "", "", 50, 1), Device(1, "", "", 100, 2)], gang_patience=0)
    nowait(scheduler, "a", memory=40)
    nowait(scheduler, "b", memory=40)
    wait(scheduler, "big", 0, memory=80)
    assert [view.state for view in scheduler.snapshot(9).devices] == ["ready", "reserved"]
