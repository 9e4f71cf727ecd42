# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""All rules of the scheduler together: random events, and after each step the comparison with a plain model.

Each step must have exactly the effects that the model predicts, and leave the indexes as they should be; the
invariants are then checked on what both agree about.
"""

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from remotegpu_server.scheduler import (
    POLICIES,
    Alloc,
    CallEnded,
    CallStarted,
    Cancel,
    Configure,
    Dealloc,
    Device,
    DeviceFailed,
    DeviceLost,
    DeviceReady,
    Ended,
    Event,
    Finish,
    Free,
    Grant,
    LeaseView,
    Load,
    Quota,
    Refuse,
    Release,
    Released,
    Renew,
    Request,
    Scheduler,
    Snapshot,
    Tick,
    Warm,
)
from remotegpu_server.scheduler.answers import counter
from tests.fixtures.scheduler_model import Model
from tests.fixtures.scheduler_recount import limited, recount
from tests.fixtures.scheduler_strategies import DEVICES, NUMBERS, PAUSES, QUOTA, REQUESTS, SETTINGS, TENANTS


class SchedulerMachine(RuleBasedStateMachine):
    policy = "round-robin"  # at first

    @initialize(
        devices=DEVICES,
        patience=st.sampled_from([0.0, 0.5, 2.0, math.inf]),
        queue_limit=st.sampled_from([6, 6, 6, 6, 2, 0]),
        remembered=st.sampled_from([100, 3, 0]),
        quotas=st.dictionaries(st.sampled_from(TENANTS[:3]), QUOTA),
        default=QUOTA,
    )
    def begin(
        self,
        devices: list[tuple[int, int]],
        patience: float,
        queue_limit: int,
        remembered: int,
        quotas: dict[str, Quota],
        default: Quota,
    ) -> None:
        indices = range(3, 3 + 2 * len(devices), 2)  # they need be neither positions nor in order
        offered = {i: Device(i, "GPU", f"uuid-{i}", *sizes) for i, sizes in zip(indices, devices, strict=True)}
        self.model = Model(offered, self.policy, patience, queue_limit, remembered, quotas, default)
        self.scheduler = Scheduler(
            list(reversed(offered.values())),
            policy=POLICIES[self.policy](),
            queue_limit=queue_limit,
            gang_patience=patience,
            remembered=remembered,
            quotas=quotas,
            default_quota=default,
        )
        self.answers: dict[str, list[str]] = {}  # each new request, and what it was told
        self.asked: dict[str, Request] = {}
        self.tally: Counter[str] = Counter()
        self.now = 0.0

    def send(self, event: Event, pause: float = 0.0) -> None:
        self.now += pause
        effects = self.scheduler.handle(event, self.now)
        expected = self.model.step(event, self.now, [effect.key for effect in effects])
        assert effects == expected
        for effect in effects:
            self.answers[effect.key].append(type(effect).__name__)
            if isinstance(effect, Refuse):
                self.tally[counter(effect.reason)] += 1
            elif isinstance(effect, Release):
                self.tally[effect.why] += 1
            elif self.answers[effect.key] == ["Grant"]:
                self.nothing_is_given_twice(effect)
                self.nobody_was_passed_by_the_like(effect)
        recount(self.scheduler, self.model)

    def nothing_is_given_twice(self, grant: Grant) -> None:
        """Slots may be fewer than leases, if they were there before; but no lease comes on top."""
        if held := self.model.held.get(grant.key):
            assert len(set(grant.devices)) == held.request.gpus
            for device in held.places:
                users = self.model.users(device)
                assert len(users) <= self.model.devices[device].slots
                assert len(users) == 1 or not any(user.exclusive for user in users)

    def nobody_was_passed_by_the_like(self, grant: Grant) -> None:
        """None who came first asks for the same or less, if nothing but the quota tells them apart."""
        granted, arrival = self.asked[grant.key], int(grant.key[1:])
        for waiting in self.model.queue:
            request = waiting.request
            if request.priority < granted.priority or int(waiting.key[1:]) > arrival:
                continue
            alike = (request.gpus, request.exclusive) == (granted.gpus, granted.exclusive)
            unlimited = not limited(self.model, request.tenant) and self.model.policy != "fair"
            if alike and request.memory <= granted.memory and (request.tenant == granted.tenant or unlimited):
                raise AssertionError(f"{grant.key} was served before {waiting.key}")

    def active(self) -> list[str]:
        return list(self.model.active())

    def waiting(self) -> list[str]:
        return [waiting.key for waiting in self.model.queue]

    def device_at(self, number: int) -> int:
        return list(self.model.devices)[number % len(self.model.devices)]

    # ---- events ----

    def ask(self, request: Request, wait_until: float | None, pause: float = 0.0) -> None:
        key = f"k{len(self.answers)}"
        self.answers[key], self.asked[key] = [], request
        self.send(Alloc(key, request, wait_until), pause)

    @rule(request=REQUESTS, pause=PAUSES)
    def explain_and_alloc_nowait(self, request: Request, pause: float) -> None:
        """What is explained is what is answered then, and explaining changes nothing."""
        self.send(Tick(), pause)
        before = self.scheduler.snapshot(self.now)
        told = self.scheduler.explain(request)
        assert self.scheduler.explain(request) == told
        assert self.scheduler.snapshot(self.now) == before
        fitting = self.model.fitting(request) - self.model.kept
        assert {verdict.device: not verdict.why for verdict in told.verdicts} == {
            device: device in fitting for device in self.model.devices
        }
        key = f"k{len(self.answers)}"
        self.ask(request, None)
        (answer,) = self.model.out
        assert answer == (Grant(key, told.devices) if told.reason is None else Refuse(key, told.reason))

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
            self.send(Alloc(key, Request("a"), None))
            self.answers[key] = before  # a duplicate's answer is not a second answer

    @rule(event=st.sampled_from([Dealloc, Cancel, Finish]), number=NUMBERS, confirm=st.booleans(), pause=PAUSES)
    def give_back(self, event: type[Dealloc], number: int, confirm: bool, pause: float) -> None:
        if active := self.active():
            key = active[number % len(active)]
            devices = self.model.held[key].devices
            self.send(event(key), pause)
            for device in devices if confirm else ():
                self.send(Released(key, device))

    @rule(event=st.sampled_from([CallStarted, CallEnded, Renew]), number=NUMBERS, pause=PAUSES)
    def use(self, event: type[CallStarted | CallEnded], number: int, pause: float) -> None:
        keys = [key for key, held in self.model.active().items() if held.running or event is not CallEnded]
        self.send(event(keys[number % len(keys)]) if keys else Tick(), pause)

    @rule(event=st.sampled_from([Dealloc, Cancel]), number=NUMBERS, pause=PAUSES)
    def leave_the_queue(self, event: type[Dealloc], number: int, pause: float) -> None:
        keys = self.waiting()
        self.send(event(keys[number % len(keys)]) if keys else Tick(), pause)

    @rule(event=st.sampled_from([Dealloc, Cancel, Renew, Finish]), number=NUMBERS)
    def about_any_key(self, event: type[Dealloc], number: int) -> None:
        self.send(event(f"k{number}"))

    @rule(number=NUMBERS, too_soon=st.sampled_from([False, False, False, True]), pause=PAUSES)
    def released(self, number: int, too_soon: bool, pause: float) -> None:
        outstanding = [
            Released(key, device)
            for key, held in self.model.held.items()
            for device in held.places
            if held.why is not None or too_soon
        ]
        self.send(outstanding[number % len(outstanding)] if outstanding else Tick(), pause)

    @rule(
        event=st.sampled_from([DeviceReady, DeviceReady, DeviceReady, DeviceLost, DeviceFailed]),
        number=NUMBERS,
        pause=PAUSES,
    )
    def device(self, event: type[DeviceLost], number: int, pause: float) -> None:
        self.send(event(self.device_at(number)), pause)

    @rule(number=NUMBERS, load=st.sampled_from([0.0, 0.04, 0.05, 0.5, 1.0]), model=st.sampled_from(["m", "n"]))
    def measure(self, number: int, load: float, model: str) -> None:
        device = self.device_at(number)
        self.send(Load({device: load, self.device_at(number + 1): 0.25}))
        self.send(Warm(device, model, number % 4 > 0))

    @rule(event=SETTINGS, pause=PAUSES)
    def configure(self, event: Configure, pause: float) -> None:
        self.send(event, pause)

    @rule(pause=PAUSES)
    def tick(self, pause: float) -> None:
        self.send(Tick(), pause)
        wakeup = self.scheduler.next_wakeup()
        assert wakeup is None or wakeup > self.now

    # ---- what always holds ----

    @invariant()
    def all_that_always_holds(self) -> None:
        snapshot = self.scheduler.snapshot(self.now)
        self.devices_are_never_overcommitted(snapshot)
        self.quotas_are_kept()
        self.gangs_are_whole()
        self.nobody_waits_who_could_be_served()
        self.devices_are_kept_for_a_reason()
        self.each_request_is_answered_once_or_waits(snapshot)
        self.counters_add_up(snapshot)
        self.the_next_wakeup_is_the_next_deadline()
        self.every_key_can_be_looked_up()

    def devices_are_never_overcommitted(self, snapshot: Snapshot) -> None:
        assert (snapshot.policy, snapshot.slots) == (self.model.policy, self.model.most_slots)
        assert snapshot.free == self.model.free()
        for view in snapshot.devices:
            index = view.device.index
            users = self.model.users(index)
            assert len(users) == view.leases
            assert sum(user.memory for user in users) <= view.used_memory <= view.device.memory
            assert view.exclusive == any(user.exclusive for user in users)
            assert not view.exclusive or len(users) == 1
            assert view.used_slots == (view.device.slots if view.exclusive else len(users))
            lost = index in self.model.lost
            assert view.state == ("lost" if lost else "reserved" if index in self.model.kept else "ready")

    def quotas_are_kept(self) -> None:
        for tenant in TENANTS:
            used, quota = self.model.used(tenant), self.model.quota(tenant)
            for what, amount in used.items():
                limit = getattr(quota, what)
                assert limit is None or amount <= limit

    def gangs_are_whole(self) -> None:
        for held in self.model.active().values():
            assert len(set(held.devices)) == held.request.gpus == len(held.places)

    def nobody_waits_who_could_be_served(self) -> None:
        for waiting in self.model.queue:
            kept = set() if waiting is self.model.head else self.model.kept
            enough = len(self.model.fitting(waiting.request) - kept) >= waiting.request.gpus
            assert not enough or self.model.exceeded(waiting.request)

    def devices_are_kept_for_a_reason(self) -> None:
        """For one who waits, whom no quota keeps waiting, whose patience is over; enough of them, if there are."""
        model, owner = self.model, self.model.owner
        assert not model.kept & model.lost
        if owner is None:
            assert not model.kept
            return
        assert owner in model.queue
        assert not model.exceeded(owner.request)
        assert self.now - owner.since >= model.patience
        large = {i for i, device in model.devices.items() if device.memory >= owner.request.memory}
        useful = large - model.lost
        assert len(model.kept & useful) >= min(owner.request.gpus, len(useful))

    def each_request_is_answered_once_or_waits(self, snapshot: Snapshot) -> None:
        waiting = [waiter.key for waiter in snapshot.queue]
        assert waiting == [waiter.key for waiter in self.model.order()]
        assert all(waiter.until > self.now for waiter in self.model.queue)
        silent = [key for key, told in self.answers.items() if not told]
        assert set(waiting) <= set(silent)
        assert len(silent) == len(waiting) + snapshot.counters.abandoned
        allowed: tuple[list[str], ...] = ([], ["Grant"], ["Grant", "Release"], ["Refuse"])
        assert all(told in allowed for told in self.answers.values())

    def counters_add_up(self, snapshot: Snapshot) -> None:
        count, tally = snapshot.counters, self.tally
        refused = count.refused_busy + count.refused_impossible + count.refused_timeout + count.refused_full
        answered = count.granted + refused + count.refused_ended + count.abandoned
        assert count.requested == answered + len(self.model.queue)
        told = Counter(answer for answers in self.answers.values() for answer in answers)
        assert (count.granted, refused) == (told["Grant"], told["Refuse"])
        over = count.deallocated + count.expired + count.cancelled + count.failed
        assert over == count.granted - len(self.model.active())
        assert (count.expired, count.cancelled) == (tally["idle"] + tally["hard_cap"], tally["cancelled"])
        assert count.failed == tally["device"]
        for name in ("busy", "impossible", "timeout", "full", "ended"):
            assert getattr(count, f"refused_{name}") == tally[f"refused_{name}"]

    def the_next_wakeup_is_the_next_deadline(self) -> None:
        deadlines = [held.ends()[0] for held in self.model.active().values()]
        deadlines += [waiting.until for waiting in self.model.queue]
        finite = [deadline for deadline in deadlines if deadline < math.inf]
        assert self.scheduler.next_wakeup() == min(finite, default=None)

    def every_key_can_be_looked_up(self) -> None:
        for key in self.answers:
            found, held = self.scheduler.lookup(key), self.model.held.get(key)
            if held and held.why is None:
                assert isinstance(found, LeaseView)
                assert (found.devices, found.calls_running) == (held.devices, held.running)
            else:
                assert found == self.model.known(key)
                assert found is None or isinstance(found, Ended)

    def teardown(self) -> None:
        """When all have left and all memory is confirmed free, everything can be had again."""
        if not hasattr(self, "model"):
            return
        for key in self.answers:
            self.send(Cancel(key))
        for key, held in list(self.model.held.items()):
            for device in list(held.places):
                self.send(Released(key, device))
        for index in self.model.devices:
            self.send(DeviceReady(index))
        devices = self.model.devices.values()
        everything = Free(len(devices), sum(device.slots for device in devices), max(d.memory for d in devices))
        snapshot = self.scheduler.snapshot(self.now)
        assert (snapshot.free, snapshot.leases, snapshot.queue) == (everything, (), ())
        assert all((usage.leases, usage.gpus, usage.memory) == (0, 0, 0) for usage in snapshot.tenants)


class LeastLoadedMachine(SchedulerMachine):
    policy = "least-loaded"


class BestFitMachine(SchedulerMachine):
    policy = "best-fit"


class StickyMachine(SchedulerMachine):
    policy = "sticky"


class FairMachine(SchedulerMachine):
    policy = "fair"


class QuickMachine(SchedulerMachine):
    """The same with fewer examples: all policies, since they change while it runs."""


class QuickFairMachine(FairMachine):
    """The same, with tenants who take turns from the start."""


TestQuick = QuickMachine.TestCase
TestQuickFair = QuickFairMachine.TestCase
# All of it: 2,500 examples.
TestRoundRobin = pytest.mark.slow(SchedulerMachine.TestCase)
TestLeastLoaded = pytest.mark.slow(LeastLoadedMachine.TestCase)
TestBestFit = pytest.mark.slow(BestFitMachine.TestCase)
TestSticky = pytest.mark.slow(StickyMachine.TestCase)
TestFair = pytest.mark.slow(FairMachine.TestCase)
RUN = settings(max_examples=500, stateful_step_count=25, deadline=None, derandomize=True)
for machine in (SchedulerMachine, LeastLoadedMachine, BestFitMachine, StickyMachine, FairMachine):
    machine.TestCase.settings = RUN
for quick in (QuickMachine, QuickFairMachine):
    quick.TestCase.settings = settings(RUN, max_examples=200)
