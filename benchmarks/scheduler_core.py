# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How many decisions per second the scheduler's core makes: `python -m benchmarks.scheduler_core`.

A cycle is what one lease costs from request to end, all events included; no I/O is done and no clock is read
inside. Each number is the median of several runs, and the slowest run is printed beside it.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import count, islice

from remotegpu_server.scheduler import (
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
TINY = Request("tenant")
Cycle = Callable[[int, float], None]


def make(devices: int, *, queue_limit: int = 1000) -> Scheduler:
    """A scheduler over equal devices, empty."""
    facts = [Device(i, "GPU", f"GPU-{i}", MEMORY, SLOTS) for i in range(devices)]
    return Scheduler(facts, queue_limit=queue_limit)


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


def lease(devices: int) -> tuple[int, Cycle]:
    """Alloc (nowait), dealloc, released: nobody else there."""
    scheduler = make(devices)
    return 3, lambda number, now: turn(scheduler, f"{number}", now)


def turn(scheduler: Scheduler, key: str, now: float) -> None:
    """One lease, from request to end."""
    grant = granted(scheduler.handle(Alloc(key, TINY, None), now))
    scheduler.handle(Dealloc(key), now)
    scheduler.handle(Released(key, grant.devices[0]), now)


def call(devices: int) -> tuple[int, Cycle]:
    """The same around one call, as the daemon does it: with the look-up before and the next wake-up after."""
    scheduler = make(devices)

    def cycle(number: int, now: float) -> None:
        key = f"{number}"
        grant = granted(scheduler.handle(Alloc(key, TINY, None), now))
        scheduler.handle(CallStarted(key), now)
        scheduler.lookup(key)
        scheduler.handle(CallEnded(key), now)
        scheduler.handle(Dealloc(key), now)
        scheduler.handle(Released(key, grant.devices[0]), now)
        scheduler.next_wakeup()

    return 5, cycle


def busy(devices: int) -> tuple[int, Cycle]:
    """Refused: every slot is taken and 100 wait, the first of them for longer than its patience."""
    scheduler = make(devices)
    fill(scheduler, devices * SLOTS)
    for i in range(100):
        scheduler.handle(Alloc(f"waits-{i}", TINY, math.inf), 0.0)
    return 1, lambda number, now: check_refused(scheduler.handle(Alloc(f"{number}", TINY, None), now + 10))


def check_refused(effects: Sequence[Effect]) -> None:
    """The opposite of `granted`."""
    if len(effects) != 1 or isinstance(effects[0], Grant):
        raise TypeError(f"expected one refusal, got {effects}")


def handover(devices: int) -> tuple[int, Cycle]:
    """Every slot is taken and 1000 wait: one lease ends, the first in the queue is granted, one more queues."""
    scheduler = make(devices)
    holders = fill(scheduler, devices * SLOTS)
    request = Request("tenant", idle_ttl=math.inf)
    for i in range(999):
        scheduler.handle(Alloc(f"waits-{i}", request, math.inf), 0.0)

    def cycle(number: int, now: float) -> None:
        grant = holders[number % len(holders)]
        scheduler.handle(Alloc(f"{number}", request, math.inf), now)
        scheduler.handle(Dealloc(grant.key), now)
        released = scheduler.handle(Released(grant.key, grant.devices[0]), now)
        holders[number % len(holders)] = granted(released)

    return 3, cycle


def passing(devices: int) -> tuple[int, Cycle]:
    """A lease while 1000 wait for more memory than is free, each for another amount, the first too long."""
    scheduler = make(devices)
    fill(scheduler, devices, MEMORY // 2)
    for i in range(1000):
        request = Request("tenant", memory=MEMORY - (i * 7919 % 1000), idle_ttl=math.inf)
        scheduler.handle(Alloc(f"waits-{i}", request, math.inf), 0.0)
    return 3, lambda number, now: turn(scheduler, f"{number}", now + 2)


SCENARIOS = {
    "lease: alloc, dealloc, released": lease,
    "lease with one call": call,
    "refused busy, 100 waiting": busy,
    "hand-over, 1000 waiting": handover,
    "lease passing 1000 waiting": passing,
}


def measure(scenario: Callable[[int], tuple[int, Cycle]], devices: int, seconds: float) -> tuple[int, list[float]]:
    """Events per cycle, and the seconds per cycle of seven runs on one scheduler, after one to warm up."""
    events, cycle = scenario(devices)
    numbers = count()
    runs = []
    for _ in range(8):
        start, cycles = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds / 8:
            for number in islice(numbers, 100):
                cycle(number, number * 1e-6)
            cycles += 100
        runs.append(passed / cycles)
    return events, runs[1:]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[8], help="how many GPUs (default: 8)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds per row (default: 2)")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}, one thread, {SLOTS} slots per device\n")
    print(f"{'scenario':<32} {'devices':>7} {'µs/cycle':>9} {'slowest':>8} {'cycles/s':>9} {'decisions/s':>12}")
    for devices in arguments.devices:
        for name, scenario in SCENARIOS.items():
            events, runs = measure(scenario, devices, arguments.seconds)
            median = statistics.median(runs)
            row = f"{name:<32} {devices:>7} {median * 1e6:>9.2f} {max(runs) * 1e6:>8.2f} {1 / median:>9.0f}"
            print(f"{row} {events / median:>12.0f}")


if __name__ == "__main__":
    main()
