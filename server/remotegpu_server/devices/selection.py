# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""From the text of `--gpus` to devices."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from remotegpu import errors
from remotegpu_server.devices import nvml
from remotegpu_server.supervisor.worker import DeviceSpec

_HELP = '"0", "0,1", "all", "cpu" or "cpu:4"'
CPU_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Selection:
    """The devices, and a line to print when they were not asked for in so many words."""

    devices: tuple[DeviceSpec, ...]
    remark: str = ""


def select(text: str | None, find_gpus: Callable[[], Sequence[nvml.Gpu]], cpu_memory: int) -> Selection:
    """The devices that `text` names; None takes all GPUs or else the CPU. `cpu_memory`: bytes for all CPU devices.

    Raises ConfigurationError with a sentence that says what is missing and what to do."""
    if text is None:
        try:
            found = find_gpus()
        except nvml.NoDriver as error:
            remark = f"no GPU found ({error}): serving the CPU; ask for it with --gpus cpu"
            return Selection(_cpus(1, cpu_memory), remark)
        return Selection(_specs(found)) if found else Selection(_cpus(1, cpu_memory), "no GPU found: serving the CPU")
    if match := re.fullmatch(r"cpu(?::(\d+))?", text):
        count = int(match.group(1) or 1)
        if not 1 <= count <= CPU_LIMIT:
            raise errors.ConfigurationError(setting="--gpus", why=f"cpu:1 to cpu:{CPU_LIMIT} are allowed, not {text}")
        return Selection(_cpus(count, cpu_memory))
    if text != "all" and not re.fullmatch(r"\d+(,\d+)*", text):
        raise errors.ConfigurationError(setting="--gpus", why=f"{text!r} is not one of {_HELP}")
    return Selection(_specs(_chosen(text, find_gpus)))


def _chosen(text: str, find_gpus: Callable[[], Sequence[nvml.Gpu]]) -> Sequence[nvml.Gpu]:
    try:
        found = find_gpus()
    except nvml.NoDriver as error:
        raise errors.ConfigurationError(
            setting=f"--gpus {text}",
            why=f"no NVIDIA driver answers on this machine ({error}); install it, or serve the CPU with --gpus cpu",
        ) from error
    if text == "all" and found:
        return found
    by_index = {gpu.index: gpu for gpu in found}
    wanted = list(dict.fromkeys(int(number) for number in text.split(","))) if text != "all" else []
    missing = [number for number in wanted if number not in by_index]
    if missing or not wanted:
        have = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in found) or "none"
        raise errors.ConfigurationError(
            setting=f"--gpus {text}", why=f"this machine has these GPUs: {have}; serve the CPU with --gpus cpu"
        )
    return [by_index[number] for number in wanted]


def _specs(found: Sequence[nvml.Gpu]) -> tuple[DeviceSpec, ...]:
    return tuple(DeviceSpec(i, "cuda", gpu.name, gpu.uuid, gpu.memory) for i, gpu in enumerate(found))


def _cpus(count: int, memory: int) -> tuple[DeviceSpec, ...]:
    return tuple(DeviceSpec(i, "cpu", "CPU", f"CPU-{i}", memory // count) for i in range(count))


def check_packages(devices: Sequence[DeviceSpec]) -> None:
    """Refuses a start without what the workers import. Raises ConfigurationError with the pip line."""
    kind = "cuda" if any(device.kind == "cuda" for device in devices) else "cpu"
    needed = {"onnxruntime": "ONNX Runtime"} | ({"cupy": "CuPy"} if kind == "cuda" else {})
    missing = [title for module, title in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise errors.ConfigurationError(
            setting="installation", why=f"{' and '.join(missing)} is missing: pip install 'remotegpu[{kind}]'"
        )
