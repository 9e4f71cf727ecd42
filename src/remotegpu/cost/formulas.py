# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The bill of each service for a month, in USD.

The annex of the 2021 thesis that this project replaces bills a function by `(N·t·M - 400,000)·tc + (N - 1,000,000)·tm`
with tm = 0.20. Its printed results hold; the formula does not: tm is per million requests and not per request, each
term is zero and not negative below the free amount, and INIT, network, queue and idle machines are missing.
"""

from __future__ import annotations

import math

from remotegpu.cost.prices import Machine, Prices

# 365 days of 24 hours in 12 months, as AWS's own calculator has it.
HOURS_PER_MONTH = 730.0
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
# A function with so much memory has one virtual processor, and others in proportion.
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
MB_PER_VCPU = 1769.0
MB_PER_GB = 1024.0  # of Lambda's GB-s
BYTES_PER_GB = 1e9  # of transfers
# So that what needs exactly two machines gets no third by rounding.
_ROUNDING = 1e-9


def gb_seconds(runs: float, seconds: float, memory_mb: float) -> float:
    """What is billed for that many runs of so many seconds: runs × seconds × GB."""
    return runs * seconds * memory_mb / MB_PER_GB


def duration_usd(used: float, prices: Prices, *, free_tier: bool = True) -> float:
    """USD for `used` GB-s of functions on demand, INIT included: the first are free, later tiers are cheaper.

    https://aws.amazon.com/lambda/pricing/ and, for INIT (billed since 2025-08-01),
    https://aws.amazon.com/blogs/compute/aws-lambda-standardizes-billing-for-init-phase/"""
    free = prices["lambda.free_duration"] if free_tier else 0.0
    second, third = prices["lambda.second_tier_from"], prices["lambda.third_tier_from"]
    tiers = (
        (free, second, prices["lambda.duration"]),
        (max(free, second), third, prices["lambda.duration_second_tier"]),
        (max(free, third), math.inf, prices["lambda.duration_third_tier"]),
    )
    return sum(max(0.0, min(used, end) - start) * rate for start, end, rate in tiers)


def requests_usd(runs: float, prices: Prices, *, free_tier: bool = True) -> float:
    """USD for starting functions so often: (runs - free runs) × price of a million / 1,000,000, at least 0."""
    free = prices["lambda.free_requests"] if free_tier else 0.0
    return max(0.0, runs - free) * prices["lambda.requests"] / 1e6


def provisioned_usd(instances: float, memory_mb: float, prices: Prices, hours: float = HOURS_PER_MONTH) -> float:
    """USD for keeping that many instances of a function ready, whether they run or not."""
    return gb_seconds(instances, hours * 3600, memory_mb) * prices["lambda.provisioned"]


def provisioned_duration_usd(used: float, prices: Prices) -> float:
    """USD for `used` GB-s of runs in provisioned instances. The free tier does not apply to them."""
    return used * prices["lambda.provisioned_duration"]


def machine_usd(machine: Machine, count: float, hours: float = HOURS_PER_MONTH, spot_share: float = 0.0) -> float:
    """USD for machines that are always on; `spot_share` of their hours at the spot price, if the table has one."""
    spot = machine.spot.value if machine.spot is not None else machine.usd_per_hour
    return count * hours * (machine.usd_per_hour + (spot - machine.usd_per_hour) * spot_share)


def surplus_usd(machine: Machine, count: float, vcpu_seconds: float, prices: Prices) -> float:
    """USD for what burstable machines compute in a month above their baseline, spread evenly over it.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-unlimited-mode-concepts.html"""
    if machine.baseline >= 1:
        return 0.0
    covered = count * machine.vcpus * machine.baseline * SECONDS_PER_MONTH
    return max(0.0, vcpu_seconds - covered) / 3600 * prices["ec2.surplus_credits"]


def fargate_hour_usd(vcpus: float, memory_gb: float, prices: Prices, spot_share: float = 0.0) -> float:
    """USD for an hour of one task; `spot_share` of it at the price of Fargate Spot."""
    vcpu, memory = prices["fargate.vcpu"], prices["fargate.memory"]
    vcpu += (prices["fargate.spot_vcpu"] - vcpu) * spot_share
    memory += (prices["fargate.spot_memory"] - memory) * spot_share
    return vcpus * vcpu + memory_gb * memory


def count_for(work_seconds: float, utilisation: float, least: int = 1, slots: float = 1.0) -> int:
    """How many machines of `slots` parallel slots do that much work in a month, each slot busy for at most
    `utilisation` of it; never fewer than `least`."""
    return max(least, math.ceil(work_seconds / (slots * utilisation * SECONDS_PER_MONTH) - _ROUNDING))


def egress_usd(amount_bytes: float, prices: Prices, *, free_tier: bool = True) -> float:
    """USD for sending that many bytes to the Internet."""
    free = prices["network.free_egress"] if free_tier else 0.0
    return max(0.0, amount_bytes / BYTES_PER_GB - free) * prices["network.egress"]


def nat_usd(gateways: float, amount_bytes: float, prices: Prices, hours: float = HOURS_PER_MONTH) -> float:
    """USD for NAT gateways and for the bytes that pass them."""
    return gateways * hours * prices["network.nat_hour"] + amount_bytes / BYTES_PER_GB * prices["network.nat_data"]


def queue_usd(requests: float, prices: Prices, *, free_tier: bool = True) -> float:
    """USD for requests to a standard SQS queue; a message of up to 64 KB is one."""
    free = prices["sqs.free_requests"] if free_tier else 0.0
    return max(0.0, requests - free) * prices["sqs.requests"] / 1e6


def bucket_usd(puts: float, gets: float, prices: Prices) -> float:
    """USD for requests to S3 Standard; what is stored there is not in it."""
    return (puts * prices["s3.puts"] + gets * prices["s3.gets"]) / 1e3
