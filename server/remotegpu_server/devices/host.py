# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The load of CPU devices, which is that of their workers: the only file that imports psutil."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from .reading import Process, Reading


@dataclass(frozen=True, slots=True)
class CpuDevice:
    """What is to be watched. `pid` tells the process of the device's worker, 0 while there is none; it is called in
    the reading thread. `threads`: processors that the worker may use. `memory`: bytes of the device."""

    index: int
    memory: int
    threads: int
    pid: Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A worker as it was. Seconds of processor time, and on the monotonic clock."""

    process: psutil.Process
    busy: float
    at: float


def utilization(busy: float, elapsed: float, threads: int) -> float:
    """The share, 0 to 1, of so many threads' time that processor time (all in seconds) is. Clocks tick coarsely, so
    that a little more than all of it may seem to be used."""
    return min(max(busy / (elapsed * threads), 0.0), 1.0) if elapsed > 0 else 0.0


class Host:
    """Sensor of CPU devices (see `sensors.Sensors`). For one thread at a time."""

    # A late reading is no fault: it only says that the machine is very busy.
    silence = ""

    def __init__(self, devices: Sequence[CpuDevice]) -> None:
        self.devices = tuple(device.index for device in devices)
        self._devices = tuple(devices)
        self._seen: dict[int, _Seen] = {}

    def read(self) -> dict[int, Reading]:
        """What the workers did since the last reading. One that is just being started reads as no load."""
        return {device.index: self._read(device) for device in self._devices}

    def close(self) -> None:
        """Nothing is kept open."""

    def _read(self, device: CpuDevice) -> Reading:
        pid, seen = device.pid(), self._seen.pop(device.index, None)
        load, private = 0.0, 0
        processes: tuple[Process, ...] = ()
        try:
            if pid:
                process = seen.process if seen is not None and seen.process.pid == pid else psutil.Process(pid)
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
                now = _Seen(process, times.user + times.system, time.monotonic())
                if seen is not None and seen.process == process:
                    load = utilization(now.busy - seen.busy, now.at - seen.at, device.threads)
                self._seen[device.index] = now
                # Without the arenas, which are not the device's memory, and libraries, which all workers share.
                private, processes = max(memory.rss - memory.shared, 0), (Process(pid, memory.rss),)
        except psutil.Error:
            pass  # it ends just now and will be started again; whether a worker lives is the supervisor's to find out
        return Reading(load, private, device.memory, None, None, None, processes)
