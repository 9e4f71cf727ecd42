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
From then on devices are reserved for it (`Pool.reserve`), and the others share what is not. This holds for
gangs, for exclusive requests, and for those that declare much memory; no other request can be passed at all.
A waiter whose tenant has used up its quota is passed as if it were not there.

A lease that has ended keeps its places until each worker has confirmed that the memory is free.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .answers import ENDINGS, Answers, counter
from .deadlines import Deadlines
from .events import (
    Alloc,
    CallEnded,
    CallStarted,
    Cancel,
    Configure,
    Dealloc,
    DeviceFailed,
    DeviceLost,
    DeviceReady,
    Effect,
    Event,
    Explanation,
    Finish,
    Grant,
    Load,
    Reason,
    Refuse,
    Release,
    Released,
    Renew,
    Tick,
    Warm,
)
from .leases import Lease, Leases
from .model import Counters, Device, Ended, LeaseView, Quota, Request, Snapshot, Why
from .outlook import HeldTimes
from .policies import POLICIES, Policy, RoundRobin
from .pool import Pool, PooledDevice
from .queue import Queue, Waiter
from .tenants import LEAST_CHARGED, Tenants
from .turns import Turns


class Scheduler:
    """Who has which device, who waits, and until when.

    An event costs about the logarithm of the number of devices, leases and waiters; `snapshot`, `Configure` and a
    device's failure go through all of them.

    - `policy`: which of the fitting devices is given, and whose turn it is; round-robin if `None`.
    - `queue_limit`: how many requests may wait.
    - `gang_patience`: seconds for which the head of the queue lets others pass.
    - `remembered`: how many ended leases `lookup` can still tell about.
    - `quotas`: by tenant; `default_quota` for those who are not named.

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
        quotas: Mapping[str, Quota] | None = None,
        default_quota: Quota | None = None,
    ) -> None:
        self._pool = Pool(devices)
        self._leases = Leases(remembered)
        self._tenants = Tenants(quotas or {}, default_quota or Quota())
        self._turns = Turns(self._pool, self._tenants, Queue(queue_limit), gang_patience)
        self._held = HeldTimes()
        self._answers = Answers(self._pool, self._tenants, self._held)
        self._deadlines: Deadlines[Lease | Waiter] = Deadlines()
        self._counts = dict.fromkeys(Counters.__slots__, 0)
        self._now = -math.inf
        self._grew = False  # capacity came free, or the order changed: somebody who waits may fit now
        self._effects: list[Effect] = []
        self._follow(policy or RoundRobin())
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
            DeviceFailed: self._on_device_failed,
            Load: self._on_load,
            Warm: self._on_warm,
            Configure: self._on_configure,
            Tick: lambda _: None,  # what is due has happened before any event
        }

    def __repr__(self) -> str:
        ready, total = sum(device.ready for device in self._pool), len(self._pool)
        return (
            f"<Scheduler {self._policy.name}: {ready} of {total} devices ready, "
            f"{len(self._leases)} leases, {len(self._turns.queue)} waiting>"
        )

    # ---- the face -------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time `now` and answer what is to be done, in order. `now` must never go back.

        Raises `KeyError` for a device that was never declared, and `ValueError` when a call of an active
        lease ends that never started, or for settings that make no sense: all are faults of the caller. What was
        due by then has happened all the same, and the next event answers it.
        """
        self._now = now
        if self._deadlines.due(now):
            self._expire()
        self._turns.keep(now)  # the head's patience may have run out by now
        self._handlers[type(event)](event)
        if self._grew:
            self._serve()
        effects, self._effects = self._effects, []
        return effects

    def next_wakeup(self) -> float | None:
        """When the next `Tick` is due; `None` if nothing is to end by itself.

        Patience that runs out needs no tick: reserving devices gives nothing to anybody.
        """
        return self._deadlines.next()

    def lookup(self, key: str) -> LeaseView | Ended | None:
        """The lease as of the last event; `None` if it was never granted or ended too long ago."""
        return self._leases.lookup(key, self._now)

    def explain(self, request: Request) -> Explanation:
        """What an `Alloc` that does not wait would be answered now, and why. Changes nothing."""
        return self._answers.explanation(request, self._choice, self._turns.queue)

    def snapshot(self, now: float) -> Snapshot:
        """Everything at time `now`, which must not go back. Takes time in proportion to devices, leases and waiters."""
        self._turns.keep(now)
        reserved = self._pool.reserved
        return Snapshot(
            now=now,
            policy=self._policy.name,
            slots=self._pool.most_slots,
            devices=tuple(device.view(device.position in reserved) for device in self._pool),
            leases=tuple(lease.view(now) for lease in self._leases),
            queue=tuple(waiter.view(place, now) for place, waiter in enumerate(self._turns.queue, 1)),
            queue_limit=self._turns.queue.limit,
            free=self._pool.free(),
            mean_held=self._held.mean,
            counters=Counters(**self._counts),
            tenants=self._tenants.usage(),
        )

    # ---- requests -------------------------------------------------------------------------------------

    def _on_alloc(self, event: Alloc) -> None:
        key, request = event.key, event.request
        if key in self._turns.queue:
            return
        known = self.lookup(key)
        if isinstance(known, LeaseView):
            self._effects.append(Grant(key, known.devices))
            return
        self._counts["requested"] += 1
        never = known or self._answers.never(request)
        if never:
            self._refuse(key, never)
        elif self._place(key, request):
            self._grew = self._turns.granted(request)
        else:
            self._wait_or_refuse(event)

    def _wait_or_refuse(self, event: Alloc) -> None:
        key, request = event.key, event.request
        if event.wait_until is None:
            self._refuse(key, self._answers.busy(request, self._turns.queue))
        elif len(self._turns.queue) >= self._turns.queue.limit:
            self._refuse(key, self._answers.full(request, self._turns.queue))
        elif event.wait_until <= self._now:
            self._refuse(key, self._answers.timed_out(request, 0.0, self._turns.queue))
        else:
            waiter, first = self._turns.join(event, self._now)
            self._grew = self._grew or first
            self._deadlines.set(waiter, event.wait_until)

    def _on_cancel(self, event: Cancel) -> None:
        self._give_up(event.key, "cancelled")

    def _on_dealloc(self, event: Dealloc) -> None:
        self._give_up(event.key, "dealloc")

    def _on_finish(self, event: Finish) -> None:
        if lease := self._leases.active(event.key):
            self._deadlines.drop(lease)
            lease.why, lease.outstanding = "dealloc", len(lease.devices)
            self._counts[ENDINGS[lease.why]] += 1
            for index in lease.devices:
                self._confirm(lease, self._pool[index])

    def _give_up(self, key: str, why: Why) -> None:
        if key in self._turns.queue:
            self._deadlines.drop(self._leave(key))
            self._counts["abandoned"] += 1
        elif lease := self._leases.active(key):
            self._end(lease, why)

    # ---- calls ----------------------------------------------------------------------------------------

    def _on_renew(self, event: Renew) -> None:
        if lease := self._leases.active(event.key):
            self._restart_idle_clock(lease)

    def _on_call_started(self, event: CallStarted) -> None:
        if lease := self._leases.active(event.key):
            lease.calls_running += 1
            lease.calls_made += 1
            self._deadlines.set(lease, lease.deadline)

    def _on_call_ended(self, event: CallEnded) -> None:
        if lease := self._leases.active(event.key):
            if not lease.calls_running:
                raise ValueError(f"a call of lease {event.key!r} ended, but none is running")
            lease.calls_running -= 1
            self._restart_idle_clock(lease)

    # ---- devices, settings and time -------------------------------------------------------------------

    def _on_released(self, event: Released) -> None:
        device = self._pool[event.device]
        if lease := device.releasing.pop(event.key, None):
            self._confirm(lease, device)

    def _on_device_lost(self, event: DeviceLost) -> None:
        device = self._pool[event.device]
        if device.ready:
            self._pool.lose(device)
            self._counts["lost"] += 1
            for lease in device.releasing.values():
                self._confirm(lease, device)
            device.releasing.clear()
            self._grew = True  # what was kept there is kept elsewhere

    def _on_device_failed(self, event: DeviceFailed) -> None:
        self._on_device_lost(DeviceLost(event.device))
        struck = [lease for lease in self._leases if lease.why is None and event.device in lease.devices]
        for lease in struck:
            lease.failed = event.device
            self._end(lease, "device")

    def _on_device_ready(self, event: DeviceReady) -> None:
        device = self._pool[event.device]
        if not device.ready:
            self._pool.regain(device)
            self._turns.came_free(device)
            self._grew = True

    def _on_load(self, event: Load) -> None:
        for index, utilization in event.utilization.items():
            self._pool.set_load(self._pool[index], utilization)

    def _on_warm(self, event: Warm) -> None:
        device = self._pool[event.device]
        if device.ready:
            self._pool.set_warm(device, event.model, event.warm)

    def _on_configure(self, event: Configure) -> None:
        policy = None if event.policy is None else POLICIES.get(event.policy)
        sizes = (event.slots is None or event.slots >= 1) and (event.queue_limit is None or event.queue_limit >= 0)
        if not sizes or (event.policy is not None and policy is None):
            raise ValueError(f"slots >= 1, queue_limit >= 0 and a policy of {list(POLICIES)}, not {event}")
        if policy is not None and policy.name != self._policy.name:
            self._follow(policy())
        if event.slots is not None:
            self._pool.set_slots(event.slots)
            for device in self._pool:
                self._turns.came_free(device)
        if event.queue_limit is not None:
            self._turns.queue.limit = event.queue_limit
        self._grew = True

    def _follow(self, policy: Policy) -> None:
        self._policy = policy
        self._pool.rank(policy.ranked)
        self._turns.reorder(policy.per_tenant)

    # ---- decisions ------------------------------------------------------------------------------------

    def _expire(self) -> None:
        """What is due. Those who have waited in vain are told how things stand once the others are served."""
        timed_out: list[Waiter] = []
        while (item := self._deadlines.pop(self._now)) is not None:
            if isinstance(item, Lease):
                self._end(item, item.cause)
            else:
                timed_out.append(self._leave(item.key))
        self._serve()
        for waiter in timed_out:
            waited = self._now - waiter.since
            self._refuse(waiter.key, self._answers.timed_out(waiter.request, waited, self._turns.queue))

    def _serve(self) -> None:
        """Grant whatever fits, in the order of the queue."""
        if self._grew:
            self._grew = False
            while (waiter := self._turns.next(self._now)) is not None:
                placed = self._place(waiter.key, waiter.request)
                assert placed, f"{waiter.request} fits by the indexes, but finds no place"
                self._turns.leave(waiter.key)
                self._deadlines.drop(waiter)
        self._turns.keep(self._now)

    def _choice(self, request: Request) -> tuple[int, ...] | None:
        """The positions that the request would get, `None` if it does not fit on what is not reserved."""
        return self._policy.choose(self._pool, request) if self._turns.fits(request) else None

    def _place(self, key: str, request: Request) -> bool:
        """Grant the request if it fits on what is not reserved."""
        positions = self._choice(request)
        if positions is None:
            return False
        self._policy.given(positions)
        members = [self._pool.devices[at] for at in positions]
        for member in members:
            self._pool.take(member, request)
        devices = tuple(member.device.index for member in members)
        lease = Lease(key, request, devices, granted=self._now, idle_since=self._now)
        lease.slots, lease.expected = self._pool.slots_asked(request), max(self._held.mean or 0.0, LEAST_CHARGED)
        tenant = self._tenants[request.tenant]
        self._tenants.take(tenant, request, lease.slots, lease.expected)
        self._turns.queue.resort(tenant)
        self._leases.add(lease)
        self._deadlines.set(lease, lease.deadline)
        self._counts["granted"] += 1
        self._effects.append(Grant(key, devices))
        return True

    def _refuse(self, key: str, reason: Reason) -> None:
        self._counts[counter(reason)] += 1
        self._effects.append(Refuse(key, reason))

    def _end(self, lease: Lease, why: Why) -> None:
        """The lease is over; its places follow when the workers confirm, those of lost devices at once."""
        self._deadlines.drop(lease)
        lease.why, lease.outstanding = why, len(lease.devices)
        self._counts[ENDINGS[why]] += 1
        devices = [self._pool[index] for index in lease.devices]
        ready = tuple(device.device.index for device in devices if device.ready)
        self._effects.append(Release(lease.key, ready, why))
        for device in devices:
            if device.ready:
                device.releasing[lease.key] = lease
            else:
                self._confirm(lease, device)

    def _confirm(self, lease: Lease, device: PooledDevice) -> None:
        self._pool.give(device, lease.request)
        self._turns.came_free(device)
        self._grew = True
        lease.outstanding -= 1
        if lease.outstanding or lease.why is None:
            return
        self._leases.remove(lease, lease.why)
        held = self._now - lease.granted
        self._held.observe(held)
        tenant = self._tenants[lease.request.tenant]
        self._tenants.give(tenant, lease.request, lease.slots, max(held, LEAST_CHARGED) - lease.expected)
        self._turns.queue.resort(tenant)

    # ---- small things ---------------------------------------------------------------------------------

    def _leave(self, key: str) -> Waiter:
        waiter, first = self._turns.leave(key)
        self._grew = self._grew or first  # what was reserved for it is not any more
        return waiter

    def _restart_idle_clock(self, lease: Lease) -> None:
        lease.idle_since = self._now
        self._deadlines.set(lease, lease.deadline)
