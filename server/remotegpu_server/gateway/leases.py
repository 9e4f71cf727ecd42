# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Performs what the scheduler decides: wakes waiters, frees memory on workers, keeps its clock.

The only place that calls `Scheduler.handle`. A lease's key is its secret: 128 random bits, of which the first eight
characters are public (`remotegpu top` shows them). Workers know leases by small numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from remotegpu import errors
from remotegpu_server import scheduler
from remotegpu_server.supervisor.worker import DeviceWorker

from .bounds import MOST_SLOTS, MOST_WAITING
from .refusals import ended, refusal

# Characters of a key that are shown to everybody.
PUBLIC_ID = 8
# Ids of requests that may be repeated.
_REQUESTS_REMEMBERED = 8192


@dataclass(slots=True)
class Held:
    """A granted lease as the gateway knows it."""

    key: str
    number: int
    request: scheduler.Request
    devices: tuple[int, ...] = ()
    # Fencing token: higher than that of every lease granted before.
    fence: int = 0
    # Under way now, from the header's arrival to the reply.
    calls: int = 0
    # Devices on which a worker may hold memory for it, or still runs a call of it.
    touched: set[int] = field(default_factory=set)
    # Workers keep the model that it names loaded until they are told to drop it.
    pinned: bool = False


@dataclass(slots=True)
class _Waiting:
    """A request that is not answered yet, and how many callers wait for the answer: more than one when a caller repeats
    it with the same id before its first connection is known to be dead."""

    held: Held
    answer: asyncio.Future[None]
    callers: int = 0
    # One of them has the lease.
    taken: bool = False


