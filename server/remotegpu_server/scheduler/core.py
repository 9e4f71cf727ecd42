# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The scheduler: events in, effects out, and nothing else. No I/O, no clock, no randomness.

The rules, in the order in which a step applies them:

1. What is due at `now` happens first, whatever the event: leases end, waiters time out. A late tick can thus
   not let an ended lease be used, provided that `handle(CallStarted(...))` comes before `lookup`.
2. The event.
3. Whatever capacity came free is given to the queue, in order. So after each step no waiter is left that
   could be served, and a newcomer that fits has passed nobody who would have fitted.

A waiter that does not fit may be passed, until it is at the head and has waited for `gang_patience` seconds.
From then on devices are reserved for it (`Pool.reserved`), and the others share what is not. This holds for
gangs, for exclusive requests, and for those that declare much memory; no other request can be passed at all.

A lease that has ended keeps its places until each worker has confirmed that the memory is free.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from .deadlines import Deadlines
from .events import (
    Alloc,
    Busy,
    CallEnded,
    CallStarted,
    Cancel,
    Dealloc,
    DeviceLost,
    DeviceReady,
    Effect,
    Event,
    Finish,
    Grant,
    Impossible,
    QueueFull,
    Reason,
    Refuse,
    Release,
    Released,
    Renew,
    Tick,
    TimedOut,
)
from .leases import Lease
from .model import Counters, Device, Ended, Free, LeaseView, Request, Snapshot, Why
from .policies import Policy, RoundRobin
from .pool import Pool, PooledDevice
from .queue import HeldTimes, Queue, Waiter, retry_after

_REFUSALS: dict[type[Reason], str] = {
    Busy: "refused_busy",
    Impossible: "refused_impossible",
    TimedOut: "refused_timeout",
    QueueFull: "refused_full",
    Ended: "refused_ended",
}
_ENDINGS: dict[Why, str] = {
    "dealloc": "deallocated",
    "idle": "expired",
    "hard_cap": "expired",
    "cancelled": "cancelled",
}
_NONE: frozenset[int] = frozenset()


