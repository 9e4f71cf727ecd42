# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What tenants may hold, and how those who wait share under the policy `fair`. Devices have 100 bytes each."""

import math
from typing import Any

import pytest

from remotegpu_server.scheduler import (
    POLICIES,
    Alloc,
    Cancel,
    Dealloc,
    Effect,
    Finish,
    Free,
    Grant,
    Impossible,
    OverQuota,
    Quota,
    Refuse,
    Released,
    Request,
    Scheduler,
    Tick,
    TimedOut,
    Usage,
)
from tests.fixtures.scheduling import make


def ask(scheduler: Scheduler, key: str, tenant: str, until: float | None = math.inf, **more: Any) -> list[Effect]:
    """At the time of the last event, `now` seconds if given."""
    now = more.pop("now", 0.0)
    return scheduler.handle(Alloc(key, Request(tenant, **{"idle_ttl": math.inf, **more}), until), now)


def over(effects: list[Effect]) -> OverQuota:
    (effect,) = effects
    assert isinstance(effect, Refuse)
    assert isinstance(effect.reason, OverQuota)
    return effect.reason


def granted(effects: list[Effect]) -> list[str]:
    return [effect.key for effect in effects if isinstance(effect, Grant)]


# ---- quotas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "held", "asked", "exceeded"),
    [
        (Quota(leases=2), [{}, {}], {}, ("leases", 1, 2, 2)),
        (Quota(leases=2), [{}], {"gpus": 4, "memory": 100}, None),
        (Quota(gpus=3), [{"gpus": 2}], {"gpus": 2}, ("gpus", 2, 2, 3)),
        (Quota(gpus=3), [{"gpus": 2}], {"exclusive": True}, None),
        (Quota(gpus=3), [{"gpus": 2, "exclusive": True}], {"gpus": 2}, ("gpus", 2, 2, 3)),
        (Quota(memory=100), [{"gpus": 2, "memory": 30}], {"gpus": 2, "memory": 21}, ("memory", 42, 60, 100)),
        (Quota(memory=100), [{"gpus": 2, "memory": 30}], {"gpus": 2, "memory": 20}, None),
        (Quota(memory=60), [{"gpus": 2, "memory": 30}], {}, None),
        (Quota(gpus=3, memory=50), [{"gpus": 2, "memory": 20}], {"memory": 20}, ("memory", 20, 40, 50)),
        (Quota(leases=1, gpus=1, memory=1), [{}], {}, ("leases", 1, 1, 1)),
        (Quota(leases=2, gpus=1, memory=1), [{}], {"memory": 1}, ("gpus", 1, 1, 1)),
    ],
)
def test_what_a_tenant_may_hold(
    quota: Quota, held: list[dict[str, Any]], asked: dict[str, Any], exceeded: tuple[str, int, int, int] | None
) -> None:
    for named in (True, False):
        quotas = {"t": quota} if named else {"another": Quota(leases=0)}
        scheduler = make(4, slots=4, quotas=quotas, default_quota=None if named else quota)
        for number, request in enumerate(held):
            assert granted(ask(scheduler, f"{number}", "t", None, **request))
        explained = scheduler.explain(Request("t", **asked))
        effects = ask(scheduler, "x", "t", None, **asked)
        if exceeded is None:
            assert granted(effects) == ["x"]
        else:
            free = scheduler.snapshot(0).free
            assert over(effects) == OverQuota(*exceeded, 0.0, 0, 1, None, 1.0, free)
            assert explained.reason == over(effects)
            assert scheduler.snapshot(0).counters.refused_busy == 1
            assert granted(ask(scheduler, "y", "other" if named else "another2", None)) == ["y"]


@pytest.mark.parametrize(
    ("quota", "asked", "reason"),
    [
        (Quota(leases=0), {}, Impossible("leases of this tenant", 1, 0)),
        (Quota(gpus=1), {"gpus": 2}, Impossible("gpus of this tenant", 2, 1)),
        (Quota(memory=99), {"gpus": 2, "memory": 50}, Impossible("memory of this tenant", 100, 99)),
        (Quota(priority=3), {"priority": 4}, Impossible("priority", 4, 3)),
        (Quota(priority=3), {"priority": -1}, Impossible("priority", -1, 0)),
        (Quota(leases=1, gpus=2, memory=100, priority=3), {"gpus": 2, "memory": 50, "priority": 3}, None),
    ],
)
def test_more_than_the_quota_is_impossible(quota: Quota, asked: dict[str, Any], reason: Impossible | None) -> None:
    scheduler = make(4, quotas={"t": quota})
    assert scheduler.explain(Request("t", **asked)).reason == reason
    effects = ask(scheduler, "a", "t", **asked)
    assert effects == ([Grant("a", (0, 1))] if reason is None else [Refuse("a", reason)])


