# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The scheduler's policies compared on simulated traces: `python -m benchmarks.policies`.

The real scheduler runs against simulated GPUs, callers and time, so a day passes in seconds and every run with the
same seed is the same. Two traces, each asking for about 80 % of what the pool can carry:

- Poisson: callers come independently of each other.
- bursty: as many callers in the mean, but each of a tenant's four sources is either silent or sends eight times as
  often (an interrupted Poisson process), as functions behind a queue do.

What a lease is used for: a model (the popularity of models falls as 1/rank), for a lognormal time, on a share of the
device's compute. It takes longer where more is asked of a device than it has, by as much as when it begins, and `COLD`
seconds longer where the model is not warm; a device keeps `KEPT` models warm. One tenant of five asks four times as
often as the others.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from remotegpu_server.scheduler import (
    POLICIES,
    Alloc,
    Dealloc,
    Device,
    Effect,
    Grant,
    Load,
    Release,
    Released,
    Request,
    Scheduler,
    Warm,
)

RESULTS = Path(__file__).resolve().parent / "results"
GPUS, SLOTS, GIB = 16, 4, 1 << 30
MEMORIES = (80 * GIB,) * 8 + (24 * GIB,) * 8
TENANTS = ("a", "b", "c", "d", "e")
WEIGHTS = (4.0, 1.0, 1.0, 1.0, 1.0)
SOURCES = 4  # of callers, each tenant
MODELS, KEPT, COLD = 40, 6, 2.0
MEAN_SERVICE, SPREAD = 3.0, 1.0  # of the lognormal distribution: seconds, sigma
LOAD = 0.75


@dataclass(frozen=True, slots=True)
class Job:
    """One caller. `share`: of the device's compute, while it holds its lease. Times in seconds."""

    at: float
    request: Request
    service: float
    share: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy on one trace. Waits in seconds. Two of them tell fairness: `greedy_p95` is that of the tenant who asks
    for half of the pool, `modest_p95` that of the others together, who ask for less than their share."""

    trace: str
    policy: str
    jobs: int
    wait_mean: float
    wait_p50: float
    wait_p95: float
    wait_p99: float
    utilization: float
    greedy_p95: float
    modest_p95: float
    warm: float


def arrivals(rate: float, bursty: bool, chance: random.Random) -> Iterator[float]:
    """Times of one source's callers. Bursty: on for 10 s in the mean, off for 70 s, eight times as often while on."""
    now, on_until = 0.0, 0.0
    while True:
        if not bursty:
            now += chance.expovariate(rate)
        else:
            gap = chance.expovariate(rate * 8)
            while now + gap > on_until:
                gap -= max(on_until - now, 0.0)
                now = max(now, on_until) + chance.expovariate(1 / 70)
                on_until = now + chance.expovariate(1 / 10)
            now += gap
        yield now


def trace(bursty: bool, seconds: float, seed: int) -> list[Job]:
    """All callers in the order in which they come."""
    chance = random.Random(seed)
    # A gang takes two slots, an exclusive lease all of a device: the mean of slots that `_job` asks for. About six of
    # ten find their model cold under round-robin.
    slots = 0.90 + 0.06 * 2 + 0.04 * SLOTS
    rate = LOAD * GPUS * SLOTS / (slots * (MEAN_SERVICE + 0.6 * COLD))
    jobs = []
    for tenant, weight in zip(TENANTS * SOURCES, WEIGHTS * SOURCES, strict=True):
        for at in arrivals(rate * weight / sum(WEIGHTS) / SOURCES, bursty, chance):
            if at > seconds:
                break
            jobs.append(_job(at, tenant, chance))
    return sorted(jobs, key=lambda job: job.at)


def _job(at: float, tenant: str, chance: random.Random) -> Job:
    model = chance.choices(range(MODELS), [1 / (rank + 1) for rank in range(MODELS)])[0]
    kind = chance.random()
    request = Request(
        tenant,
        gpus=2 if 0.90 <= kind < 0.96 else 1,
        exclusive=kind >= 0.96,
        memory=chance.choice((1, 1, 2, 2, 4, 8, 20)) * GIB,
        idle_ttl=1e9,
        model=f"model-{model}",
    )
    location = -(SPREAD**2) / 2  # so that the mean of the lognormal factor is 1
    return Job(at, request, MEAN_SERVICE * chance.lognormvariate(location, SPREAD), chance.choice((0.05, 0.2, 0.5)))


