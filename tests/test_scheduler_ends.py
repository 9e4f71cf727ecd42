# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How leases end, what happens to their places, how long waits are estimated, what is told and kept."""

import math

import pytest

from remotegpu_server.scheduler import (
    Alloc,
    CallEnded,
    CallStarted,
    Cancel,
    Configure,
    Counters,
    Dealloc,
    Device,
    DeviceFailed,
    DeviceLost,
    DeviceReady,
    DeviceView,
    Ended,
    Event,
    Finish,
    Free,
    Grant,
    LeaseView,
    Quota,
    Refuse,
    Release,
    Released,
    Renew,
    Request,
    Scheduler,
    Snapshot,
    Tick,
    Usage,
    WaiterView,
    Why,
)
from tests.fixtures.scheduling import busy, make, nowait


def view(scheduler: Scheduler, key: str) -> LeaseView:
    lease = scheduler.lookup(key)
    assert isinstance(lease, LeaseView)
    return lease


# ---- giving back ------------------------------------------------------------------------------------------


def test_finish_gives_the_places_to_who_waits_in_the_same_step() -> None:
    scheduler = make(2)
    nowait(scheduler, "a", gpus=2)
    scheduler.handle(Alloc("b", Request("tenant"), math.inf), 0)
    assert scheduler.handle(Finish("a"), 1) == [Grant("b", (0,))]
    assert scheduler.lookup("a") == Ended("dealloc")
    assert scheduler.handle(Finish("a"), 1) == []
    assert scheduler.handle(Finish("nobody"), 1) == []
    counters = scheduler.snapshot(1).counters
    assert (counters.deallocated, counters.granted) == (1, 2)
    assert nowait(scheduler, "c", 1) == [Grant("c", (1,))]


def test_finish_of_a_lease_that_has_ended_does_not_confirm_for_its_workers() -> None:
    scheduler = make(1)
    nowait(scheduler, "a")
    scheduler.handle(Dealloc("a"), 1)
    assert scheduler.handle(Finish("a"), 1) == []
    busy(nowait(scheduler, "b", 1))
    scheduler.handle(Released("a", 0), 1)
    assert nowait(scheduler, "c", 1) == [Grant("c", (0,))]


@pytest.mark.parametrize(("event", "why"), [(Dealloc("a"), "dealloc"), (Cancel("a"), "cancelled")])
def test_places_are_given_out_again_only_when_each_worker_has_confirmed(event: Event, why: Why) -> None:
    scheduler = make(2)
    nowait(scheduler, "a", gpus=2)
    scheduler.handle(Alloc("b", Request("tenant"), math.inf), 0)
    assert scheduler.handle(event, 1) == [Release("a", (0, 1), why)]
    assert scheduler.handle(event, 1) == []
    assert scheduler.lookup("a") == Ended(why)
    assert view_of_releasing(scheduler).state == "releasing"
    busy(nowait(scheduler, "c", 1))
    assert scheduler.handle(Released("a", 1), 2) == [Grant("b", (1,))]
    assert scheduler.handle(Released("a", 1), 2) == []  # twice is once
    busy(nowait(scheduler, "c", 2))
    assert scheduler.handle(Released("a", 0), 3) == []
    assert nowait(scheduler, "c", 3) == [Grant("c", (0,))]
    assert scheduler.lookup("a") == Ended(why)


def view_of_releasing(scheduler: Scheduler) -> LeaseView:
    return scheduler.snapshot(1).leases[0]


@pytest.mark.parametrize(
    "event",
    [
        *(kind(key) for kind in (Cancel, Dealloc, Renew, CallStarted, CallEnded) for key in ("?", "ended")),
        *(kind("queued") for kind in (Renew, CallStarted, CallEnded)),
        *(Released(key, 0) for key in ("?", "ended", "queued", "active")),
        Tick(),
    ],
)
def test_events_that_come_too_late_or_to_nobody_have_no_effect(event: Event) -> None:
    scheduler = make(1, slots=2)
    nowait(scheduler, "ended")
    scheduler.handle(Dealloc("ended"), 0)
    scheduler.handle(Released("ended", 0), 0)
    nowait(scheduler, "active", exclusive=True)
    scheduler.handle(Alloc("queued", Request("tenant"), math.inf), 0)
    assert scheduler.handle(event, 0) == []
    assert view(scheduler, "active").calls_running == 0
    busy(nowait(scheduler, "x"))


def test_a_call_that_never_started_cannot_end() -> None:
    scheduler = make(1)
    nowait(scheduler, "a")
    with pytest.raises(ValueError, match="'a' ended, but none is running"):
        scheduler.handle(CallEnded("a"), 0)


