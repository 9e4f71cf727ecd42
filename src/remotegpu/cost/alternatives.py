# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The same month of pictures done in different ways, each with its bill.

All of them read a picture from S3 and write a result there, moved by an SQS queue. What is always on is whole machines:
as many as the mean load needs at the given utilisation, never fewer than the least, so that a bill has steps. Work of
the processor is counted in seconds of a whole virtual processor, and taken to be bound by it.

The free amounts of an account are taken to be this load's alone. S3 is reached without a NAT gateway. Not in any bill:
storage, logs, transfers between availability zones, public addresses, disks of machines, people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from remotegpu import errors
from remotegpu.cost import formulas
from remotegpu.cost.prices import Machine, Prices
from remotegpu.cost.workload import Workload

POD_MACHINE, LEAST_PODS = "t3.medium", 3
TASK_VCPUS, TASK_MEMORY_GB = 1.0, 2.0
# For each picture: S3 tells the queue, a consumer receives, and deletes; the picture and the result are put, the
# picture is got. Empty receives and batches are left out.
QUEUE_REQUESTS, BUCKET_PUTS, BUCKET_GETS = 3, 2, 1


@dataclass(frozen=True, slots=True)
class Bill:
    """USD for a month. `run`: what is paid for work done; `init`: cold starts; `busy` and `idle`: what is always on, by
    how much of it the load uses; `control_plane`; `network`; `queue`: SQS and S3. `count` of `unit` are always on;
    where several functions share them this is one's share of their cost."""

    run: float = 0.0
    init: float = 0.0
    busy: float = 0.0
    idle: float = 0.0
    control_plane: float = 0.0
    network: float = 0.0
    queue: float = 0.0
    count: int = 0
    unit: str = ""

    @property
    def total(self) -> float:
        """The sum of all parts."""
        parts = (self.run, self.init, self.busy, self.idle, self.control_plane, self.network, self.queue)
        return math.fsum(parts)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A way to do it. `bill` raises nothing for a workload that `check` let pass."""

    name: str
    title: str
    bill: Callable[[Workload, Prices], Bill]


def check(workload: Workload, prices: Prices) -> None:
    """Raises InvalidInput if the table of prices lacks a machine, or a price for the spot share that is asked for."""
    gpus = [machine.name for machine in prices.machines.values() if machine.gpu]
    if workload.gpu not in gpus:
        limit = f"a machine of the price table that has a GPU: {', '.join(gpus) or 'it has none'}"
        raise errors.InvalidInput(field="gpu", limit=limit, given=repr(workload.gpu))
    if POD_MACHINE not in prices.machines:
        raise errors.InvalidInput(field="prices", limit=f"a table with machines.{POD_MACHINE}", given=prices.file)
    if workload.spot_share and prices.machines[workload.gpu].spot is None:
        known = ", ".join(name for name in gpus if prices.machines[name].spot) or "none"
        limit = f"0 for {workload.gpu}, as the price table has no spot price for it; machines with one: {known}"
        raise errors.InvalidInput(field="spot_share", limit=limit, given=f"{workload.spot_share:g}")


def lambda_cpu(workload: Workload, prices: Prices) -> Bill:
    """A function on demand that computes by itself."""
    run, init = _on_demand(
        workload, prices, workload.cpu_seconds, workload.cpu_init_seconds, memory_mb=workload.cpu_memory_mb
    )
    return Bill(run=run, init=init, queue=_queue(workload, prices))


def lambda_provisioned(workload: Workload, prices: Prices) -> Bill:
    """The same function in provisioned instances, enough for its peaks: no cold starts, and no free tier.

    https://aws.amazon.com/lambda/pricing/"""
    work, memory = workload.images_per_month * workload.cpu_seconds, workload.cpu_memory_mb
    count = formulas.count_for(work, workload.utilisation)
    used = formulas.gb_seconds(workload.images_per_month, workload.cpu_seconds, memory)
    run = formulas.provisioned_duration_usd(used, prices)
    run += formulas.requests_usd(workload.images_per_month, prices, free_tier=False)
    ready = formulas.provisioned_usd(count, memory, prices)
    busy = ready * work / (count * formulas.SECONDS_PER_MONTH)
    queue = _queue(workload, prices)
    return Bill(run=run, busy=busy, idle=ready - busy, queue=queue, count=count, unit="instance")


