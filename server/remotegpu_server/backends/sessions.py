# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime: the only file that imports it. Options, errors in words, runs on host and device memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from remotegpu import errors
from remotegpu.strings import is_strings, strings_of

from .device import Device, HostArray

# What `--session-option` takes beside the configuration entries of ONNX Runtime, whose names have a dot.
_BOOLEANS = {"0": False, "1": True, "false": False, "true": True}
_ATTRIBUTES: Mapping[str, Callable[[str], Any]] = {
    "intra_op_num_threads": int,
    "inter_op_num_threads": int,
    "enable_mem_pattern": _BOOLEANS.__getitem__,
    "enable_cpu_mem_arena": _BOOLEANS.__getitem__,
    "execution_mode": lambda text: getattr(onnxruntime.ExecutionMode, f"ORT_{text.upper()}"),
    "graph_optimization_level": lambda text: getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{text.upper()}"),
}
_IR_VERSION = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(r"Opset (\d+) is under development.* support for domain (\S+) is till opset (\d+)", re.DOTALL)
_NO_MODEL = ("INVALID_PROTOBUF", "No graph was found")
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory", "CUDA_ERROR_OUT_OF_MEMORY")
# ONNX Runtime puts its source file and the signature of a C++ function before what it has to say.
_PREFIX = re.compile(r"^.*?/\w+\.(?:cc|h):\d+ .*?\) (?=[A-Z])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How models are run. `provider` are options of the device's execution provider, `session` those of sessions."""

    threads: int
    max_batch: int = 0
    provider: Mapping[str, str] = field(default_factory=dict)
    session: Mapping[str, str] = field(default_factory=dict)


class Session:
    """A loaded file. Runs of several threads may overlap."""

    def __init__(self, source: bytes | Path, device: Device, options: SessionOptions) -> None:
        """Raises ValueError for an unusable option, RuntimeError if the device's provider is not there, and whatever
        ONNX Runtime raises for the file (see `told`)."""
        self._device = device
        name, fixed = device.provider
        given = {**options.provider, **fixed}
        model = str(source) if isinstance(source, Path) else source
        self._session = onnxruntime.InferenceSession(model, _options(options), providers=[(name, given)])
        if self._session.get_providers()[0] != name:
            raise RuntimeError(
                f"ONNX Runtime {onnxruntime.__version__} runs on {self._session.get_providers()[0]} here, not on "
                f"{name}: install exactly one of onnxruntime and onnxruntime-gpu, and its CUDA libraries"
            )
        self.inputs: Sequence[Any] = self._session.get_inputs()
        self.outputs: Sequence[Any] = self._session.get_outputs()
        self._names = [node.name for node in self.outputs]
        has_strings = any("string" in node.type for node in (*self.inputs, *self.outputs))
        # Strings live on the host, which binding cannot mix with addresses of the device.
        self._on_host = device.place == "cpu" or has_strings
        # What ONNX Runtime takes and gives are the device's arrays.
        self._as_they_are = device.place == "cpu" and not has_strings

    def run(self, feed: Mapping[str, Any], dtypes: Sequence[np.dtype[Any]]) -> list[Any]:
        """The outputs, of those dtypes, as arrays of the device; strings as object arrays of bytes on the host.

        Raises InvalidInput for strings that are not UTF-8, and what ONNX Runtime raises."""
        if self._as_they_are:
            made: list[Any] = self._session.run(self._names, feed)
            return made
        return self._run_on_host(feed) if self._on_host else self._run_bound(feed, dtypes)

    def _run_on_host(self, feed: Mapping[str, Any]) -> list[Any]:
        host = {name: self._to_host(name, array) for name, array in feed.items()}
        return [self._from_host(array) for array in self._session.run(self._names, host)]

    def _to_host(self, name: str, array: Any) -> Any:
        if is_strings(array):
            return _text(name, array)
        if self._device.place == "cpu":
            return array
        host = np.empty(array.shape, array.dtype)
        self._device.download(array, host)
        return host

    def _from_host(self, array: HostArray) -> Any:
        if is_strings(array):
            return strings_of(array)
        return array if self._device.place == "cpu" else self._device.upload(np.ascontiguousarray(array))

    def _run_bound(self, feed: Mapping[str, Any], dtypes: Sequence[np.dtype[Any]]) -> list[Any]:
        """Inputs and outputs stay on the device: ONNX Runtime reads and leaves tensors at device addresses."""
        device, binding = self._device, self._session.io_binding()
        held = []
        for name, array in feed.items():
            array = device.xp.asarray(array, copy=None)
            if not array.flags.c_contiguous:
                array = array.copy()
            held.append(array)
            binding.bind_input(name, device.place, 0, array.dtype.type, array.shape, device.pointer(array))
        for name in self._names:
            binding.bind_output(name, device.place, 0)
        self._session.run_with_iobinding(binding)
        values = zip(dtypes, binding.get_outputs(), strict=True)
        return [_wrapped(device, dtype, value) for dtype, value in values]


def preload() -> None:
    """CuPy finds the CUDA libraries that pip installed; ONNX Runtime finds them only if they are loaded already."""
    onnxruntime.preload_dlls()


def told(model: str, size: int, device: Device, error: Exception) -> errors.Error:
    """What a file that could not be loaded is called: ModelUnusable with the reason and what to do, or OutOfMemory.
    `model` is "name:version", `size` that of its file. Raises the error again if the device does not survive it."""
    if isinstance(error, errors.Error):
        return error
    if device.is_broken(error):
        raise error
    text = _PREFIX.sub("", str(error).strip())
    if device.memory_error(error) is not None or any(sign in text for sign in _NO_MEMORY):
        asked = device.memory_error(error) or size
        operation, limit = f"load of model {model}", device.free_memory()
        return errors.OutOfMemory(node=0, operation=operation, why=_clipped(text), asked=asked, limit=limit)
    return errors.ModelUnusable(model=model, why=_reason(text, error))


def _reason(text: str, error: Exception) -> str:
    here = f"ONNX Runtime {onnxruntime.__version__} here"
    newer = _IR_VERSION.search(text)
    if newer:
        advice = f"save it with IR version {newer[2]} or lower, or install a newer onnxruntime on the server"
        return f"its file has IR version {newer[1]}, and {here} reads IR versions up to {newer[2]}: {advice}"
    newer = _OPSET.search(text)
    if newer:
        advice = f"export it with opset {newer[3]} or lower, or install a newer onnxruntime on the server"
        return f"it uses opset {newer[1]} of {newer[2]}, and {here} knows opsets up to {newer[3]}: {advice}"
    if any(sign in text for sign in _NO_MODEL):
        return "its file is not an ONNX model"
    return _clipped(f"{type(error).__name__}: {text}")


def _clipped(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _options(options: SessionOptions) -> Any:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = options.threads
    # Threads that spin after a run would take the cores from the daemon and from the other devices.
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in options.session.items():
        if "." in key:
            made.add_session_config_entry(key, value)
            continue
        try:
            setattr(made, key, _ATTRIBUTES[key](value))
        except (KeyError, ValueError, AttributeError) as error:
            known = ", ".join(_ATTRIBUTES)
            raise ValueError(f"--session-option {key}={value}: not one of {known} with a value for it") from error
    return made


def _text(name: str, array: HostArray) -> HostArray:
    """Object array of `str`, which is what ONNX Runtime takes."""
    flat = np.empty(array.size, object)
    for index, item in enumerate(array.reshape(-1)):
        try:
            flat[index] = item.decode()
        except UnicodeDecodeError as error:
            given = f"{item!r:.40} at element {index}"
            raise errors.InvalidInput(field=f"input {name!r}", limit="strings in UTF-8", given=given) from error
    return flat.reshape(array.shape)


def _wrapped(device: Device, dtype: np.dtype[Any], value: Any) -> Any:
    shape = tuple(value.shape())
    if math.prod(shape) == 0:
        return device.xp.empty(shape, dtype=dtype)
    return device.wrap(value.data_ptr(), dtype, shape, value)
