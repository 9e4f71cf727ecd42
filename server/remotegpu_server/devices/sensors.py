# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Sensors by kind of device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from remotegpu_server.supervisor.worker import DeviceWorker

from .host import CpuDevice, Host
from .nvml import Nvml
from .reading import Reading


class Sensors(Protocol):
    """Measures devices. `read` and `close` are called in one thread that is not the event loop's; both may block."""

    @property
    def devices(self) -> Sequence[int]:
        """Indices of the devices that it measures."""

    @property
    def silence(self) -> str:
        """The fault of all its devices when a reading does not come in time; empty: that is none."""

    def read(self) -> dict[int, Reading]:
        """A reading of each device, by index."""

    def close(self) -> None:
        """Gives back what is kept open. No reading follows."""


class Gpus:
    """NVML as sensor of the devices with these UUIDs (by index)."""

    # NVML answers within milliseconds; a call that hangs hangs in the driver, as programs then do.
    silence = "the NVIDIA driver does not answer"

    def __init__(self, uuids: dict[int, str], nvml: Nvml | None = None) -> None:
        self.devices = tuple(uuids)
        self._uuids = uuids
        self._nvml = nvml or Nvml()

    def read(self) -> dict[int, Reading]:
        """See `Sensors`."""
        found = self._nvml.read(self._uuids.values())
        return {index: found[uuid] for index, uuid in self._uuids.items()}

    def close(self) -> None:
        """Closes NVML."""
        self._nvml.close()


def sensors_of(workers: Sequence[DeviceWorker], threads: int) -> Sensors:
    """What measures the devices of these workers, which are all of one kind. `threads`: of each CPU worker."""
    if workers[0].spec.kind == "cuda":
        return Gpus({worker.spec.index: worker.spec.uuid for worker in workers})
    return Host([_cpu(worker, threads) for worker in workers])


def _cpu(worker: DeviceWorker, threads: int) -> CpuDevice:
    return CpuDevice(worker.spec.index, worker.spec.memory, threads, lambda: worker.pid)