def test_who_waits_over_quota_is_passed_and_is_served_when_its_own_lease_ends() -> None:
    scheduler = make(2, quotas={"t": Quota(leases=1)}, gang_patience=0)
    ask(scheduler, "t1", "t")
    assert ask(scheduler, "t2", "t") == []
    assert ask(scheduler, "t3", "t", gpus=2) == []
    assert granted(ask(scheduler, "o1", "other")) == ["o1"]
    assert ask(scheduler, "o2", "other") == []
    states = [view.state for view in scheduler.snapshot(0.5).devices]
    assert states == ["reserved", "ready"]  # for o2: no device is kept for those over quota
    assert granted(scheduler.handle(Finish("o1"), 9)) == ["o2"]
    scheduler.handle(Dealloc("t1"), 9)
    assert over(ask(scheduler, "x", "t", None, now=9)).used == 1  # until the memory is confirmed free
    assert scheduler.handle(Released("t1", 0), 9) == [Grant("t2", (0,))]
    assert scheduler.handle(Finish("o2"), 9) == []
    assert granted(scheduler.handle(Finish("t2"), 9)) == ["t3"]


def test_single_calls_count_as_leases() -> None:
    scheduler = make(2, quotas={"t": Quota(leases=1)})
    ask(scheduler, "call", "t", one_call=True)
    assert scheduler.snapshot(0).leases[0].one_call
    assert over(ask(scheduler, "x", "t", None)).what == "leases"
    assert ask(scheduler, "second", "t", one_call=True) == []
    assert granted(scheduler.handle(Finish("call"), 0)) == ["second"]


def test_who_waited_in_vain_hears_of_the_quota() -> None:
    scheduler = make(2, slots=2, quotas={"t": Quota(gpus=2)}, gang_patience=math.inf)
    ask(scheduler, "held", "t", gpus=2)
    ask(scheduler, "late", "t", 5.0)
    ask(scheduler, "other", "other", 5.0, exclusive=True)
    ask(scheduler, "first", "other", exclusive=True, priority=1)
    free = Free(0, 2, 100)
    assert scheduler.handle(Tick(), 5) == [
        Refuse("late", OverQuota("gpus", 1, 2, 2, 5.0, 1, 2, None, 1.0, free)),
        Refuse("other", TimedOut(5.0, 1, None, 1.0, free)),
    ]
    assert over(ask(scheduler, "now", "t", 5.0, now=5)).waited == 0
    counters = scheduler.snapshot(5).counters
    assert (counters.refused_timeout, counters.refused_busy) == (2, 1)


def test_a_newcomer_that_uses_up_the_quota_gives_up_what_was_kept_for_its_tenant() -> None:
    scheduler = make(4, slots=2, quotas={"t": Quota(gpus=3)}, gang_patience=0)
    ask(scheduler, "held", "other", gpus=4, memory=60)
    assert ask(scheduler, "gang", "t", gpus=3, memory=50) == []  # 0, 1 and 2 are kept for it
    assert ask(scheduler, "waits", "other", gpus=2) == []
    assert ask(scheduler, "mine", "t", None) == [Grant("mine", (3,)), Grant("waits", (0, 1))]


def test_a_newcomer_whose_tenant_has_had_more_now_gives_up_what_was_kept_for_it() -> None:
    scheduler = make(4, slots=2, policy=POLICIES["fair"](), gang_patience=0)
    ask(scheduler, "first", "x")
    scheduler.handle(Finish("first"), 1)  # a lease lasts 1 s
    ask(scheduler, "held", "x", gpus=4, memory=60, now=1)
    assert ask(scheduler, "gang", "a", gpus=3, memory=50, now=1) == []  # 0, 1 and 2 are kept for it
    assert ask(scheduler, "waits", "b", gpus=2, now=1) == []
    assert ask(scheduler, "mine", "a", None, now=1) == [Grant("mine", (3,)), Grant("waits", (0, 1))]


def test_who_may_hold_more_again_comes_before_those_who_passed_it() -> None:
    scheduler = make(2, slots=2, quotas={"t": Quota(leases=1)}, gang_patience=0)
    ask(scheduler, "held", "other", gpus=2)
    ask(scheduler, "mine", "t")  # on 0
    assert ask(scheduler, "two", "t", gpus=2) == []
    assert ask(scheduler, "whole", "other", exclusive=True) == []  # 1 is kept for it
    assert ask(scheduler, "small", "other") == []
    assert scheduler.handle(Finish("mine"), 0) == [Grant("two", (1, 0))]


