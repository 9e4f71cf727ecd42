# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Slots for calls that come without a lease.

The calls of one tenant to one model share a slot of each device that they run on, so that many of them can be put
together into one batch and none of them waits for the scheduler. A slot that was just used stays for a moment, since
the next call is often near; but nobody ever waits for an idle one: whoever asks the scheduler for anything ends those
first. While somebody waits in the queue, calls do not share but wait behind: a slot that is always in use would never
end.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from remotegpu import errors
from remotegpu_server import scheduler

from .leases import Held, Leases

# How long an idle slot stays. Seconds.
_LINGER = 0.5
# Longer than anybody waits. Seconds.
_LONG = 86_400.0
# After it was refused, another device is not asked for again for so long. Seconds.
_REFUSAL_HOLDS = 0.05


@dataclass(slots=True, eq=False)
class Slot:
    """A slot of one device. `calls`: those that it is in use for."""

    held: Held
    key: tuple[str, str]
    calls: int = 0
    # It serves one call only, and ends with it.
    single: bool = False

    @property
    def device(self) -> int:
        """The device's index."""
        return self.held.devices[0]


@dataclass(slots=True)
class _Asking:
    """The scheduler is asked for the first slot of a key, for so many callers. Each of them has its own patience."""

    task: asyncio.Task[Slot]
    callers: int = 0

    def leave(self) -> bool:
        """A caller has its answer, or gives up. Whether that ends the asking: nobody is left for whom it has a place in
        the queue."""
        self.callers -= 1
        return not self.callers and self.task.cancel()