@dataclass
class Simulation:
    """One run: the scheduler, the jobs under way, and the events to come."""

    scheduler: Scheduler
    jobs: list[Job]
    seconds: float
    warm: list[OrderedDict[str, None]] = field(default_factory=lambda: [OrderedDict() for _ in range(GPUS)])
    load: list[float] = field(default_factory=lambda: [0.0] * GPUS)
    waits: dict[int, float] = field(default_factory=dict)
    hits: int = 0
    busy: float = 0.0  # slot-seconds within `seconds`
    coming: list[tuple[float, int, str]] = field(default_factory=list)
    held: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def run(self) -> None:
        """Until the last job is done."""
        for number, job in enumerate(self.jobs):
            heapq.heappush(self.coming, (job.at, number, "arrive"))
        heapq.heappush(self.coming, (1.0, -1, "measure"))
        done = 0
        while done < len(self.jobs):
            now, number, what = heapq.heappop(self.coming)
            if what == "measure":
                self.scheduler.handle(Load({i: min(load, 1.0) for i, load in enumerate(self.load)}), now)
                heapq.heappush(self.coming, (now + 1.0, -1, "measure"))
            elif what == "arrive":
                self._follow(self.scheduler.handle(Alloc(str(number), self.jobs[number].request, 1e12), now), now)
            else:
                done += 1
                self._change_load(number, -1)
                self._follow(self.scheduler.handle(Dealloc(str(number)), now), now)

    def _follow(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Grant):
                self._start(int(effect.key), effect.devices, now)
            elif isinstance(effect, Release):
                for device in effect.devices:
                    self._follow(self.scheduler.handle(Released(effect.key, device), now), now)
            else:
                raise TypeError(f"nobody is refused here: {effect}")

    def _start(self, number: int, devices: tuple[int, ...], now: float) -> None:
        job = self.jobs[number]
        self.waits[number], self.held[number] = now - job.at, devices
        cold = [device for device in devices if job.request.model not in self.warm[device]]
        self.hits += not cold
        for device in devices:
            models = self.warm[device]
            models[job.request.model] = None
            models.move_to_end(job.request.model)
            self.scheduler.handle(Warm(device, job.request.model), now)
            if len(models) > KEPT:
                evicted, _ = models.popitem(last=False)
                self.scheduler.handle(Warm(device, evicted, warm=False), now)
        asked = max(self.load[device] for device in devices) + job.share
        takes = job.service * max(1.0, asked) + (COLD if cold else 0.0)
        within = max(0.0, min(now + takes, self.seconds) - now)
        self.busy += within * len(devices) * (SLOTS if job.request.exclusive else 1)
        self._change_load(number, 1)
        heapq.heappush(self.coming, (now + takes, number, "end"))

    def _change_load(self, number: int, sign: int) -> None:
        for device in self.held[number]:
            self.load[device] += sign * self.jobs[number].share


def percentile(ordered: list[float], percent: int) -> float:
    """Of values in ascending order."""
    return ordered[len(ordered) * percent // 100]


def simulate(name: str, jobs: list[Job], policy: str, seconds: float) -> Outcome:
    """One policy on one trace."""
    devices = [Device(i, "GPU", f"GPU-{i}", memory, SLOTS) for i, memory in enumerate(MEMORIES)]
    scheduler = Scheduler(devices, policy=POLICIES[policy](), queue_limit=len(jobs))
    simulation = Simulation(scheduler, jobs, seconds)
    simulation.run()
    waits = sorted(simulation.waits.values())
    greedy = sorted(w for n, w in simulation.waits.items() if jobs[n].request.tenant == TENANTS[0])
    modest = sorted(w for n, w in simulation.waits.items() if jobs[n].request.tenant != TENANTS[0])
    return Outcome(
        trace=name,
        policy=policy,
        jobs=len(jobs),
        wait_mean=statistics.fmean(waits),
        wait_p50=percentile(waits, 50),
        wait_p95=percentile(waits, 95),
        wait_p99=percentile(waits, 99),
        utilization=simulation.busy / (seconds * GPUS * SLOTS),
        greedy_p95=percentile(greedy, 95),
        modest_p95=percentile(modest, 95),
        warm=simulation.hits / len(jobs),
    )


def plot(outcomes: list[Outcome], path: Path) -> None:
    """The table as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    columns = (
        ("wait_p95", "95 % wait less than, s"),
        ("modest_p95", "of those who ask for little, 95 %, s"),
        ("warm", "model was warm"),
    )
    figure, axes = pyplot.subplots(1, len(columns), figsize=(12, 3.6), layout="constrained")
    traces = list(dict.fromkeys(outcome.trace for outcome in outcomes))
    for axis, (name, title) in zip(axes, columns, strict=True):
        for shift, which in enumerate(traces):
            values = [getattr(outcome, name) for outcome in outcomes if outcome.trace == which]
            axis.bar([at + 0.4 * shift for at in range(len(values))], values, width=0.38, label=which)
        axis.set_title(title, fontsize=10)
        if name != "warm":
            axis.set_yscale("symlog", linthresh=0.1)
        axis.set_xticks([at + 0.2 for at in range(len(POLICIES))], list(POLICIES), rotation=25, fontsize=8)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{GPUS} simulated GPUs, {SLOTS} slots each", fontsize=11)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, and keep it with its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0, help="simulated seconds per run (default: 1800)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    outcomes = []
    print(f"\npolicies on simulated traces: {arguments.seconds:.0f} s, seed {arguments.seed}\n")
    print(f"{'trace':<8} {'policy':<13} {'jobs':>6} {'mean wait':>9} {'p50':>6} {'p95':>6} {'p99':>6}", end="")
    print(f" {'utilised':>8} {'warm':>6} {'greedy p95':>10} {'modest p95':>10}")
    for name, bursty in (("Poisson", False), ("bursty", True)):
        jobs = trace(bursty, arguments.seconds, arguments.seed)
        for policy in POLICIES:
            outcome = simulate(name, jobs, policy, arguments.seconds)
            outcomes.append(outcome)
            waits = f"{outcome.wait_p50:>6.2f} {outcome.wait_p95:>6.2f} {outcome.wait_p99:>6.2f}"
            print(f"{name:<8} {policy:<13} {outcome.jobs:>6} {outcome.wait_mean:>9.2f} {waits}", end="")
            print(f" {outcome.utilization:>8.1%} {outcome.warm:>6.1%}", end="")
            print(f" {outcome.greedy_p95:>10.2f} {outcome.modest_p95:>10.2f}")
    facts = {"seconds": arguments.seconds, "seed": arguments.seed, "outcomes": [asdict(o) for o in outcomes]}
    (RESULTS / "policies.json").write_text(json.dumps(facts, indent=1) + "\n")
    plot(outcomes, RESULTS / "policies.png")
    print(f"\nwritten: {RESULTS / 'policies.png'}")


if __name__ == "__main__":
    main()
