# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which of the devices that fit are given, under each policy. Devices have 100 bytes each.

Round-robin: see `test_scheduler.py`; whose turn it is under `fair`: see `test_scheduler_tenants.py`.
"""

import math

import pytest

from remotegpu_server.scheduler import (
    POLICIES,
    Alloc,
    Configure,
    Device,
    DeviceLost,
    DeviceReady,
    Finish,
    Grant,
    Load,
    Request,
    Scheduler,
    Warm,
)
from tests.fixtures.scheduling import busy, given, make, nowait, wait

# ---- every policy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_a_gang_gets_different_devices_and_whole_ones_if_it_asks_for_them(name: str) -> None:
    scheduler = make(5, slots=2, policy=POLICIES[name]())
    scheduler.handle(Warm(1, "m"), 0)
    assert len(set(given(nowait(scheduler, "a", gpus=2, model="m")))) == 2
    others = given(nowait(scheduler, "b", gpus=3, exclusive=True, model="m"))
    assert {*others, *given(nowait(scheduler, "c", gpus=2))} == {0, 1, 2, 3, 4}
    busy(nowait(scheduler, "d", gpus=3))
    assert scheduler.snapshot(0).policy == name


@pytest.mark.parametrize("name", POLICIES)
def test_equal_devices_are_given_from_the_first_on(name: str) -> None:
    scheduler = make(3, policy=POLICIES[name]())
    assert nowait(scheduler, "a", gpus=2) == [Grant("a", (0, 1))]
    assert nowait(scheduler, "b") == [Grant("b", (2,))]


# ---- least-loaded -----------------------------------------------------------------------------------------


def loaded(*utilization: float, slots: int = 4) -> Scheduler:
    scheduler = make(len(utilization), slots, policy=POLICIES["least-loaded"]())
    scheduler.handle(Load(dict(enumerate(utilization))), 0)
    return scheduler


def test_the_device_that_does_least_is_given_whatever_is_reserved_there() -> None:
    scheduler = loaded(0.9, 0.2, 0.5)
    assert [given(nowait(scheduler, key, memory=30)) for key in "abc"] == [(1,)] * 3
    assert nowait(scheduler, "d", memory=30) == [Grant("d", (2,))]  # too little is left on 1
    assert nowait(scheduler, "e", gpus=3, memory=1) == [Grant("e", (1, 2, 0))]


def test_a_preferred_device_may_be_filled_to_the_last_byte() -> None:
    scheduler = loaded(0.9, 0.1)
    assert given(nowait(scheduler, "a", memory=60)) == (1,)
    assert given(nowait(scheduler, "b", memory=40)) == (1,)
    assert given(nowait(scheduler, "c", memory=1)) == (0,)


def test_measurements_within_five_percent_count_as_equal_and_others_stay_as_they_were() -> None:
    scheduler = loaded(0.54, 0.51, 0.52)
    assert given(nowait(scheduler, "a", memory=1)) == (0,)
    assert given(nowait(scheduler, "b", memory=2)) == (1,)
    assert given(nowait(scheduler, "c", memory=3)) == (2,)
    assert given(nowait(scheduler, "d")) == (0,)  # has the least reserved memory
    scheduler.handle(Load({2: 0.0}), 0)
    assert given(nowait(scheduler, "e")) == (2,)
    scheduler.handle(Load({2: 0.55}), 0)
    assert given(nowait(scheduler, "f")) == (0,)


def test_among_equals_the_one_with_the_fewest_leases_is_given() -> None:
    scheduler = loaded(0.0, 0.0)
    assert [given(nowait(scheduler, key)) for key in "abc"] == [(0,), (1,), (0,)]
    scheduler.handle(Finish("a"), 0)
    scheduler.handle(Finish("c"), 0)
    assert given(nowait(scheduler, "d")) == (0,)


def test_the_least_loaded_device_is_no_use_if_it_is_lost_or_not_wholly_free() -> None:
    scheduler = loaded(0.0, 0.3, 0.6)
    scheduler.handle(DeviceLost(0), 0)
    assert given(nowait(scheduler, "a")) == (1,)
    assert given(nowait(scheduler, "b", exclusive=True)) == (2,)
    scheduler.handle(DeviceReady(0), 0)
    assert given(nowait(scheduler, "c")) == (0,)
    with pytest.raises(KeyError):
        scheduler.handle(Load({3: 0.5}), 0)


def test_if_all_preferred_ones_are_too_full_another_is_found_all_the_same() -> None:
    """The least loaded ones are only looked at up to a number; that must not hide a device that fits."""
    devices = [Device(i, "", "", 10, 1) for i in range(300)] + [Device(300, "", "", 20, 1)]
    scheduler = Scheduler(devices, policy=POLICIES["least-loaded"]())
    scheduler.handle(Load({300: 1.0}), 0)
    assert given(nowait(scheduler, "a", memory=11)) == (300,)
    assert given(nowait(scheduler, "b", memory=10)) == (0,)


# ---- best-fit ---------------------------------------------------------------------------------------------


def test_the_device_with_the_least_room_that_is_enough_is_given() -> None:
    scheduler = make(3, slots=9, policy=POLICIES["best-fit"]())
    assert given(nowait(scheduler, "a", memory=50)) == (0,)
    assert given(nowait(scheduler, "b", memory=60)) == (1,)
    assert given(nowait(scheduler, "c", memory=40)) == (1,)
    assert given(nowait(scheduler, "d", memory=50)) == (0,)
    assert given(nowait(scheduler, "e")) == (0,)
    assert given(nowait(scheduler, "f", memory=1)) == (2,)
    assert given(nowait(scheduler, "g", gpus=3)) == (0, 1, 2)


def test_the_smallest_whole_device_is_given() -> None:
    sizes = (80, 40, 60, 60)
    devices = [Device(i, "", "", size, 2) for i, size in enumerate(sizes)]
    scheduler = Scheduler(devices, policy=POLICIES["best-fit"]())
    assert given(nowait(scheduler, "a", memory=50)) == (2,)
    assert given(nowait(scheduler, "b", memory=50, exclusive=True)) == (3,)
    assert given(nowait(scheduler, "c", gpus=2, exclusive=True)) == (1, 0)


# ---- sticky -----------------------------------------------------------------------------------------------


def sticky(count: int, slots: int = 2) -> Scheduler:
    return make(count, slots, policy=POLICIES["sticky"]())


def test_a_device_is_given_where_the_model_is_warm_and_the_next_one_if_those_are_full() -> None:
    scheduler = sticky(4)
    scheduler.handle(Warm(2, "m"), 0)
    scheduler.handle(Warm(2, "m"), 0)
    assert [given(nowait(scheduler, key, model="m")) for key in "abc"] == [(2,), (2,), (3,)]
    assert given(nowait(scheduler, "d", model="another")) == (0,)
    assert given(nowait(scheduler, "e")) == (1,)
    scheduler.handle(Finish("a"), 0)
    assert given(nowait(scheduler, "f", model="m", gpus=2)) == (2, 3)


def test_of_warm_devices_the_one_with_the_fewest_leases_is_given() -> None:
    scheduler = sticky(3, slots=3)
    for device in (2, 1):
        scheduler.handle(Warm(device, "m"), 0)
    assert [given(nowait(scheduler, key, model="m")) for key in "abcd"] == [(1,), (2,), (1,), (2,)]
    scheduler.handle(Finish("b"), 0)
    assert given(nowait(scheduler, "e", model="m")) == (2,)
    assert given(nowait(scheduler, "f", model="m", exclusive=True)) == (0,)


def test_a_lost_device_is_not_warm_any_more() -> None:
    scheduler = sticky(2)
    scheduler.handle(Warm(1, "m"), 0)
    scheduler.handle(Warm(1, "n"), 0)
    scheduler.handle(DeviceLost(1), 0)
    scheduler.handle(Warm(1, "m"), 0)  # a late word of the dead
    scheduler.handle(DeviceReady(1), 0)
    assert given(nowait(scheduler, "a", model="m")) == (0,)
    assert given(nowait(scheduler, "b", model="n")) == (1,)
    assert given(nowait(scheduler, "c", model="n")) == (0,)
    with pytest.raises(KeyError):
        scheduler.handle(Warm(2, "m"), 0)


def test_a_device_where_the_model_is_loaded_no_longer_is_not_warm() -> None:
    scheduler = sticky(3)
    for device in (2, 1):
        scheduler.handle(Warm(device, "m"), 0)
    scheduler.handle(Warm(1, "m", warm=False), 0)
    scheduler.handle(Warm(0, "never", warm=False), 0)
    assert given(nowait(scheduler, "a", model="m")) == (2,)
    scheduler.handle(Warm(2, "m", warm=False), 0)
    assert given(nowait(scheduler, "b", model="m")) == (0,)
    assert scheduler._pool.warm == {}  # names are not remembered for ever


def test_what_is_warm_is_known_before_the_policy_asks_for_it() -> None:
    scheduler = make(3)
    scheduler.handle(Warm(2, "m"), 0)
    scheduler.handle(Load({0: 0.9}), 0)
    scheduler.handle(Configure(policy="sticky"), 0)
    assert given(nowait(scheduler, "a", model="m")) == (2,)
    scheduler.handle(Configure(policy="least-loaded"), 0)
    assert given(nowait(scheduler, "b")) == (1,)


# ---- switching --------------------------------------------------------------------------------------------


def test_another_policy_keeps_those_who_wait_and_their_order() -> None:
    scheduler = make(2)
    nowait(scheduler, "all", gpus=2, idle_ttl=math.inf)
    for number in range(40):
        request = Request(f"t{number % 3}", memory=number, priority=number % 2, idle_ttl=math.inf)
        scheduler.handle(Alloc(f"{number}", request, math.inf), number)
    scheduler.handle(Configure(queue_limit=50), 40)
    before = scheduler.snapshot(40)
    for name in [*POLICIES, *reversed(list(POLICIES))]:
        assert scheduler.handle(Configure(policy=name), 40) == []
        after = scheduler.snapshot(40)
        assert (after.policy, after.queue_limit) == (name, 50)
        if name != "fair":
            assert after.queue == before.queue
    assert wait(scheduler, "last", 41, idle_ttl=math.inf, exclusive=True) == []
    served = [grant.key for now in range(42, 82) for grant in turn_over(scheduler, now)]
    assert served == [*map(str, range(1, 40, 2)), *map(str, range(0, 40, 2)), "last"]


def turn_over(scheduler: Scheduler, now: float) -> list[Grant]:
    """The oldest lease is given back; who is served."""
    effects = scheduler.handle(Finish(scheduler.snapshot(now).leases[0].key), now)
    return [effect for effect in effects if isinstance(effect, Grant)]


def test_the_same_policy_again_changes_nothing() -> None:
    scheduler = make(3, slots=2)
    nowait(scheduler, "a")
    scheduler.handle(Configure(policy="round-robin"), 0)
    assert given(nowait(scheduler, "b")) == (1,)
    scheduler.handle(Configure(policy="fair"), 0)
    assert given(nowait(scheduler, "c")) == (0,)  # a round of its own


@pytest.mark.parametrize(
    "event",
    [
        Configure(policy="random", slots=2, queue_limit=2),
        Configure(policy="fair", slots=0, queue_limit=2),
        Configure(policy="fair", slots=2, queue_limit=-1),
    ],
)
def test_settings_that_make_no_sense_change_nothing(event: Configure) -> None:
    scheduler = make(2)
    before = scheduler.snapshot(0)
    with pytest.raises(ValueError, match="slots >= 1, queue_limit >= 0 and a policy of \\['round-robin'"):
        scheduler.handle(event, 0)
    assert scheduler.snapshot(0) == before