def test_what_tenants_hold_and_may_hold_is_told() -> None:
    quota = Quota(leases=5)
    scheduler = make(2, slots=2, quotas={"z": quota}, default_quota=Quota(gpus=3))
    ask(scheduler, "a", "b", gpus=2, memory=10)
    ask(scheduler, "b", "b", memory=5)
    ask(scheduler, "c", "a", gpus=3)
    assert scheduler.snapshot(0).tenants == (Usage("b", 2, 3, 25, Quota(gpus=3)), Usage("z", 0, 0, 0, quota))
    scheduler.handle(Dealloc("a"), 0)
    scheduler.handle(Released("a", 0), 0)
    assert scheduler.snapshot(0).tenants[0].leases == 2
    scheduler.handle(Released("a", 1), 0)
    assert scheduler.snapshot(0).tenants[0] == Usage("b", 1, 1, 5, Quota(gpus=3))
    scheduler.handle(Finish("b"), 0)
    assert scheduler.snapshot(0).tenants == (Usage("z", 0, 0, 0, quota),)


@pytest.mark.parametrize("policy", ["round-robin", "fair"])
def test_a_tenant_may_have_the_empty_name(policy: str) -> None:
    scheduler = make(3, quotas={"": Quota(leases=1)}, policy=POLICIES[policy]())
    assert granted(ask(scheduler, "a", ""))
    assert ask(scheduler, "b", "") == []
    assert granted(ask(scheduler, "c", "other", gpus=2))
    assert ask(scheduler, "d", "other") == []
    assert granted(scheduler.handle(Finish("c"), 1)) == ["d"]
    assert granted(scheduler.handle(Finish("a"), 2)) == ["b"]


# ---- memory -----------------------------------------------------------------------------------------------


def test_tenants_who_are_gone_are_forgotten() -> None:
    scheduler = make(2, slots=2)
    ask(scheduler, "stays", "stays", exclusive=True)
    most = 0
    for number in range(5000):
        assert granted(ask(scheduler, f"{number}", f"tenant-{number}", now=number))
        ask(scheduler, f"waits-{number}", f"waiter-{number}", exclusive=True, now=number)
        scheduler.handle(Cancel(f"waits-{number}"), number)
        scheduler.handle(Finish(f"{number}"), number + 1)
        most = max(most, len(list(scheduler._tenants)))
    assert 1000 < most <= 1025
    assert "stays" in {usage.tenant for usage in scheduler.snapshot(5000).tenants}
    scheduler.handle(Finish("stays"), 5000)
    assert scheduler.snapshot(5000).leases == ()


def test_tenants_who_hold_or_wait_are_never_forgotten() -> None:
    scheduler = make(1, slots=1500, queue_limit=1500)
    for number in range(3000):
        ask(scheduler, f"{number}", f"tenant-{number}")
    usage = scheduler.snapshot(0).tenants
    assert (len(usage), sum(each.leases for each in usage)) == (3000, 1500)
    scheduler.handle(Cancel("2999"), 0)
    scheduler.handle(Finish("0"), 9)  # this tenant has had more than others, who have to be many more to forget it
    ask(scheduler, "new", "new", now=9)
    assert {"tenant-0", "new"} <= {tenant.name for tenant in scheduler._tenants}
    assert "tenant-0" not in {each.tenant for each in scheduler.snapshot(9).tenants}, "it holds nothing"


# ---- taking turns -----------------------------------------------------------------------------------------


class Fair:
    """One device under `fair`; each tenant that is `present` always has two requests waiting."""

    def __init__(self, **weights: float) -> None:
        quotas = {tenant: Quota(weight=weight) for tenant, weight in weights.items()}
        self.scheduler = make(1, policy=POLICIES["fair"](), quotas=quotas)
        self.now, self.number = 0.0, 0
        self.holder = ""
        self.had: dict[str, float] = dict.fromkeys(weights, 0.0)

    def ask(self, tenant: str) -> None:
        self.number += 1
        self.take(ask(self.scheduler, f"{tenant}{self.number}", tenant, now=self.now))

    def take(self, effects: list[Effect]) -> None:
        for key in granted(effects):
            self.holder = key

    def turn(self, present: str, seconds: dict[str, float]) -> str:
        """Whose turn it is next; the lease lasts as long as that tenant's leases do."""
        for tenant in present:
            while sum(waiter.tenant == tenant for waiter in self.scheduler.snapshot(self.now).queue) < 2:
                self.ask(tenant)
        tenant = self.holder[0]
        self.had[tenant] += seconds[tenant]
        self.now += seconds[tenant]
        self.take(self.scheduler.handle(Finish(self.holder), self.now))
        return tenant

    def turns(self, count: int, present: str, **seconds: float) -> str:
        return "".join(self.turn(present, seconds) for _ in range(count))