def lambda_gpu(workload: Workload, prices: Prices) -> Bill:
    """A function that calls GPUs of its own, which are always on."""
    return _lambda_gpu(workload, prices, sharers=1)


def lambda_shared_gpu(workload: Workload, prices: Prices) -> Bill:
    """The same, with the GPUs, and the NAT gateway if there is one, shared by `functions` functions of this load: one
    of these pays one part of their cost."""
    return _lambda_gpu(workload, prices, sharers=workload.functions)


def fargate(workload: Workload, prices: Prices) -> Bill:
    """Tasks of 1 vCPU and 2 GB that take from the queue, always on."""
    work = _vcpu_seconds(workload)
    count = formulas.count_for(work, workload.utilisation, slots=TASK_VCPUS)
    hour = formulas.fargate_hour_usd(TASK_VCPUS, TASK_MEMORY_GB, prices, workload.spot_share)
    paid = count * hour * formulas.HOURS_PER_MONTH
    busy = paid * work / (count * TASK_VCPUS * formulas.SECONDS_PER_MONTH)
    return Bill(busy=busy, idle=paid - busy, queue=_queue(workload, prices), count=count, unit="task")


def pods(workload: Workload, prices: Prices) -> Bill:
    """Pods that take from the queue on at least three t3.medium, in a cluster that is there already. Above their
    baseline these pay surplus credits."""
    machine, work = prices.machines[POD_MACHINE], _vcpu_seconds(workload)
    count = formulas.count_for(work, workload.utilisation, LEAST_PODS, machine.vcpus)
    busy, idle = _machines(machine, count, work / machine.vcpus)
    surplus = formulas.surplus_usd(machine, count, work, prices)
    queue = _queue(workload, prices)
    return Bill(run=surplus, busy=busy, idle=idle, queue=queue, count=count, unit=machine.name)


def kubernetes(workload: Workload, prices: Prices) -> Bill:
    """The same pods in a cluster of their own, with its control plane."""
    control = formulas.HOURS_PER_MONTH * prices["kubernetes.control_plane"]
    return replace(pods(workload, prices), control_plane=control)


def kubernetes_gpu(workload: Workload, prices: Prices) -> Bill:
    """No functions: pods that take from the queue on GPU machines, in a cluster of their own with its control plane."""
    machine, work = prices.machines[workload.gpu], workload.images_per_month * workload.gpu_seconds
    count = formulas.count_for(work, workload.utilisation, workload.gpus)
    busy, idle = _machines(machine, count, work, workload.spot_share)
    control = formulas.HOURS_PER_MONTH * prices["kubernetes.control_plane"]
    queue = _queue(workload, prices)
    return Bill(busy=busy, idle=idle, control_plane=control, queue=queue, count=count, unit=machine.name)


ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("lambda-cpu", "Lambda, CPU", lambda_cpu),
    Alternative("lambda-provisioned", "Lambda, CPU, provisioned concurrency", lambda_provisioned),
    Alternative("lambda-gpu", "Lambda + remote GPU of its own", lambda_gpu),
    Alternative("lambda-shared-gpu", "Lambda + shared remote GPU", lambda_shared_gpu),
    Alternative("fargate", "Fargate, CPU", fargate),
    Alternative("pods", "pods on t3.medium, CPU", pods),
    Alternative("kubernetes", "the same + control plane", kubernetes),
    Alternative("kubernetes-gpu", "Kubernetes on GPU machines", kubernetes_gpu),
)


def bills(workload: Workload, prices: Prices) -> Mapping[str, Bill]:
    """All bills by the alternative's name. Raises as `check` does."""
    check(workload, prices)
    return {alternative.name: alternative.bill(workload, prices) for alternative in ALTERNATIVES}