class Leases:
    """The scheduler with its clock and its effects. Times in seconds, on the event loop's clock."""

    def __init__(self, pure: scheduler.Scheduler, workers: Sequence[DeviceWorker]) -> None:
        self.scheduler = pure
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        # Fencing tokens grow across restarts too, unless the clock is set back by more than the server was down.
        self._fences = itertools.count(time.time_ns())
        self._held: dict[str, Held] = {}
        self._by_number: dict[int, Held] = {}
        self._waiting: dict[str, _Waiting] = {}
        # Keys by tenant and request id, the oldest first.
        self._requests: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._failures: dict[int, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        # Gives back what is held for nobody in particular, before anybody is answered.
        self.make_room: Callable[[], None] = lambda: None
        # The number of the file that a model's name stands for; 0: there is none.
        self.model_number: Callable[[str], int] = lambda name: 0

    @property
    def someone_waits(self) -> bool:
        """Whether a request has no answer yet."""
        return bool(self._waiting)

    def is_active(self, held: Held) -> bool:
        """Whether the lease goes on, for one without a limit of its own."""
        return self._held.get(held.key) is held

    # What callers ask for.

    async def alloc(
        self, request: scheduler.Request, patience: float, request_id: str = "", *, pinned: bool = False
    ) -> Held:
        """A lease, after at most `patience` seconds in the queue (0: answered at once). Cancelling leaves the queue.
        `pinned`: the model that it names stays loaded while it lives.

        The same `request_id` of the same tenant is answered with the same lease, while that is not over; a repetition
        waits as long as the first one. Raises Busy, Impossible, InvalidInput for an id that was used for something
        else, or for a repeated id LeaseExpired, DeviceFailed or LeaseUnknown."""
        name = request.tenant, request_id
        key = self._requests.get(name) if request_id else None
        held = None if key is None else self._held.get(key)
        if held is not None and held.request != request:
            limit = "an id of its own for each request"
            raise errors.InvalidInput(
                field="request_id", limit=limit, given=f"{request_id}, which asked for other things"
            )
        if key is not None and key not in self._waiting:
            return self._active(key, request.tenant)
        if key is None:
            key = self._ask(request, self._loop.time() + patience if patience > 0 else None)
        waiting = self._waiting[key]
        waiting.callers += 1
        if request_id and not waiting.answer.done():
            self._remember(name, key)
        try:
            # Shielded: one caller that gives up must not take the answer from another.
            await (waiting.answer if waiting.answer.done() else asyncio.shield(waiting.answer))
            waiting.taken = True
        except BaseException:
            if waiting.callers == 1 and not waiting.taken:
                self._requests.pop(name, None)
                self._forget(waiting.held)
                self._handle(scheduler.Cancel(key))
            raise
        finally:
            waiting.callers -= 1
            if not waiting.callers:
                del self._waiting[key]
        if request_id:
            self._remember(name, key)
        if pinned:
            self._pin(waiting.held, waiting.held.devices)
        return waiting.held

    def _pin(self, held: Held, devices: Sequence[int]) -> None:
        number = self.model_number(held.request.model) if held.request.model else 0
        if not number or not isinstance(self.scheduler.lookup(held.key), scheduler.LeaseView):
            return
        for device in devices:
            life = self._workers[device].life_now
            if life is not None:  # `device_ready` does it otherwise
                life.pin(held.number, number)
                held.touched.add(device)
            held.pinned = True

    def _ask(self, request: scheduler.Request, wait_until: float | None) -> str:
        self.make_room()
        held = Held(secrets.token_hex(16), next(self._numbers), request)
        self._waiting[held.key] = _Waiting(held, self._loop.create_future())
        self._held[held.key] = self._by_number[held.number] = held
        self._handle(scheduler.Alloc(held.key, request, wait_until))
        return held.key

    def _remember(self, name: tuple[str, str], key: str) -> None:
        self._requests[name] = key
        if len(self._requests) > _REQUESTS_REMEMBERED:
            self._requests.popitem(last=False)

    def dealloc(self, key: str, tenant: str) -> bool:
        """Ends a lease; False if it had ended before. Never waits: workers free its memory when they come to it.

        The public id ends anybody's lease: it is what an operator has. Raises LeaseUnknown; InvalidInput for a public
        id that two leases share."""
        if len(key) == PUBLIC_ID:
            key = self._by_public_id(key)
        else:
            self._check_owner(key, tenant)
        found = self.scheduler.lookup(key)
        if found is None:
            raise errors.LeaseUnknown(lease=key)
        self._handle(scheduler.Dealloc(key))
        return not isinstance(found, scheduler.Ended)

    def _by_public_id(self, public: str) -> str:
        keys = [key for key in self._held if key.startswith(public)]
        if len(keys) != 1:
            if keys:
                raise errors.InvalidInput(field="lease", limit="an id of one lease", given=f"{public}, which two have")
            raise errors.LeaseUnknown(lease=public)
        return keys[0]

    def renew(self, key: str, tenant: str) -> Held:
        """Restarts the idle clock. Raises LeaseUnknown, LeaseExpired or DeviceFailed."""
        self._check_owner(key, tenant)
        self._handle(scheduler.Renew(key))
        return self._active(key, tenant)

    def explain(self, request: scheduler.Request) -> scheduler.Explanation:
        """What an alloc would be answered now."""
        self.make_room()
        self._handle(scheduler.Tick())  # what is due by now must not count
        return self.scheduler.explain(request)

    def configure(self, change: scheduler.Configure) -> scheduler.Snapshot:
        """Changes settings and tells what holds then. Raises InvalidInput."""
        policies = scheduler.POLICIES
        if change.policy is not None and change.policy not in policies:
            raise errors.InvalidInput(field="policy", limit=", ".join(policies), given=repr(change.policy))
        if change.slots is not None and not 1 <= change.slots <= MOST_SLOTS:
            raise errors.InvalidInput(field="slots", limit=f"1 to {MOST_SLOTS}", given=str(change.slots))
        if change.queue_limit is not None and change.queue_limit > MOST_WAITING:
            raise errors.InvalidInput(field="queue", limit=f"0 to {MOST_WAITING}", given=str(change.queue_limit))
        self.make_room()
        self._handle(change)
        return self.snapshot()

    # The course of calls.

    def finish(self, held: Held, *, clean: bool) -> None:
        """Ends a lease whose last call is over. `clean`: that call's worker has freed all that the lease held, and no
        other device was touched; then, if nothing else of the lease is under way, the capacity is free at once."""
        if (
            clean
            and not held.calls
            and not held.pinned
            and isinstance(self.scheduler.lookup(held.key), scheduler.LeaseView)
        ):
            self._forget(held)
            self._handle(scheduler.Finish(held.key))
        else:
            self._handle(scheduler.Dealloc(held.key))

    def begin_call(self, key: str, tenant: str) -> Held:
        """Marks a call as running under a lease, which stops its idle clock; `end_call` must follow.

        Raises LeaseUnknown, LeaseExpired or DeviceFailed."""
        self._check_owner(key, tenant)
        self._handle(scheduler.CallStarted(key))
        held = self._active(key, tenant)
        held.calls += 1
        return held

    def end_call(self, held: Held) -> None:
        """The call is over; its lease may have ended meanwhile."""
        held.calls -= 1
        self._handle(scheduler.CallEnded(held.key))

    def touch(self, held: Held, device: int) -> None:
        """A program of the lease is about to be submitted there: from now on its end is confirmed by that worker.

        Raises LeaseExpired or DeviceFailed if it ended while the call waited for a slab or its body: nobody would free
        what it kept."""
        self._active(held.key, held.request.tenant).touched.add(device)

    def _check_owner(self, key: str, tenant: str) -> None:
        held = self._held.get(key)
        if held is not None and held.request.tenant != tenant:
            raise errors.LeaseUnknown(lease=key)  # as if it were not there: keys are nobody else's business

    def _active(self, key: str, tenant: str) -> Held:
        self._check_owner(key, tenant)
        found = self.scheduler.lookup(key)
        if isinstance(found, scheduler.Ended):
            raise ended(key, found, self._failures)
        held = self._held.get(key)
        if held is None or found is None:
            raise errors.LeaseUnknown(lease=key)
        return held

    # What becomes of devices.

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
        for held in [held for held in self._held.values() if held.pinned and device in held.devices]:
            self._pin(held, (device,))

    def device_failed(self, device: int, why: str) -> None:
        """The device is unhealthy: its leases are over."""
        self._failures[device] = why
        self._handle(scheduler.DeviceFailed(device))

    def loads(self, utilization: Mapping[int, float]) -> None:
        """What devices do by measurement, 0 to 1, by index."""
        self._handle(scheduler.Load(utilization))

    def model_warm(self, device: int, model: str) -> None:
        """The model has run there."""
        self._handle(scheduler.Warm(device, model))

    def released(self, number: int, device: int) -> None:
        """A worker holds nothing of the lease any more."""
        held = self._by_number.get(number)
        if held is not None:
            self._confirm(held, device)

    def refuse_waiters(self, error: errors.Error) -> None:
        """Answers everybody in the queue with that error: the server is about to stop."""
        for key in list(self._waiting):
            self._answer(key, error)

    # What is told.

    def snapshot(self) -> scheduler.Snapshot:
        """Everything the scheduler knows, now."""
        self.make_room()
        return self.scheduler.snapshot(self._loop.time())

    def ttl_left(self, held: Held) -> float | None:
        """Seconds until it ends if nothing more happens; None if it would not."""
        found = self.scheduler.lookup(held.key)
        return found.ttl_left if isinstance(found, scheduler.LeaseView) else 0.0

    # Effects and clock.

    def _handle(self, event: scheduler.Event) -> None:
        effects = self.scheduler.handle(event, self._loop.time())
        for effect in effects:
            match effect:
                case scheduler.Grant(key=key, devices=devices):
                    self._answer(key, devices)
                case scheduler.Refuse(key=key, reason=reason):
                    self._answer(key, refusal(reason, key))
                case scheduler.Release(key=key, devices=devices):
                    self._release(key, devices)
        self._set_timer()

    def _answer(self, key: str, answer: tuple[int, ...] | errors.Error) -> None:
        waiting = self._waiting.get(key)
        if waiting is None or waiting.answer.done():
            return  # the caller has gone, and its Cancel is on the way
        if isinstance(answer, errors.Error):
            waiting.answer.set_exception(answer)
        else:
            waiting.held.devices, waiting.held.fence = answer, next(self._fences)
            waiting.answer.set_result(None)

    def _release(self, key: str, devices: Sequence[int]) -> None:
        held = self._held.get(key)
        for device in devices:
            if held is not None and device in held.touched:
                # Behind the calls of the lease that the worker has already: nothing of it runs after the answer.
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