class Scheduler:
    """Who has which device, who waits, and until when.

    Every call takes time that is constant, except for the devices, which it goes through once (a few times
    while something waits), and the queue, which it goes through when capacity comes free.

    - `policy`: which of the fitting devices is given; round-robin if `None`.
    - `queue_limit`: how many requests may wait.
    - `gang_patience`: seconds for which the head of the queue lets others pass.
    - `remembered`: how many ended leases `lookup` can still tell about.

    Raises `ValueError` for devices that make no sense: see `Pool`.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        policy: Policy | None = None,
        queue_limit: int = 1000,
        gang_patience: float = 1.0,
        remembered: int = 4096,
    ) -> None:
        self._pool = Pool(devices)
        self._policy = policy or RoundRobin()
        self._patience = gang_patience
        self._leases: dict[str, Lease] = {}  # active and releasing
        self._queue = Queue(queue_limit)
        self._deadlines: Deadlines[Lease | Waiter] = Deadlines()
        self._ended: OrderedDict[str, Why] = OrderedDict()
        self._remembered = remembered
        self._held = HeldTimes()
        self._counts = dict.fromkeys(Counters.__slots__, 0)
        self._now = -math.inf
        self._grew = False  # capacity came free, or the reservation fell: somebody who waits may fit now
        self._effects: list[Effect] = []
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            Alloc: self._on_alloc,
            Cancel: self._on_cancel,
            Dealloc: self._on_dealloc,
            Finish: self._on_finish,
            Renew: self._on_renew,
            CallStarted: self._on_call_started,
            CallEnded: self._on_call_ended,
            Released: self._on_released,
            DeviceLost: self._on_device_lost,
            DeviceReady: self._on_device_ready,
            Tick: self._on_tick,
        }

    def __repr__(self) -> str:
        ready, total = sum(device.ready for device in self._pool), len(self._pool)
        return (
            f"<Scheduler {self._policy.name}: {ready} of {total} devices ready, "
            f"{len(self._leases)} leases, {len(self._queue)} waiting>"
        )

    # ---- the face -------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time `now` and answer what is to be done, in order. `now` must never go back.

        Raises `KeyError` for a device that was never declared, and `ValueError` when a call of an active
        lease ends that never started: both are faults of the caller.
        """
        self._now = now
        effects: list[Effect] = []
        self._effects = effects
        if self._deadlines.due(now):
            self._expire()
        self._handlers[type(event)](event)
        if self._grew:
            self._serve()
        return effects

    def next_wakeup(self) -> float | None:
        """When the next `Tick` is due; `None` if nothing is to end by itself.

        Patience that runs out needs no tick: reserving devices gives nothing to anybody.
        """
        return self._deadlines.next()

    def lookup(self, key: str) -> LeaseView | Ended | None:
        """The lease as of the last event; `None` if it was never granted or ended too long ago."""
        lease = self._leases.get(key)
        if lease is not None:
            return lease.view(self._now) if lease.why is None else Ended(lease.why)
        why = self._ended.get(key)
        return None if why is None else Ended(why)

    def snapshot(self, now: float) -> Snapshot:
        """Everything at time `now`. Takes time in proportion to devices, leases and waiters."""
        reserved = self._reserved(self._queue.head, now)
        return Snapshot(
            now=now,
            policy=self._policy.name,
            devices=tuple(device.view(reserved) for device in self._pool),
            leases=tuple(lease.view(now) for lease in self._leases.values()),
            queue=tuple(waiter.view(place, now) for place, waiter in enumerate(self._queue, 1)),
            queue_limit=self._queue.limit,
            free=self._pool.free(reserved),
            mean_held=self._held.mean,
            counters=Counters(**self._counts),
        )

    # ---- requests -------------------------------------------------------------------------------------

    def _on_alloc(self, event: Alloc) -> None:
        key, request = event.key, event.request
        if key in self._queue:
            return
        known = self.lookup(key)
        if isinstance(known, LeaseView):
            self._effects.append(Grant(key, known.devices))
            return
        self._counts["requested"] += 1
        reserved = self._reserved(self._queue.head, self._now)
        never = known or self._pool.impossible(request)
        if never:
            self._refuse(key, never)
        elif not self._place(key, request, reserved):
            self._wait_or_refuse(event, reserved)

    def _wait_or_refuse(self, event: Alloc, reserved: frozenset[int]) -> None:
        key, waiting, limit = event.key, len(self._queue), self._queue.limit
        asked = self._pool.slots_asked(event.request)
        if event.wait_until is None:
            self._refuse(key, Busy(waiting, waiting + 1, *self._outlook(asked, reserved)))
        elif waiting >= limit:
            self._refuse(key, QueueFull(limit, *self._outlook(asked, reserved)))
        elif event.wait_until <= self._now:
            self._refuse(key, TimedOut(0.0, waiting, *self._outlook(asked, reserved)))
        else:
            waiter = Waiter(key, event.request, self._now, asked)
            self._queue.join(waiter)
            self._deadlines.set(waiter, event.wait_until)

    def _on_cancel(self, event: Cancel) -> None:
        self._give_up(event.key, "cancelled")

    def _on_dealloc(self, event: Dealloc) -> None:
        self._give_up(event.key, "dealloc")

    def _on_finish(self, event: Finish) -> None:
        if lease := self._active(event.key):
            self._deadlines.drop(lease)
            lease.why, lease.outstanding = "dealloc", len(lease.devices)
            self._counts[_ENDINGS[lease.why]] += 1
            for index in lease.devices:
                self._confirm(lease, self._pool[index])

    def _give_up(self, key: str, why: Why) -> None:
        if key in self._queue:
            self._deadlines.drop(self._leave(key))
            self._counts["abandoned"] += 1
        elif lease := self._active(key):
            self._deadlines.drop(lease)
            self._end(lease, why)

    # ---- calls ----------------------------------------------------------------------------------------

    def _on_renew(self, event: Renew) -> None:
        if lease := self._active(event.key):
            self._restart_idle_clock(lease)

    def _on_call_started(self, event: CallStarted) -> None:
        if lease := self._active(event.key):
            lease.calls_running += 1
            lease.calls_made += 1
            self._deadlines.set(lease, lease.deadline)

    def _on_call_ended(self, event: CallEnded) -> None:
        if lease := self._active(event.key):
            if not lease.calls_running:
                raise ValueError(f"a call of lease {event.key!r} ended, but none is running")
            lease.calls_running -= 1
            self._restart_idle_clock(lease)

    # ---- devices and time -----------------------------------------------------------------------------

    def _on_released(self, event: Released) -> None:
        device = self._pool[event.device]
        if lease := device.releasing.pop(event.key, None):
            self._confirm(lease, device)

    def _on_device_lost(self, event: DeviceLost) -> None:
        device = self._pool[event.device]
        if device.ready:
            device.ready = False
            self._counts["lost"] += 1
            for lease in device.releasing.values():
                self._confirm(lease, device)
            device.releasing.clear()

    def _on_device_ready(self, event: DeviceReady) -> None:
        device = self._pool[event.device]
        if not device.ready:
            device.ready = self._grew = True

    def _on_tick(self, event: Tick) -> None:
        """What is due has happened before any event."""

    # ---- decisions ------------------------------------------------------------------------------------

    def _expire(self) -> None:
        """What is due. Those who have waited in vain are told how things stand once the others are served."""
        timed_out: list[Waiter] = []
        while (item := self._deadlines.pop(self._now)) is not None:
            if isinstance(item, Lease):
                self._end(item, item.cause)
            else:
                timed_out.append(self._leave(item.key))
        if self._grew:
            self._serve()
        reserved = self._reserved(self._queue.head, self._now)
        for waiter in timed_out:
            outlook = self._outlook(waiter.slots, reserved)
            self._refuse(waiter.key, TimedOut(self._now - waiter.since, len(self._queue), *outlook))

    def _serve(self) -> None:
        """Grant whatever fits, in the order of the queue; the first that does not fit is its new head."""
        self._grew = False
        served: list[Waiter] = []
        head: Waiter | None = None
        reserved = _NONE
        failed: dict[tuple[int, bool], int] = {}  # the least memory that did not fit, by the rest of the shape
        for waiter in self._queue:
            request = waiter.request
            shape = request.gpus, request.exclusive
            if request.memory >= failed.get(shape, math.inf):
                continue
            if self._place(waiter.key, request, reserved):
                served.append(waiter)
                continue
            failed[shape] = request.memory
            if head is None:
                head, reserved = waiter, self._reserved(waiter, self._now)
            if not self._pool.offers(reserved):
                break
        for waiter in served:
            self._queue.leave(waiter.key)
            self._deadlines.drop(waiter)

    def _place(self, key: str, request: Request, reserved: frozenset[int]) -> bool:
        """Grant the request if it fits on what is not reserved."""
        fitting = self._pool.fitting(request)
        if reserved:
            fitting = [device for device in fitting if device.index not in reserved]
        if len(fitting) < request.gpus:
            return False
        devices = self._policy.choose(fitting, request)
        for index in devices:
            self._pool[index].take(request)
        self._leases[key] = lease = Lease(key, request, devices, granted=self._now, idle_since=self._now)
        self._deadlines.set(lease, lease.deadline)
        self._counts["granted"] += 1
        self._effects.append(Grant(key, devices))
        return True

    def _refuse(self, key: str, reason: Reason) -> None:
        self._counts[_REFUSALS[type(reason)]] += 1
        self._effects.append(Refuse(key, reason))

    def _end(self, lease: Lease, why: Why) -> None:
        """The lease is over; its places follow when the workers confirm, those of lost devices at once."""
        lease.why, lease.outstanding = why, len(lease.devices)
        self._counts[_ENDINGS[why]] += 1
        devices = [self._pool[index] for index in lease.devices]
        ready = tuple(device.index for device in devices if device.ready)
        self._effects.append(Release(lease.key, ready, why))
        for device in devices:
            if device.ready:
                device.releasing[lease.key] = lease
            else:
                self._confirm(lease, device)

    def _confirm(self, lease: Lease, device: PooledDevice) -> None:
        device.give(lease.request)
        self._grew = True
        lease.outstanding -= 1
        if lease.outstanding or lease.why is None:
            return
        del self._leases[lease.key]
        self._held.observe(self._now - lease.granted)
        self._ended[lease.key] = lease.why
        if len(self._ended) > self._remembered:
            self._ended.popitem(last=False)

    # ---- small things ---------------------------------------------------------------------------------

    def _active(self, key: str) -> Lease | None:
        lease = self._leases.get(key)
        return lease if lease is not None and lease.why is None else None

    def _leave(self, key: str) -> Waiter:
        head = self._queue.head
        waiter = self._queue.leave(key)
        self._grew = self._grew or waiter is head  # what was reserved for it is not any more
        return waiter

    def _restart_idle_clock(self, lease: Lease) -> None:
        lease.idle_since = self._now
        self._deadlines.set(lease, lease.deadline)

    def _reserved(self, head: Waiter | None, now: float) -> frozenset[int]:
        """The devices kept for the waiter at the head of the queue, once its patience is over."""
        if head is None:
            return _NONE
        overdue = now - head.since - self._patience
        return self._pool.reserved(head.request, overdue) if overdue >= 0 else _NONE

    def _outlook(self, asked: int, reserved: Collection[int]) -> tuple[float | None, float, Free]:
        """Estimated wait, when to ask again, and what is free, for one who asks for so many slots."""
        wait = self._held.wait(self._queue.slots + asked, self._pool.ready_slots)
        return wait, retry_after(wait), self._pool.free(reserved)