def totals(workload: Workload, prices: Prices) -> Mapping[str, Callable[[float], float]]:
    """The total of each alternative as a function of images per month, else of this workload. Raises as `check`
    does."""
    check(workload, prices)

    def total_of(alternative: Alternative) -> Callable[[float], float]:
        return lambda images: alternative.bill(replace(workload, images_per_month=images), prices).total

    return {alternative.name: total_of(alternative) for alternative in ALTERNATIVES}


def doubtful(workload: Workload, prices: Prices) -> list[str]:
    """The prices in these bills that were not read from AWS itself, in the order of the table."""
    spot = {"fargate.spot_vcpu", "fargate.spot_memory"} if not workload.spot_share else set()
    nat = set() if workload.network == "nat" else {"network.nat_hour", "network.nat_data"}
    egress = {"network.egress", "network.free_egress"} if workload.network == "vpc" else set()
    unused: Iterable[str] = spot | nat | egress
    named = [name for name, price in prices.entries.items() if price.origin.kind != "aws" and name not in unused]
    machines = (prices.machines[workload.gpu], prices.machines[POD_MACHINE])
    named += [f"machines.{machine.name}" for machine in machines if machine.origin.kind != "aws"]
    offer = machines[0].spot
    if workload.spot_share and offer is not None and offer.origin.kind != "aws":
        named.append(f"machines.{workload.gpu}.spot")
    return named


def _on_demand(
    workload: Workload, prices: Prices, seconds: float, init_seconds: float, *, memory_mb: float
) -> tuple[float, float]:
    """USD for runs of a function, and for their cold starts beyond that: both use up one free tier."""
    images, free_tier = workload.images_per_month, workload.free_tier
    used = formulas.gb_seconds(images, seconds, memory_mb)
    begun = formulas.gb_seconds(images * workload.cold_start_share, init_seconds, memory_mb)
    running = formulas.duration_usd(used, prices, free_tier=free_tier)
    init = formulas.duration_usd(used + begun, prices, free_tier=free_tier) - running
    return running + formulas.requests_usd(images, prices, free_tier=free_tier), init


def _lambda_gpu(workload: Workload, prices: Prices, sharers: int) -> Bill:
    machine, work = prices.machines[workload.gpu], workload.images_per_month * workload.gpu_seconds
    run, init = _on_demand(
        workload, prices, workload.remote_seconds, workload.remote_init_seconds, memory_mb=workload.remote_memory_mb
    )
    count = formulas.count_for(work * sharers, workload.utilisation, workload.gpus)
    busy, idle = _machines(machine, count, work * sharers, workload.spot_share)
    return Bill(
        run=run,
        init=init,
        busy=busy / sharers,
        idle=idle / sharers,
        network=_network(workload, prices, sharers),
        queue=_queue(workload, prices),
        count=count,
        unit=machine.name,
    )


def _machines(machine: Machine, count: int, work_seconds: float, spot_share: float = 0.0) -> tuple[float, float]:
    """USD for machines while they work, and while they are idle. `work_seconds` are of a whole machine."""
    paid = formulas.machine_usd(machine, count, spot_share=spot_share)
    busy = paid * work_seconds / (count * formulas.SECONDS_PER_MONTH)
    return busy, paid - busy


def _vcpu_seconds(workload: Workload) -> float:
    """What the work takes of whole virtual processors: a function has them in proportion to its memory."""
    return workload.images_per_month * workload.cpu_seconds * workload.cpu_memory_mb / formulas.MB_PER_VCPU


def _network(workload: Workload, prices: Prices, sharers: int) -> float:
    """In the VPC of the GPU server: nothing. `internet`: the pictures leave AWS. `nat`: through a gateway before."""
    if workload.network == "vpc":
        return 0.0
    moved = workload.images_per_month * workload.image_bytes
    usd = formulas.egress_usd(moved, prices, free_tier=workload.free_tier)
    return usd + formulas.nat_usd(1 / sharers, moved, prices) if workload.network == "nat" else usd


def _queue(workload: Workload, prices: Prices) -> float:
    images = workload.images_per_month
    requests = formulas.queue_usd(QUEUE_REQUESTS * images, prices, free_tier=workload.free_tier)
    return requests + formulas.bucket_usd(BUCKET_PUTS * images, BUCKET_GETS * images, prices)
