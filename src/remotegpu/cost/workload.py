# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is to be computed in a month, and how long it takes where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from remotegpu import errors

NETWORKS = ("vpc", "nat", "internet")
# 3,800 pictures per second.
MOST_IMAGES = 1e10


@dataclass(frozen=True, slots=True)
class Limit:
    """Which numbers a field may have."""

    least: float
    greatest: float
    above: bool = False  # `least` itself is not allowed
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether the number is allowed; False for NaN."""
        if not self.least <= value <= self.greatest or (self.above and value == self.least):
            return False
        return not self.whole or float(value).is_integer()

    def __str__(self) -> str:
        start = f"above {self.least:,g}, at most" if self.above else f"from {self.least:,g} to"
        return f"{'whole numbers' if self.whole else 'numbers'} {start} {self.greatest:,.15g}"


# 128 to 10,240 MB and 900 s are what AWS Lambda allows.
_SECONDS, _INIT, _SHARE = Limit(0, 900, above=True), Limit(0, 900), Limit(0, 1)
_MEMORY, _COUNT = Limit(128, 10_240, whole=True), Limit(1, 10_000, whole=True)
LIMITS: Mapping[str, Limit] = {
    "images_per_month": Limit(1, MOST_IMAGES),
    "cpu_seconds": _SECONDS,
    "cpu_memory_mb": _MEMORY,
    "cpu_init_seconds": _INIT,
    "remote_seconds": _SECONDS,
    "remote_memory_mb": _MEMORY,
    "remote_init_seconds": _INIT,
    "cold_start_share": _SHARE,
    "gpus": _COUNT,
    "gpu_seconds": Limit(0, 86_400, above=True),
    "functions": _COUNT,
    "utilisation": Limit(0, 1, above=True),
    "spot_share": _SHARE,
    "image_bytes": Limit(0, 1e12),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A month of it. The defaults are YOLOv3-tiny as a 2021 thesis measured it: inference for 8.78 s in a Lambda
    function of 512 MB, for 0.29 s with the GPU of another machine, and for 0.23 s on a V100.

    `cpu_*` is the function that computes by itself, `remote_*` the one that calls the GPU server and waits.
    `cold_start_share` is the share of runs that begin with INIT. `gpu_seconds` is how long one picture keeps the GPU of
    kind `gpu` busy. `functions` is how many functions of this load share the GPUs where they are shared.
    `utilisation` is how busy what is always on may be in the mean of the month, so that its peaks still fit.
    `spot_share` is the share of hours of GPU machines and Fargate tasks that are spot capacity. `image_bytes` cross the
    network to the GPU server for each picture. Raises InvalidInput for numbers outside of `LIMITS` and for an unknown
    network."""

    images_per_month: float = 1_000_000
    cpu_seconds: float = 8.78
    cpu_memory_mb: float = 512
    cpu_init_seconds: float = 2.0
    remote_seconds: float = 0.29
    remote_memory_mb: float = 512
    remote_init_seconds: float = 0.6
    cold_start_share: float = 0.01
    gpu: str = "g6.xlarge"
    gpus: int = 1
    gpu_seconds: float = 0.23
    functions: int = 4
    utilisation: float = 0.6
    spot_share: float = 0.0
    image_bytes: float = 262_144
    network: str = "vpc"
    free_tier: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            limit, value = LIMITS.get(field.name), getattr(self, field.name)
            if limit is not None and (not math.isfinite(value) or not limit.holds(value)):
                raise errors.InvalidInput(field=field.name, limit=str(limit), given=f"{value:g}")
        if self.network not in NETWORKS:
            raise errors.InvalidInput(field="network", limit=", ".join(NETWORKS), given=repr(self.network))