def test_only_so_many_ended_leases_are_remembered() -> None:
    scheduler = make(1, remembered=2)
    for key in "abc":
        nowait(scheduler, key)
        scheduler.handle(Dealloc(key), 0)
        scheduler.handle(Released(key, 0), 0)
    assert [scheduler.lookup(key) for key in "abcd"] == [None, Ended("dealloc"), Ended("dealloc"), None]


# ---- clocks -----------------------------------------------------------------------------------------------


def test_the_idle_clock_stands_still_while_calls_run() -> None:
    scheduler = make(1)
    nowait(scheduler, "a", idle_ttl=10)
    assert scheduler.next_wakeup() == 10
    scheduler.handle(CallStarted("a"), 4)
    assert scheduler.next_wakeup() is None
    scheduler.handle(CallStarted("a"), 5)
    scheduler.handle(CallEnded("a"), 50)
    assert (view(scheduler, "a").idle, view(scheduler, "a").ttl_left) == (0, None)
    scheduler.handle(CallEnded("a"), 60)
    assert scheduler.next_wakeup() == 70
    assert scheduler.handle(Tick(), 69) == []
    assert (view(scheduler, "a").idle, view(scheduler, "a").ttl_left) == (9, 1)
    assert (view(scheduler, "a").age, view(scheduler, "a").calls_made) == (69, 2)
    scheduler.handle(Renew("a"), 69)
    assert scheduler.next_wakeup() == 79
    assert scheduler.handle(Tick(), 79) == [Release("a", (0,), "idle")]
    assert scheduler.next_wakeup() is None
    assert scheduler.lookup("a") == Ended("idle")


def test_the_hard_cap_ends_a_lease_whatever_it_does() -> None:
    scheduler = make(1)
    nowait(scheduler, "a", 100, idle_ttl=10, hard_ttl=25)
    scheduler.handle(CallStarted("a"), 105)
    assert scheduler.handle(Tick(), 112) == []
    assert view(scheduler, "a").ttl_left == 13
    assert scheduler.next_wakeup() == 125
    scheduler.handle(CallEnded("a"), 113)  # the idle clock comes first again
    assert scheduler.next_wakeup() == 123
    scheduler.handle(CallStarted("a"), 114)
    scheduler.handle(CallEnded("a"), 120)
    assert scheduler.next_wakeup() == 125
    scheduler.handle(Renew("a"), 124)
    assert scheduler.handle(Tick(), 125) == [Release("a", (0,), "hard_cap")]
    assert scheduler.handle(CallEnded("a"), 126) == []


@pytest.mark.parametrize(
    "event", [CallStarted("a"), Renew("a"), Dealloc("a"), Cancel("a"), Alloc("b", Request("t"), None), Tick()]
)
def test_what_is_due_happens_before_any_event(event: Event) -> None:
    scheduler = make(2)
    nowait(scheduler, "a", idle_ttl=10, hard_ttl=15)
    # Long after both: the cause is the one that came first.
    assert scheduler.handle(event, 20)[0] == Release("a", (0,), "idle")
    assert scheduler.lookup("a") == Ended("idle")
    assert scheduler.snapshot(20).counters.expired == 1


def test_if_both_come_at_once_it_is_the_hard_cap() -> None:
    scheduler = make(1)
    nowait(scheduler, "a", idle_ttl=10, hard_ttl=10)
    assert scheduler.handle(Tick(), 10) == [Release("a", (0,), "hard_cap")]


@pytest.mark.parametrize("event", [CallEnded("b"), DeviceLost(9), Configure(policy="none")])
def test_what_is_due_is_not_lost_if_the_event_is_refused(event: Event) -> None:
    scheduler = make(2)
    nowait(scheduler, "a", idle_ttl=10)
    nowait(scheduler, "b")
    with pytest.raises((ValueError, KeyError)):
        scheduler.handle(event, 20)
    assert scheduler.lookup("a") == Ended("idle")
    assert scheduler.handle(Tick(), 20) == [Release("a", (0,), "idle")]
    assert scheduler.handle(Tick(), 20) == []


def test_a_lease_may_have_no_end() -> None:
    scheduler = make(1)
    nowait(scheduler, "a", idle_ttl=math.inf, hard_ttl=math.inf)
    assert scheduler.next_wakeup() is None
    assert scheduler.handle(Tick(), 1e12) == []
    assert view(scheduler, "a").ttl_left is None


# ---- devices that are lost --------------------------------------------------------------------------------