class SharedSlots:
    """All such slots of a daemon. `devices`: how many there are; `limit`: calls that may share one slot."""

    def __init__(self, leases: Leases, devices: int, limit: int) -> None:
        self._leases = leases
        self._devices = devices
        self._limit = limit
        # By tenant and model; at most one for each device.
        self._slots: dict[tuple[str, str], list[Slot]] = {}
        # Under way, so that calls that come together ask once.
        self._asking: dict[tuple[str, str], _Asking] = {}
        self._idle: set[Slot] = set()
        self._refused_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        leases.make_room = self.end_idle

    async def take(self, tenant: str, model: str, patience: float) -> Slot:
        """A slot for one call, after at most `patience` seconds in the queue; `give_back` follows.

        Raises Busy, Impossible, or QueueFull when too many calls share."""
        key, until = (tenant, model), self._loop.time() + patience
        while True:
            if self._leases.someone_waits and key not in self._asking:
                held = await self._ask(key, until - self._loop.time())
                return Slot(held, key, calls=1, single=True)
            slot = self._least_used(key)
            if slot is None:
                slot = await self._first(key, until)
                if not self._leases.is_active(slot.held):
                    self.give_back(slot)
                    continue  # its device has failed
                if slot.calls > self._limit:
                    self.give_back(slot)
                    raise self._full(slot)
                return slot
            if slot.calls:
                slot = await self._another(key) or slot
            if slot.calls >= self._limit:
                raise self._full(slot)
            slot.calls += 1
            self._idle.discard(slot)
            return slot

    def take_now(self, tenant: str, model: str) -> Slot | None:
        """As `take`, if nothing has to be waited for, nor asked of the scheduler; None otherwise."""
        key = tenant, model
        if self._leases.someone_waits:
            return None
        slot = self._least_used(key)
        if slot is None or slot.calls >= self._limit or (slot.calls and self._may_spread(key)):
            return None
        slot.calls += 1
        self._idle.discard(slot)
        return slot

    def _may_spread(self, key: tuple[str, str]) -> bool:
        """Whether another device may have a slot for the key."""
        return len(self._slots[key]) < self._devices and self._loop.time() >= self._refused_until

    def _full(self, slot: Slot) -> errors.QueueFull:
        why = f"its queue is full: {self._limit} calls of this model wait for device {slot.device}"
        return errors.QueueFull(why=why)

    def give_back(self, slot: Slot) -> None:
        """The call is over, and its worker has nothing more to do with it."""
        slot.calls -= 1
        if slot.calls:
            return
        if slot.single or self._leases.someone_waits:
            self._end(slot)
            return
        self._idle.add(slot)
        if self._timer is None:
            self._timer = self._loop.call_later(_LINGER, self._sweep)

    def end_idle(self) -> None:
        """Ends the slots that are not in use."""
        for slot in list(self._idle):
            self._end(slot)

    def _least_used(self, key: tuple[str, str]) -> Slot | None:
        slots = self._slots.get(key)
        if not slots:
            return None
        slot = slots[0] if len(slots) == 1 else min(slots, key=_calls)
        if self._leases.is_active(slot.held):
            return slot
        self._forget(slot)  # its device has failed
        return self._least_used(key)

    async def _first(self, key: tuple[str, str], until: float) -> Slot:
        """A slot, with the call counted."""
        asking, came = self._asking.get(key), self._loop.time()
        if asking is None:
            asking = self._asking[key] = _Asking(self._loop.create_task(self._add(key)))
        asking.callers += 1
        try:
            async with asyncio.timeout_at(until):
                # Shielded: one caller that gives up must not take the answer from the others.
                return await asyncio.shield(asking.task)
        except TimeoutError:
            self._give_up(asking)
        except asyncio.CancelledError:
            self._give_up(asking)
            raise
        finally:
            if asking.leave():
                del self._asking[key]
        try:
            return Slot(await self._ask(key, 0.0), key, calls=1, single=True)  # at the last moment; or how busy all are
        except errors.Busy as busy:
            busy.waited = self._loop.time() - came
            raise

    def _give_up(self, asking: _Asking) -> None:
        """A caller does not take the slot, which may have come at the same moment."""
        if asking.task.done() and not asking.task.cancelled() and asking.task.exception() is None:
            self.give_back(asking.task.result())

    async def _add(self, key: tuple[str, str]) -> Slot:
        asking = self._asking[key]
        try:
            held = await self._ask(key, _LONG)
        finally:
            if self._asking.get(key) is asking:
                del self._asking[key]
        # In use by all who have waited for it, before they wake: if it were idle until then, whoever asks for a slot of
        # another key would end it, and two of them each other's for ever.
        slot = Slot(held, key, calls=asking.callers + 1)
        self._slots.setdefault(key, []).append(slot)
        self.give_back(slot)  # perhaps all have given up
        return slot

    async def _another(self, key: tuple[str, str]) -> Slot | None:
        """A slot of a device that the key does not use yet, if one is free now."""
        if not self._may_spread(key):
            return None
        slots = self._slots[key]
        try:
            held = await self._ask(key, 0.0)
        except (errors.Busy, errors.LeaseError):
            self._refused_until = self._loop.time() + _REFUSAL_HOLDS
            return None
        slot = Slot(held, key)
        if any(slot.device == other.device for other in slots):
            self._leases.finish(held, clean=True)
            self._refused_until = self._loop.time() + _REFUSAL_HOLDS
            return None
        slots.append(slot)
        return slot

    async def _ask(self, key: tuple[str, str], patience: float) -> Held:
        # It ends with its calls, whose deadlines bound it, so no clock of its own is kept.
        tenant, model = key
        request = scheduler.Request(tenant, idle_ttl=math.inf, model=model, one_call=True)
        return await self._leases.alloc(request, patience)

    def _sweep(self) -> None:
        self._timer = None
        self.end_idle()

    def _end(self, slot: Slot) -> None:
        self._forget(slot)
        if self._leases.is_active(slot.held):
            self._leases.finish(slot.held, clean=True)

    def _forget(self, slot: Slot) -> None:
        self._idle.discard(slot)
        slots = self._slots.get(slot.key)
        if slots is not None and slot in slots:
            slots.remove(slot)
            if not slots:
                del self._slots[slot.key]


def _calls(slot: Slot) -> int:
    return slot.calls
