# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Performs what the scheduler decides: wakes waiters, frees memory on workers, keeps its clock.

The only place that calls `Scheduler.handle`. A lease's key is its secret: 128 random bits. Workers know leases by small
numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from remotegpu import errors
from remotegpu_server import scheduler
from remotegpu_server.supervisor.worker import DeviceWorker

# There is no identity yet, so everybody is one tenant.
TENANT = "default"
# Well below the number of calls that the server takes at once, so that those who wait do not lock out those who hold.
QUEUE_LIMIT = 512


@dataclass(slots=True)
class Held:
    """A granted lease as the gateway knows it."""

    key: str
    number: int
    request: scheduler.Request
    devices: tuple[int, ...] = ()
    # Under way now, from the header's arrival to the reply.
    calls: int = 0
    # Devices on which a worker may hold memory for it, or still runs a call of it.
    touched: set[int] = field(default_factory=set)


def refusal(reason: scheduler.Reason) -> errors.Error:
    """The error that tells a caller why the scheduler refused."""
    match reason:
        case scheduler.Impossible(what=what, asked=asked, limit=limit):
            return errors.Impossible(what=what, asked=int(asked), limit=int(limit))
        case scheduler.Ended(why=why):
            return errors.LeaseExpired(lease="", why=why)
    queued = reason.limit if isinstance(reason, scheduler.QueueFull) else reason.queue_length
    return errors.Busy(
        retry_after=reason.retry_after,
        queue_length=queued,
        free_slots=reason.free.slots,
        free_gpus=reason.free.gpus,
        waited=reason.waited if isinstance(reason, scheduler.TimedOut) else 0.0,
        estimated_wait=reason.estimated_wait,
    )


class Leases:
    """The scheduler with its clock and its effects. Times in seconds, on the event loop's clock."""

    def __init__(self, devices: Sequence[scheduler.Device], workers: Sequence[DeviceWorker]) -> None:
        self.scheduler = scheduler.Scheduler(devices, queue_limit=QUEUE_LIMIT)
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._held: dict[str, Held] = {}
        self._by_number: dict[int, Held] = {}
        self._waiters: dict[str, asyncio.Future[tuple[int, ...]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def alloc(self, request: scheduler.Request, patience: float) -> Held:
        """A lease, after at most `patience` seconds in the queue (0: answered at once). Cancelling leaves the queue.

        Raises Busy or Impossible."""
        held = Held(secrets.token_hex(16), next(self._numbers), request)
        wait_until = self._loop.time() + patience if patience > 0 else None
        future = self._waiters[held.key] = self._loop.create_future()
        self._held[held.key] = self._by_number[held.number] = held
        try:
            self._handle(scheduler.Alloc(held.key, request, wait_until))
            held.devices = future.result() if future.done() else await future
        except BaseException:
            self._forget(held)
            self._handle(scheduler.Cancel(held.key))
            raise
        finally:
            del self._waiters[held.key]
        return held

    def dealloc(self, key: str) -> bool:
        """Ends a lease; False if it had ended before. Never waits: workers free its memory when they come to it.

        Raises LeaseUnknown."""
        found = self.scheduler.lookup(key)
        if found is None:
            raise errors.LeaseUnknown(lease=key)
        self._handle(scheduler.Dealloc(key))
        return not isinstance(found, scheduler.Ended)

    def finish(self, held: Held, *, clean: bool) -> None:
        """Ends a lease whose last call is over. `clean`: that call's worker has freed all that the lease held, and no
        other device was touched; then, if nothing else of the lease is under way, the capacity is free at once."""
        if clean and not held.calls and isinstance(self.scheduler.lookup(held.key), scheduler.LeaseView):
            self._forget(held)
            self._handle(scheduler.Finish(held.key))
        else:
            self._handle(scheduler.Dealloc(held.key))

    def begin_call(self, key: str) -> Held:
        """Marks a call as running under a lease, which stops its idle clock; `end_call` must follow.

        Raises LeaseUnknown or LeaseExpired."""
        self._handle(scheduler.CallStarted(key))
        held = self._active(key)
        held.calls += 1
        return held

    def end_call(self, held: Held) -> None:
        """The call is over; its lease may have ended meanwhile."""
        held.calls -= 1
        self._handle(scheduler.CallEnded(held.key))

    def touch(self, held: Held, device: int) -> None:
        """A program of the lease is about to be submitted there: from now on its end is confirmed by that worker.

        Raises LeaseExpired if it ended while the call waited for a slab or its body: nobody would free what it kept."""
        self._active(held.key).touched.add(device)

    def _active(self, key: str) -> Held:
        found = self.scheduler.lookup(key)
        if isinstance(found, scheduler.Ended):
            raise errors.LeaseExpired(lease=key, why=found.why)
        held = self._held.get(key)
        if held is None:
            raise errors.LeaseUnknown(lease=key)
        return held

    def device_lost(self, device: int) -> None:
        """The worker died, and with it all that leases held there."""
        self._handle(scheduler.DeviceLost(device))
        for held in list(self._held.values()):
            held.touched.discard(device)
            over = not isinstance(self.scheduler.lookup(held.key), scheduler.LeaseView)
            if held.devices and over and not held.touched:
                self._forget(held)

    def device_ready(self, device: int) -> None:
        """The worker is warm again."""
        self._handle(scheduler.DeviceReady(device))

    def released(self, number: int, device: int) -> None:
        """A worker holds nothing of the lease any more."""
        held = self._by_number.get(number)
        if held is not None:
            self._confirm(held, device)

    def refuse_waiters(self, error: errors.Error) -> None:
        """Answers everybody in the queue with that error: the server is about to stop."""
        for key in list(self._waiters):
            self._answer(key, error)

    def snapshot(self) -> scheduler.Snapshot:
        """Everything the scheduler knows, now."""
        return self.scheduler.snapshot(self._loop.time())

    def _handle(self, event: scheduler.Event) -> None:
        effects = self.scheduler.handle(event, self._loop.time())
        for effect in effects:
            match effect:
                case scheduler.Grant(key=key, devices=devices):
                    self._answer(key, devices)
                case scheduler.Refuse(key=key, reason=reason):
                    self._answer(key, refusal(reason))
                case scheduler.Release(key=key, devices=devices):
                    self._release(key, devices)
        self._set_timer()

    def _answer(self, key: str, answer: tuple[int, ...] | errors.Error) -> None:
        future = self._waiters.get(key)
        if future is None or future.done():
            return  # the caller has gone, and its Cancel is on the way
        if isinstance(answer, errors.Error):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _release(self, key: str, devices: Sequence[int]) -> None:
        held = self._held.get(key)
        for device in devices:
            if held is not None and device in held.touched:
                # Behind the calls that the worker has already, so nothing of the lease runs after the answer.
                self._workers[device].drop(held.number)
            else:
                self._handle(scheduler.Released(key, device))
        if held is not None and not held.touched:
            self._forget(held)

    def _confirm(self, held: Held, device: int) -> None:
        held.touched.discard(device)
        if not held.touched:
            self._forget(held)
        self._handle(scheduler.Released(held.key, device))

    def _forget(self, held: Held) -> None:
        self._held.pop(held.key, None)
        self._by_number.pop(held.number, None)

    def _set_timer(self) -> None:
        wakeup = self.scheduler.next_wakeup()
        if wakeup is None or (self._timer is not None and self._timer.when() <= wakeup):
            return  # a timer that fires early only looks, and is set again
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(wakeup, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._handle(scheduler.Tick())
