# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a sensor measures of one device at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Process:
    """A process that uses the device. `memory` in bytes; 0 where the driver does not tell."""

    pid: int
    memory: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One device at one moment, whoever causes its load."""

    # 0 to 1.
    utilization: float
    # Bytes.
    memory_used: int
    memory_total: int
    # Degrees Celsius. None for this and the next two: the device does not tell.
    temperature: float | None
    # Watts.
    power: float | None
    power_limit: float | None
    processes: tuple[Process, ...]
    # Why nobody should compute on this device; empty: it is healthy.
    fault: str = ""


def faulty(why: str) -> Reading:
    """The reading of a device of which nothing is known but that it is unhealthy."""
    return Reading(0.0, 0, 0, None, None, None, (), why)