def test_tenants_share_the_time_by_their_weights() -> None:
    fair = Fair(a=1.0, b=3.0, c=0.5)
    fair.turns(900, "abc", a=1.0, b=1.0, c=1.0)
    assert fair.had["b"] / fair.had["a"] == pytest.approx(3, rel=0.05)
    assert fair.had["a"] / fair.had["c"] == pytest.approx(2, rel=0.05)


def test_who_holds_longer_has_fewer_turns() -> None:
    fair = Fair(a=1.0, b=1.0)
    turns = fair.turns(800, "ab", a=4.0, b=1.0)
    assert turns.count("b") / turns.count("a") == pytest.approx(4, rel=0.1)
    assert fair.had["a"] / fair.had["b"] == pytest.approx(1, rel=0.1)


def test_more_devices_cost_more() -> None:
    scheduler = make(2, policy=POLICIES["fair"]())
    ask(scheduler, "known", "x", gpus=2)
    scheduler.handle(Finish("known"), 1)  # a lease lasts 1 s
    ask(scheduler, "x", "x", gpus=2, now=1)
    for number in range(4):
        ask(scheduler, f"gang{number}", "gangs", gpus=2, now=1)
        ask(scheduler, f"single{number}", "singles", now=1)
    order, held, now = [], ["x"], 1
    while held:
        now += 1
        effects = [effect for key in held for effect in scheduler.handle(Finish(key), now)]
        held = granted(effects)
        order += held
    assert order[:5] == ["gang0", "single0", "single1", "gang1", "single2"]


def test_who_comes_back_is_not_paid_for_the_time_of_absence() -> None:
    fair = Fair(a=1.0, b=1.0)
    fair.turns(100, "a", a=1.0)
    turns = fair.turns(24, "ab", a=1.0, b=1.0)
    assert "bbb" not in turns
    assert turns[4:].count("b") == 10


def test_who_left_with_more_than_others_is_not_paid_either() -> None:
    fair = Fair(a=1.0, b=1.0)
    fair.turns(1, "b", b=50.0)
    fair.turns(2, "", b=1.0)
    fair.turns(200, "a", a=1.0)
    assert fair.turns(24, "ab", a=1.0, b=1.0)[4:].count("b") == 10


def test_who_comes_back_at_once_still_has_had_what_it_had() -> None:
    fair = Fair(a=1.0, b=1.0)
    fair.ask("a")
    fair.ask("b")
    fair.turns(1, "", a=1.0)
    fair.turns(1, "", b=50.0)
    turns = fair.turns(20, "ab", a=1.0, b=1.0)
    assert turns.count("a") >= 19


def test_who_waits_all_the_time_keeps_its_claim() -> None:
    """Others were served meanwhile, since it does not fit; to ask for more does not make it a newcomer."""
    scheduler = make(2, slots=2, policy=POLICIES["fair"](), gang_patience=math.inf)
    ask(scheduler, "held", "held")
    assert ask(scheduler, "wide", "wide", gpus=2, exclusive=True) == []
    for now in range(9):
        ask(scheduler, f"{now}", "busy", now=now)
        scheduler.handle(Finish(f"{now}"), now + 1)
    assert ask(scheduler, "newcomer", "newcomer", gpus=2, exclusive=True, now=9) == []
    assert ask(scheduler, "wide2", "wide", gpus=2, exclusive=True, now=9) == []
    assert [waiter.key for waiter in scheduler.snapshot(9).queue] == ["wide", "wide2", "newcomer"]


def test_priorities_come_before_fairness() -> None:
    scheduler = make(1, policy=POLICIES["fair"]())
    ask(scheduler, "a", "a")
    scheduler.handle(Finish("a"), 10)
    ask(scheduler, "a2", "a", now=10)
    ask(scheduler, "b", "b", now=10)
    ask(scheduler, "a3", "a", priority=1, now=10)
    assert [waiter.key for waiter in scheduler.snapshot(10).queue] == ["a3", "b"]
    assert granted(scheduler.handle(Finish("a2"), 11)) == ["a3"]