def test_leases_keep_their_place_on_a_lost_device() -> None:
    scheduler = make(1, slots=2)
    nowait(scheduler, "a")
    assert scheduler.handle(DeviceLost(0), 1) == []
    assert scheduler.handle(DeviceLost(0), 1) == []
    assert busy(nowait(scheduler, "b", 1)).free == Free(0, 0, 0)
    assert scheduler.handle(Alloc("b", Request("t", exclusive=True), math.inf), 1) == []
    assert scheduler.handle(Alloc("c", Request("t"), math.inf), 1) == []
    assert scheduler.snapshot(1).devices[0].state == "lost"
    assert view(scheduler, "a").devices == (0,)
    assert scheduler.handle(DeviceReady(0), 1.5) == [Grant("c", (0,))]
    assert scheduler.handle(DeviceReady(0), 1.5) == []
    assert scheduler.snapshot(2).counters.lost == 1


def test_the_death_of_a_worker_confirms_what_it_had_to_release() -> None:
    scheduler = make(2)
    nowait(scheduler, "a", gpus=2)
    scheduler.handle(Dealloc("a"), 0)
    assert scheduler.handle(DeviceLost(0), 0) == []
    assert scheduler.handle(DeviceReady(0), 0) == []
    assert nowait(scheduler, "b") == [Grant("b", (0,))]
    assert scheduler.handle(Released("a", 0), 0) == []  # a late word of the dead: "b" keeps its place
    busy(nowait(scheduler, "c"))
    assert scheduler.snapshot(0).leases[0].key == "a"
    scheduler.handle(DeviceLost(1), 0)
    assert [lease.key for lease in scheduler.snapshot(0).leases] == ["b"]
    assert scheduler.lookup("a") == Ended("dealloc")


def test_a_lease_that_ends_on_a_lost_device_needs_no_confirmation_there() -> None:
    scheduler = make(2)
    nowait(scheduler, "a", gpus=2)
    scheduler.handle(DeviceLost(0), 0)
    assert scheduler.handle(Dealloc("a"), 0) == [Release("a", (1,), "dealloc")]
    scheduler.handle(DeviceReady(0), 0)
    assert nowait(scheduler, "b") == [Grant("b", (0,))]
    scheduler.handle(DeviceLost(0), 0)
    assert scheduler.handle(Tick(), 30) == [Release("b", (), "idle")]
    assert scheduler.lookup("b") == Ended("idle")
    assert [lease.key for lease in scheduler.snapshot(0).leases] == ["a"]


def test_a_failed_device_ends_its_leases_on_all_their_devices() -> None:
    scheduler = Scheduler([Device(i, "GPU", "", 100, 2) for i in (4, 6, 8)])
    nowait(scheduler, "gang", gpus=2)  # on 4 and 6
    nowait(scheduler, "other")  # on 8
    nowait(scheduler, "calls")  # on 4
    scheduler.handle(CallStarted("calls"), 1)
    nowait(scheduler, "over", 1)  # on 6
    assert scheduler.handle(Dealloc("over"), 1) == [Release("over", (6,), "dealloc")]
    assert scheduler.handle(Alloc("waits", Request("t", gpus=3), math.inf), 2) == []
    assert scheduler.handle(DeviceFailed(4), 3) == [
        Release("gang", (6,), "device"),
        Release("calls", (), "device"),
    ]
    assert scheduler.lookup("gang") == scheduler.lookup("calls") == Ended("device", 4)
    assert scheduler.handle(CallEnded("calls"), 3) == []
    assert scheduler.handle(DeviceFailed(4), 3) == []
    assert scheduler.next_wakeup() == 30  # "other" lives on
    assert scheduler.handle(Released("gang", 6), 4) == []
    assert nowait(scheduler, "gang", 4) == [Refuse("gang", Ended("device", 4))]
    snapshot = scheduler.snapshot(4)
    assert [view.state for view in snapshot.devices] == ["lost", "reserved", "reserved"]
    counters = snapshot.counters
    assert (counters.failed, counters.deallocated, counters.lost, counters.granted) == (2, 1, 1, 4)
    assert scheduler.handle(DeviceReady(4), 5) == [Grant("waits", (8, 4, 6))]


def test_leases_end_on_a_device_that_was_lost_before_it_failed() -> None:
    scheduler = make(1)
    nowait(scheduler, "a")
    scheduler.handle(DeviceLost(0), 1)
    assert scheduler.handle(DeviceFailed(0), 2) == [Release("a", (), "device")]
    assert scheduler.snapshot(2).counters == Counters(requested=1, granted=1, failed=1, lost=1)
    assert scheduler.snapshot(2).leases == ()
    with pytest.raises(KeyError):
        scheduler.handle(DeviceFailed(1), 2)


# ---- estimates --------------------------------------------------------------------------------------------


def hold(scheduler: Scheduler, key: str, start: float, seconds: float) -> None:
    (grant,) = nowait(scheduler, key, start, idle_ttl=math.inf)
    assert isinstance(grant, Grant)
    scheduler.handle(Dealloc(key), start + seconds / 2)
    scheduler.handle(Released(key, grant.devices[0]), start + seconds)


