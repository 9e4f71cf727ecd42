# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which NVIDIA GPUs this machine has and how they are: the only file that imports NVML (`nvidia-ml-py`).

What counts as a fault of a GPU: the driver has lost it or asks for its reset, or answers a question about it with an
error; memory errors that ECC could not correct and that came after this server began to look; rows of memory that could
not be replaced; and critical Xid events, but for those that a faulty program causes on a healthy GPU. A question that
the GPU or the driver does not know is no fault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pynvml

from .reading import Process, Reading, faulty

logger = logging.getLogger("remotegpu.devices")

# Xids that programs cause: the GPU is still healthy. The list is that of NVIDIA's Kubernetes device plugin
# (https://github.com/NVIDIA/k8s-device-plugin, internal/rm/health.go, `ignoredXids`): graphics engine exception, memory
# page fault, GPU stopped processing, preemptive cleanup, video processor exception, context switch timeout.
IGNORED_XIDS = frozenset({13, 31, 43, 45, 68, 109})
# Events taken from one GPU in one reading; what is left is there in the next one.
_EVENT_LIMIT = 64

# The GPU or the driver does not know this figure, or does not tell it to this process.
_UNTOLD = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
    pynvml.NVMLError_ArgumentVersionMismatch,
    pynvml.NVMLError_NoData,
    pynvml.NVMLError_CorruptedInforom,
    pynvml.NVMLError_InsufficientSize,
)
# No GPU can be asked any more.
_DRIVER_GONE = (
    pynvml.NVMLError_Uninitialized,
    pynvml.NVMLError_DriverNotLoaded,
    pynvml.NVMLError_LibraryNotFound,
    pynvml.NVMLError_LibRmVersionMismatch,
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory in bytes, in all."""

    index: int
    name: str
    uuid: str
    memory: int


class NoDriver(Exception):
    """NVML cannot be used; the text says why."""


def gpus() -> list[Gpu]:
    """The GPUs that the driver reports. Raises NoDriver where there is none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoDriver(str(error)) from error
    try:
        return [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise NoDriver(str(error)) from error
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        memory=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
    )


@dataclass(frozen=True, slots=True)
class _Open:
    """A GPU that the driver has found. `events`: its critical Xids; None where they cannot be had."""

    handle: Any
    events: Any


class Nvml:
    """NVML, opened by the first reading and kept open. For one thread at a time; any call may hang with its driver."""

    def __init__(self) -> None:
        self._initialized = False
        self._open: dict[str, _Open] = {}
        # Uncorrected memory errors that a GPU had already when it was first looked at, by UUID.
        self._errors_before: dict[str, int] = {}

    @property
    def xids_watched(self) -> frozenset[str]:
        """UUIDs of the GPUs whose critical Xids are heard."""
        return frozenset(uuid for uuid, gpu in self._open.items() if gpu.events is not None)

    def read(self, uuids: Iterable[str]) -> dict[str, Reading]:
        """How these GPUs are, by UUID. Raises nothing: what the driver does not answer is a fault.

        A critical Xid is in one reading only, the one in which it is found."""
        wanted = list(uuids)
        try:
            if not self._initialized:
                pynvml.nvmlInit()
                self._initialized = True
            return {uuid: self._read(uuid) for uuid in wanted}
        except _DRIVER_GONE as error:
            self.close()  # the next reading opens it again: the driver may be back
            return dict.fromkeys(wanted, faulty(f"the NVIDIA driver cannot be used: {error}"))
        except pynvml.NVMLError as error:
            return dict.fromkeys(wanted, faulty(f"NVML cannot be opened: {error}"))

    def close(self) -> None:
        """Gives everything back to the driver. A later reading opens it again."""
        for uuid in list(self._open):
            self._forget(uuid)
        if self._initialized:
            self._initialized = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError as error:  # the driver went away first, and all that was open with it
                logger.debug("nvmlShutdown: %s", error)

    def _read(self, uuid: str) -> Reading:
        try:
            if uuid not in self._open:
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                self._open[uuid] = _Open(handle, _xid_events(handle, uuid))
            gpu = self._open[uuid]
            return _reading(gpu.handle, self._fault(uuid, gpu))
        except _DRIVER_GONE:
            raise
        except pynvml.NVMLError as error:
            self._forget(uuid)  # after a reset the old handle may be of no use: it is looked up anew
            return faulty(f"the NVIDIA driver says: {error}")

    def _forget(self, uuid: str) -> None:
        gpu = self._open.pop(uuid, None)
        if gpu is not None and gpu.events is not None:
            _free(gpu.events)

    def _fault(self, uuid: str, gpu: _Open) -> str:
        xids = [] if gpu.events is None else _collected(gpu.events)
        critical = [xid for xid in xids if xid not in IGNORED_XIDS]
        if critical:
            return f"critical Xid {', '.join(map(str, critical))}"
        count = _told(
            pynvml.nvmlDeviceGetTotalEccErrors,
            gpu.handle,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        )
        if count is not None:
            # A reset sets the counter to zero, and with it ends the fault.
            before = self._errors_before[uuid] = min(self._errors_before.get(uuid, count), count)
            if count > before:
                return f"{count - before} memory errors that ECC could not correct"
        rows = _told(pynvml.nvmlDeviceGetRemappedRows, gpu.handle)
        if rows is not None and rows[3]:
            return "a faulty row of its memory could not be replaced"
        return ""


def _reading(handle: Any, fault: str) -> Reading:
    utilization = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    processes = _told(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle) or []
    return Reading(
        utilization=0.0 if utilization is None else utilization.gpu / 100,
        memory_used=0 if memory is None else memory.used,
        memory_total=0 if memory is None else memory.total,
        temperature=_temperature(handle),
        power=_watts(pynvml.nvmlDeviceGetPowerUsage, handle),
        power_limit=_watts(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle),
        processes=tuple(Process(process.pid, process.usedGpuMemory or 0) for process in processes),
        fault=fault,
    )


def _told(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer; None where there is none to be had."""
    try:
        return ask(*arguments)
    except _UNTOLD:
        return None


def _watts(ask: Callable[..., Any], handle: Any) -> float | None:
    milliwatts = _told(ask, handle)
    return None if milliwatts is None else milliwatts / 1000


def _temperature(handle: Any) -> float | None:
    """Degrees Celsius. The second question is the older one: bindings before 12.575 and drivers of their time know only
    that, and it is announced to go with CUDA 14."""
    for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):
        ask = getattr(pynvml, name, None)
        degrees = None if ask is None else _told(ask, handle, pynvml.NVML_TEMPERATURE_GPU)
        if degrees is not None:
            return float(degrees)
    return None


def _xid_events(handle: Any, uuid: str) -> Any:
    """The set in which the driver collects this GPU's critical Xids from now on, or None."""
    kinds = _told(pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
    if not kinds & pynvml.nvmlEventTypeXidCriticalError:
        return None
    events = pynvml.nvmlEventSetCreate()
    try:
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    except pynvml.NVMLError as error:
        _free(events)
        if isinstance(error, (*_DRIVER_GONE, pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)):
            raise
        # In some containers and virtual machines: the GPU works, and its other figures still tell of faults.
        logger.warning("the critical Xids of %s cannot be watched: %s", uuid, error)
        return None
    return events


def _collected(events: Any) -> list[int]:
    """The Xids since the last time. Does not wait: with a timeout of 0 the driver only looks."""
    xids: list[int] = []
    while len(xids) < _EVENT_LIMIT:
        try:
            xids.append(int(pynvml.nvmlEventSetWait_v2(events, 0).eventData))
        except pynvml.NVMLError_Timeout:
            break
    return xids


def _free(events: Any) -> None:
    try:
        pynvml.nvmlEventSetFree(events)
    except pynvml.NVMLError as error:  # it went with the GPU or the driver
        logger.debug("nvmlEventSetFree: %s", error)
