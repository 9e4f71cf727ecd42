# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How many decisions per second the scheduler's core makes: `python -m benchmarks.scheduler_core`.

A cycle is what one lease costs from request to end: an alloc and a dealloc, which are the two decisions, and the
worker's confirmation. No I/O is done and no clock is read inside. Each number is the median of several runs.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

from remotegpu_server.scheduler import (
    POLICIES,
    Alloc,
    CallEnded,
    CallStarted,
    Dealloc,
    Device,
    Effect,
    Grant,
    Released,
    Request,
    Scheduler,
)

SLOTS, MEMORY = 4, 80 << 30
RESULT = Path(__file__).resolve().parent / "results" / "scheduler_core.json"
TINY = Request("tenant", memory=1 << 20)
Cycle = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `decisions_per_s`: allocs and deallocs, or refusals."""

    scenario: str
    policy: str
    devices: int
    waiting: int
    cycle_us: float
    slowest_us: float
    decisions_per_s: float


def make(devices: int, policy: str) -> Scheduler:
    """A scheduler over equal devices, empty."""
    facts = [Device(i, "GPU", f"GPU-{i}", MEMORY, SLOTS) for i in range(devices)]
    return Scheduler(facts, queue_limit=1_000_000, policy=POLICIES[policy]())


def granted(effects: Sequence[Effect]) -> Grant:
    """The one effect, which must be a grant: a benchmark that measures refusals unawares is worthless."""
    (effect,) = effects
    if not isinstance(effect, Grant):
        raise TypeError(f"expected a grant, got {effect}")
    return effect


def fill(scheduler: Scheduler, leases: int, memory: int = 0) -> list[Grant]:
    """So many leases that never end by themselves."""
    request = Request("tenant", memory=memory, idle_ttl=math.inf)
    return [granted(scheduler.handle(Alloc(f"full-{i}", request, None), 0.0)) for i in range(leases)]


def turn(scheduler: Scheduler, key: str, now: float) -> None:
    """One lease, from request to end."""
    grant = granted(scheduler.handle(Alloc(key, TINY, None), now))
    scheduler.handle(Dealloc(key), now)
    scheduler.handle(Released(key, grant.devices[0]), now)


def lease(devices: int, waiting: int, policy: str) -> Cycle:
    """Alloc (nowait), dealloc, released: others hold a slot of each device."""
    scheduler = make(devices, policy)
    fill(scheduler, devices)
    return lambda number, now: turn(scheduler, f"{number}", now)


def call(devices: int, waiting: int, policy: str) -> Cycle:
    """The same around one call, as the daemon does it: with the look-up before and the next wake-up after."""
    scheduler = make(devices, policy)

    def cycle(number: int, now: float) -> None:
        key = f"{number}"
        grant = granted(scheduler.handle(Alloc(key, TINY, None), now))
        scheduler.handle(CallStarted(key), now)
        scheduler.lookup(key)
        scheduler.handle(CallEnded(key), now)
        scheduler.handle(Dealloc(key), now)
        scheduler.handle(Released(key, grant.devices[0]), now)
        scheduler.next_wakeup()

    return cycle


def refused(devices: int, waiting: int, policy: str) -> Cycle:
    """Every slot is taken, and the first in the queue has waited for longer than its patience."""
    scheduler = make(devices, policy)
    fill(scheduler, devices * SLOTS)
    for i in range(waiting):
        scheduler.handle(Alloc(f"waits-{i}", TINY, math.inf), 0.0)

    def cycle(number: int, now: float) -> None:
        (effect,) = scheduler.handle(Alloc(f"{number}", TINY, None), now + 10)
        if isinstance(effect, Grant):
            raise TypeError(f"expected a refusal, got {effect}")

    return cycle


def handover(devices: int, waiting: int, policy: str) -> Cycle:
    """Every slot is taken: one lease ends, the first in the queue is granted, one more queues."""
    scheduler = make(devices, policy)
    holders = fill(scheduler, devices * SLOTS)
    requests = [Request(f"tenant-{i % 10}", memory=i << 10, idle_ttl=math.inf) for i in range(1000)]
    for i in range(waiting - 1):
        scheduler.handle(Alloc(f"waits-{i}", requests[i % 1000], math.inf), 0.0)

    def cycle(number: int, now: float) -> None:
        grant = holders[number % len(holders)]
        scheduler.handle(Alloc(f"{number}", requests[number % 1000], math.inf), now)
        scheduler.handle(Dealloc(grant.key), now)
        released = scheduler.handle(Released(grant.key, grant.devices[0]), now)
        holders[number % len(holders)] = granted(released)

    return cycle


def passing(devices: int, waiting: int, policy: str) -> Cycle:
    """A lease while others wait: for more memory than is free, each for another amount, and for whole devices."""
    scheduler = make(devices, policy)
    fill(scheduler, devices, MEMORY // 2)
    for i in range(waiting):
        memory = MEMORY - (i * 7919 % 1000)
        request = Request("tenant", gpus=1 + i % 4, memory=memory, exclusive=i % 2 > 0, idle_ttl=math.inf)
        scheduler.handle(Alloc(f"waits-{i}", request, math.inf), 0.0)
    return lambda number, now: turn(scheduler, f"{number}", now + 2)


# With the number of decisions in a cycle, and whether somebody waits.
SCENARIOS: dict[str, tuple[Callable[[int, int, str], Cycle], int, bool]] = {
    "lease": (lease, 2, False),
    "lease around a call": (call, 2, False),
    "refused": (refused, 1, True),
    "hand-over to the next": (handover, 2, True),
    "lease that passes those who wait": (passing, 2, True),
}


def measure(name: str, devices: int, waiting: int, policy: str, seconds: float) -> Row:
    """The median of seven runs on one scheduler, after one to warm up."""
    scenario, decisions, queued = SCENARIOS[name]
    waiting = waiting if queued else 0
    cycle = scenario(devices, waiting, policy)
    numbers = count()
    runs = []
    for _ in range(8):
        start, cycles = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds / 8:
            for number in islice(numbers, 100):
                cycle(number, number * 1e-6)
            cycles += 100
        runs.append(passed / cycles)
    median = statistics.median(runs[1:])
    return Row(name, policy, devices, waiting, median * 1e6, max(runs[1:]) * 1e6, decisions / median)


def lease_bytes(leases: int = 20_000) -> float:
    """Memory per lease, everything that the scheduler keeps for it, its key and request included."""
    scheduler = make(leases, "round-robin")
    scheduler.handle(Alloc("first", TINY, None), 0.0)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(leases - 1):
        request = Request(f"tenant-{i % 100}", memory=1 << 20, hard_ttl=3600.0)
        granted(scheduler.handle(Alloc(f"{i:032x}", request, None), i * 1e-6))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / (leases - 1)


def rows(seconds: float) -> list[Row]:
    """What the table shows: a small pool, a large one with a long queue, and every policy on both."""
    found = []
    for devices, waiting in ((8, 100), (10_000, 10_000)):
        found += [measure(name, devices, waiting, "round-robin", seconds) for name in SCENARIOS]
        others = [policy for policy in POLICIES if policy != "round-robin"]
        for name in ("lease", "hand-over to the next"):
            found += [measure(name, devices, waiting, policy, seconds) for policy in others]
    return found


def main() -> None:
    """Print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per row (default: 1)")
    arguments = parser.parse_args()
    print(f"\nscheduler core: Python {platform.python_version()}, {platform.machine()}, one thread, {SLOTS} slots\n")
    print(
        f"{'scenario':<33} {'policy':<13} {'GPUs':>6} {'waiting':>7} {'µs/cycle':>9} {'slowest':>8} {'decisions/s':>12}"
    )
    found = rows(arguments.seconds)
    for row in found:
        place = f"{row.scenario:<33} {row.policy:<13} {row.devices:>6} {row.waiting:>7}"
        print(f"{place} {row.cycle_us:>9.2f} {row.slowest_us:>8.2f} {row.decisions_per_s:>12.0f}")
    size = lease_bytes()
    print(f"\nmemory per lease: {size:.0f} bytes")
    small = min(row.decisions_per_s for row in found if row.devices == 8 and row.scenario == "lease")
    large = min(row.decisions_per_s for row in found if row.devices == 10_000)
    for text, good in (
        (f"at least 100,000 allocs and deallocs/s at 8 GPUs: {small:,.0f} with the slowest policy", small >= 100_000),
        (f"at least 20,000/s at 10,000 GPUs with 10,000 waiting: {large:,.0f} in the slowest row", large >= 20_000),
        (f"less than 2 KiB per lease: {size:.0f} bytes", size < 2048),
    ):
        print("PASS" if good else "MISS", text)
    RESULT.write_text(json.dumps({"rows": [asdict(row) for row in found], "lease_bytes": size}, indent=1) + "\n")


if __name__ == "__main__":
    main()
