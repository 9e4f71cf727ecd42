# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""All rules of the scheduler together: random events, and after each step the comparison with a plain model.

Each step must have exactly the effects that the model predicts; the invariants are then checked on what both
agree about.
"""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remotegpu_server.scheduler import (
    Alloc,
    CallEnded,
    CallStarted,
    Cancel,
    Dealloc,
    Device,
    DeviceLost,
    DeviceReady,
    Ended,
    Event,
    Free,
    LeaseView,
    Released,
    Renew,
    Request,
    Scheduler,
    Tick,
)
from tests.fixtures.scheduler_model import Model, plain

# Times are exact in binary, so that things happen at the very same time. Pauses are mostly none: else all is idle.
PAUSES = st.sampled_from([0.0] * 8 + [0.25, 0.25, 0.5, 0.5, 1.0, 3.0, 12.0])
REQUESTS = st.builds(
    Request,
    tenant=st.just("tenant"),
    gpus=st.sampled_from([1, 1, 1, 1, 1, 2, 2, 3]),
    memory=st.sampled_from([0, 0, 0, 2, 3, 4, 6, 8]),
    exclusive=st.sampled_from([False, False, False, True]),
    idle_ttl=st.sampled_from([3.0, 30.0, 30.0, math.inf]),
    hard_ttl=st.sampled_from([None, None, None, 2.0, 20.0]),
)
DEVICES = st.lists(st.tuples(st.integers(5, 8), st.integers(1, 3)), min_size=1, max_size=4)
NUMBERS = st.integers(0, 50)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        devices=DEVICES,
        patience=st.sampled_from([0.0, 0.5, 2.0, math.inf]),
        queue_limit=st.sampled_from([6, 6, 6, 6, 2, 0]),
        remembered=st.sampled_from([100, 3, 0]),
    )
    def begin(self, devices: list[tuple[int, int]], patience: float, queue_limit: int, remembered: int) -> None:
        offered = [Device(i, "GPU", f"uuid-{i}", memory, slots) for i, (memory, slots) in enumerate(devices)]
        self.model = Model(offered, patience, queue_limit, remembered)
        self.scheduler = Scheduler(offered, queue_limit=queue_limit, gang_patience=patience, remembered=remembered)
        self.answers: dict[str, list[str]] = {}  # each new request, and what it was told
        self.now = 0.0

    def send(self, event: Event, pause: float = 0.0) -> None:
        self.now += pause
        effects = self.scheduler.handle(event, self.now)
        expected = self.model.step(event, self.now, [effect.key for effect in effects])
        assert [plain(effect) for effect in effects] == expected
        for effect in effects:
            self.answers[effect.key].append(type(effect).__name__)

    def active(self) -> list[str]:
        return list(self.model.active())

    def waiting(self) -> list[str]:
        return [waiting.key for waiting in self.model.queue]

    # ---- events ----

    def ask(self, request: Request, wait_until: float | None, pause: float) -> None:
        key = f"k{len(self.answers)}"
        self.answers[key] = []
        self.send(Alloc(key, request, wait_until), pause)

    @rule(request=REQUESTS, pause=PAUSES)
    def alloc_nowait(self, request: Request, pause: float) -> None:
        self.ask(request, None, pause)

    @rule(
        requests=st.lists(REQUESTS, min_size=1, max_size=4),
        patience=st.sampled_from([math.inf, math.inf, 4.0, 0.5, 0.0]),
        pause=PAUSES,
    )
    def alloc(self, requests: list[Request], patience: float, pause: float) -> None:
        for request in requests:
            self.ask(request, self.now + pause + patience, pause)

    @rule(number=NUMBERS)
    def alloc_again(self, number: int) -> None:
        """A key that is queued, active or ended; a refused key would be a new request."""
        keys = [*self.active(), *self.waiting(), *(key for key in self.answers if self.model.known(key))]
        if keys:
            key = keys[number % len(keys)]
            before = list(self.answers[key])
            self.send(Alloc(key, Request("tenant"), None))
            self.answers[key] = before  # a duplicate's answer is not a second answer

    @precondition(lambda self: self.active())
    @rule(event=st.sampled_from([Dealloc, Cancel]), number=NUMBERS, confirm=st.booleans(), pause=PAUSES)
    def give_back(self, event: type[Dealloc], number: int, confirm: bool, pause: float) -> None:
        key = self.active()[number % len(self.active())]
        devices = self.model.held[key].devices
        self.send(event(key), pause)
        for device in devices if confirm else ():
            self.send(Released(key, device))

    @precondition(lambda self: self.active())
    @rule(event=st.sampled_from([CallStarted, CallStarted, Renew]), number=NUMBERS, pause=PAUSES)
    def use(self, event: type[CallStarted], number: int, pause: float) -> None:
        self.send(event(self.active()[number % len(self.active())]), pause)

    @precondition(lambda self: any(held.running for held in self.model.active().values()))
    @rule(number=NUMBERS, pause=PAUSES)
    def call_ended(self, number: int, pause: float) -> None:
        running = [key for key, held in self.model.active().items() if held.running]
        self.send(CallEnded(running[number % len(running)]), pause)

    @precondition(lambda self: self.model.queue)
    @rule(event=st.sampled_from([Dealloc, Cancel]), number=NUMBERS, pause=PAUSES)
    def leave_the_queue(self, event: type[Dealloc], number: int, pause: float) -> None:
        self.send(event(self.waiting()[number % len(self.waiting())]), pause)

    @rule(event=st.sampled_from([Dealloc, Cancel, Renew]), number=NUMBERS)
    def about_any_key(self, event: type[Dealloc], number: int) -> None:
        self.send(event(f"k{number}"))

    @precondition(lambda self: self.model.held)
    @rule(number=NUMBERS, too_soon=st.sampled_from([False, False, False, True]), pause=PAUSES)
    def released(self, number: int, too_soon: bool, pause: float) -> None:
        outstanding = [
            Released(key, device)
            for key, held in self.model.held.items()
            for device in held.places
            if held.why is not None or too_soon
        ]
        self.send(outstanding[number % len(outstanding)] if outstanding else Tick(), pause)

    @rule(event=st.sampled_from([DeviceReady, DeviceReady, DeviceLost]), number=NUMBERS, pause=PAUSES)
    def device(self, event: type[DeviceLost], number: int, pause: float) -> None:
        self.send(event(number % len(self.model.devices)), pause)

    @rule(pause=PAUSES)
    def tick(self, pause: float) -> None:
        self.send(Tick(), pause)
        wakeup = self.scheduler.next_wakeup()
        assert wakeup is None or wakeup > self.now

    # ---- what always holds ----

    @invariant()
    def devices_are_never_overcommitted(self) -> None:
        views = self.scheduler.snapshot(self.now).devices
        reserved = self.model.reserved()
        for index, view in enumerate(views):
            users = self.model.on(index)
            assert len(users) == view.leases <= view.device.slots
            assert sum(user.memory for user in users) <= view.used_memory <= view.device.memory
            assert view.exclusive == any(user.exclusive for user in users)
            assert not view.exclusive or len(users) == 1
            assert view.used_slots == (view.device.slots if view.exclusive else len(users))
            lost = index in self.model.lost
            assert view.state == ("lost" if lost else "reserved" if index in reserved else "ready")

    @invariant()
    def gangs_are_whole(self) -> None:
        for held in self.model.active().values():
            assert len(set(held.devices)) == held.request.gpus == len(held.places)

    @invariant()
    def nobody_waits_who_could_be_served(self) -> None:
        queue, reserved = self.model.queue, self.model.reserved()
        for waiting in queue:
            barred = set() if waiting is queue[0] else reserved
            assert len(self.model.fitting(waiting.request) - barred) < waiting.request.gpus

    @invariant()
    def each_request_is_answered_once_or_waits(self) -> None:
        waiting = [waiter.key for waiter in self.scheduler.snapshot(self.now).queue]
        assert waiting == [waiter.key for waiter in self.model.queue]
        assert all(waiter.until > self.now for waiter in self.model.queue)
        counters = self.scheduler.snapshot(self.now).counters
        silent = [key for key, told in self.answers.items() if not told]
        assert set(waiting) <= set(silent)
        assert len(silent) == len(waiting) + counters.abandoned
        allowed: tuple[list[str], ...] = ([], ["Grant"], ["Grant", "Release"], ["Refuse"])
        assert all(told in allowed for told in self.answers.values())

    @invariant()
    def counters_add_up(self) -> None:
        count = self.scheduler.snapshot(self.now).counters
        refused = count.refused_busy + count.refused_impossible + count.refused_timeout + count.refused_full
        answered = count.granted + refused + count.refused_ended + count.abandoned
        assert count.requested == answered + len(self.model.queue)
        told = [answer for answers in self.answers.values() for answer in answers]
        assert (count.granted, refused) == (told.count("Grant"), told.count("Refuse"))
        over = count.deallocated + count.expired + count.cancelled
        assert over == told.count("Release") == count.granted - len(self.model.active())

    @invariant()
    def the_next_wakeup_is_the_next_deadline(self) -> None:
        deadlines = [held.ends()[0] for held in self.model.active().values()]
        deadlines += [waiting.until for waiting in self.model.queue]
        finite = [deadline for deadline in deadlines if deadline < math.inf]
        assert self.scheduler.next_wakeup() == min(finite, default=None)

    @invariant()
    def every_key_can_be_looked_up(self) -> None:
        for key in self.answers:
            found, held = self.scheduler.lookup(key), self.model.held.get(key)
            why = self.model.known(key)
            if held and why is None:
                assert isinstance(found, LeaseView)
                assert (found.devices, found.calls_running) == (held.devices, held.running)
            else:
                assert found == (None if why is None else Ended(why))

    def teardown(self) -> None:
        """When all have left and all memory is confirmed free, everything can be had again."""
        if not hasattr(self, "model"):
            return
        for key in self.answers:
            self.send(Cancel(key))
        for key, held in list(self.model.held.items()):
            for device in list(held.places):
                self.send(Released(key, device))
        for device in range(len(self.model.devices)):
            self.send(DeviceReady(device))
        devices, memories = self.model.devices, [device.memory for device in self.model.devices]
        everything = Free(len(devices), sum(device.slots for device in devices), max(memories))
        snapshot = self.scheduler.snapshot(self.now)
        assert (snapshot.free, snapshot.leases, snapshot.queue) == (everything, (), ())


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=200, stateful_step_count=50, deadline=None, derandomize=True)