def test_the_wait_is_estimated_from_how_long_leases_lasted() -> None:
    scheduler = make(2, slots=2)
    hold(scheduler, "a", 0, 10)
    assert scheduler.snapshot(0).mean_held == 10
    hold(scheduler, "b", 10, 20)
    assert scheduler.snapshot(0).mean_held == pytest.approx(11)  # a tenth of the newest
    nowait(scheduler, "all", 30, gpus=2, exclusive=True)
    # Mean time, times the slots asked for until then, over the four slots there are.
    assert busy(nowait(scheduler, "x", 30)).estimated_wait == pytest.approx(11 * 1 / 4)
    assert busy(nowait(scheduler, "x", 30, gpus=2)).estimated_wait == pytest.approx(11 * 2 / 4)
    for key in "pq":
        scheduler.handle(Alloc(key, Request("t"), math.inf), 30)
    third = busy(nowait(scheduler, "x", 30))
    assert third.place == 3
    assert third.estimated_wait == pytest.approx(11 * 3 / 4)
    assert third.retry_after == third.estimated_wait
    scheduler.handle(Cancel("p"), 30)
    assert busy(nowait(scheduler, "x", 30, exclusive=True)).estimated_wait == pytest.approx(11 * 3 / 4)
    scheduler.handle(DeviceLost(0), 30)
    assert busy(nowait(scheduler, "x", 30)).estimated_wait == pytest.approx(11 * 2 / 2)
    scheduler.handle(DeviceLost(1), 30)
    nobody_knows = busy(nowait(scheduler, "x", 30))
    assert (nobody_knows.estimated_wait, nobody_knows.retry_after) == (None, 1.0)


def test_an_exclusive_request_counts_as_all_slots_of_the_largest_device() -> None:
    scheduler = Scheduler([Device(0, "GPU", "", 100, 1), Device(1, "GPU", "", 100, 3)])
    hold(scheduler, "a", 0, 8)
    nowait(scheduler, "all", 8, gpus=2, exclusive=True)
    assert busy(nowait(scheduler, "x", 8, exclusive=True)).estimated_wait == pytest.approx(8 * 3 / 4)


@pytest.mark.parametrize(("held", "retry"), [(0.0, 0.05), (0.01, 0.05), (2.0, 2.0), (1e9, 30.0)])
def test_retry_after_is_bounded(held: float, retry: float) -> None:
    scheduler = make(1)
    hold(scheduler, "a", 0, held)
    nowait(scheduler, "b", held)
    assert busy(nowait(scheduler, "c", held)).retry_after == retry


# ---- what is told -----------------------------------------------------------------------------------------


def test_a_snapshot_tells_everything() -> None:
    scheduler = make(3, slots=2, queue_limit=7)
    nowait(scheduler, "a", 0, memory=30, hard_ttl=12.0)
    nowait(scheduler, "b", 1, exclusive=True)
    scheduler.handle(DeviceLost(2), 1)
    scheduler.handle(Alloc("w", Request("other", 2, 5), 9.0), 2)
    scheduler.handle(Alloc("v", Request("other", exclusive=True), math.inf), 2)
    scheduler.handle(CallStarted("a"), 2)
    scheduler.handle(Dealloc("b"), 2)
    assert scheduler.snapshot(2.5) == Snapshot(
        now=2.5,
        policy="round-robin",
        slots=2,
        devices=(
            DeviceView(Device(0, "GPU", "uuid-0", 100, 2), "ready", 1, 1, 30, False),
            DeviceView(Device(1, "GPU", "uuid-1", 100, 2), "ready", 1, 2, 100, True),
            DeviceView(Device(2, "GPU", "uuid-2", 100, 2), "lost", 0, 0, 0, False),
        ),
        leases=(
            LeaseView("a", "tenant", (0,), 30, False, "active", 2.5, 0.0, 9.5, 1, 1),
            LeaseView("b", "tenant", (1,), 0, True, "releasing", 1.5, 1.5, 0.0, 0, 0),
        ),
        queue=(
            WaiterView("w", "other", 1, 2, 5, False, 0.5, 6.5),
            WaiterView("v", "other", 2, 1, 0, True, 0.5, None),
        ),
        queue_limit=7,
        free=Free(0, 1, 70),
        mean_held=None,
        counters=Counters(requested=4, granted=2, deallocated=1, lost=1),
        tenants=(Usage("other", 0, 0, 0, Quota()), Usage("tenant", 2, 2, 30, Quota())),
    )
    late = scheduler.snapshot(99)  # nothing was handled since, so nothing has ended
    assert (late.leases[0].ttl_left, late.queue[0].time_left) == (0, 0)
