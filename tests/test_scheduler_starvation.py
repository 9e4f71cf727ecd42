# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Large requests are served although small ones never stop coming."""

import heapq
import math
import random
from typing import Any

import pytest

from remotegpu_server.scheduler import POLICIES, Alloc, Finish, Grant, Request
from tests.fixtures.scheduling import make, nowait, wait


class Crowd:
    """Small requests at random, more than four devices can serve, from several tenants; some wait, some do not."""

    def __init__(self, seed: int, policy: str, patience: float) -> None:
        self.scheduler = make(4, slots=2, gang_patience=patience, policy=POLICIES[policy]())
        self.chance = random.Random(seed)
        self.ends: list[tuple[float, str]] = []
        self.now, self.number, self.grants = 0.0, 0, 0
        self.served: float | None = None

    def step(self) -> None:
        self.now += self.chance.expovariate(8)
        while self.ends and self.ends[0][0] <= self.now:
            at, key = heapq.heappop(self.ends)
            self.take(self.scheduler.handle(Finish(key), at), at)
        self.number += 1
        request = Request(f"t{self.number % 3}", memory=self.chance.randrange(50), idle_ttl=math.inf)
        until = self.chance.choice([None, self.now + 0.5, self.now + 2])
        self.ask(Alloc(f"{self.number}", request, until))

    def ask(self, event: Alloc) -> None:
        self.take(self.scheduler.handle(event, self.now), self.now)

    def take(self, effects: list[Any], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Grant) and effect.key == "big":
                self.served = now
            elif isinstance(effect, Grant):
                self.grants += 1
                heapq.heappush(self.ends, (now + self.chance.uniform(0.3, 2), effect.key))

    def grants_before_big_is_served(self, big: Request, most: int) -> int | None:
        """How many others were granted something after the patience of `big` was over; `None` after `most`."""
        for _ in range(100):
            self.step()
        asked, before = self.now, self.grants
        self.ask(Alloc("big", big, math.inf))
        while self.served is None:
            self.step()
            if self.now < asked + 1:
                before = self.grants
            if self.grants - before > most:
                return None
        return self.grants - before


BIG = [Request("big", gpus=4), Request("big", exclusive=True), Request("big", gpus=3, memory=100, exclusive=True)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("big", BIG)
def test_a_large_request_is_served_in_a_crowd_of_small_ones(policy: str, big: Request) -> None:
    """After its patience only so many pass it as the devices that are not kept for it can take meanwhile."""
    for seed in range(10):
        assert Crowd(seed, policy, 1.0).grants_before_big_is_served(big, 20) is not None


def test_without_an_end_to_its_patience_a_large_request_starves() -> None:
    """The crowd is dense enough for the test above to mean something."""
    assert Crowd(1, "round-robin", math.inf).grants_before_big_is_served(BIG[2], 200) is None


def test_leases_that_are_held_for_ever_do_not_hide_the_devices_that_come_free() -> None:
    """Those in least use hold one lease that never ends; only the busy ones can be emptied."""
    scheduler = make(20, slots=2, gang_patience=1.0)
    for number in range(16):
        (grant,) = nowait(scheduler, f"held-{number}", idle_ttl=math.inf)
        assert isinstance(grant, Grant)
        assert grant.devices == (number,)
    chance, ends = random.Random(1), list[tuple[float, str]]()
    now, number, asked = 0.0, 0, False
    while now < 60:
        now += 0.02
        done = [key for at, key in ends if at <= now]
        ends = [end for end in ends if end[0] > now]
        effects = [effect for key in done for effect in scheduler.handle(Finish(key), now)]
        if any(isinstance(effect, Grant) and effect.key == "big" for effect in effects):
            break
        number += 1
        if isinstance(nowait(scheduler, f"{number}", now, idle_ttl=math.inf)[0], Grant):
            ends.append((now + chance.uniform(0.5, 1.5), f"{number}"))
        if now > 5 and not asked:
            asked = True
            assert wait(scheduler, "big", now, exclusive=True) == []
    assert 6 < now < 6 + 31 + 2, "all twenty are kept 31 s after its patience"


def test_under_fair_newcomers_with_other_names_do_not_pass_who_waits() -> None:
    scheduler = make(1, policy=POLICIES["fair"]())
    nowait(scheduler, "held")
    scheduler.handle(Alloc("zed", Request("zed"), math.inf), 0.0)
    scheduler.handle(Alloc("a", Request("a"), math.inf), 0.0)
    assert scheduler.handle(Finish("held"), 1.0) == [Grant("zed", (0,))]


def test_under_fair_leases_of_no_length_are_charged_too() -> None:
    """Else who asks for very short ones would always be next."""
    scheduler = make(1, policy=POLICIES["fair"]())
    nowait(scheduler, "held")
    scheduler.handle(Alloc("quick-0", Request("quick"), math.inf), 0.0)
    scheduler.handle(Alloc("other", Request("other"), math.inf), 0.0)
    scheduler.handle(Alloc("quick-1", Request("quick"), math.inf), 0.0)
    assert scheduler.handle(Finish("held"), 0.0) == [Grant("quick-0", (0,))]
    assert scheduler.handle(Finish("quick-0"), 0.0) == [Grant("other", (0,))]
