# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which NVIDIA GPUs this machine has: the only file that imports NVML (`nvidia-ml-py`)."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml


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
