# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX models of a device: the only file that knows ONNX Runtime.

A model repository is `DIR/<name>/<version>/model.onnx`, the layout that Triton uses; the highest version is served.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from remotegpu import errors
from remotegpu.dtypes import from_number, number_of
from remotegpu.v1 import compute_pb2 as pb

from .device import Device, HostArray

logger = logging.getLogger("remotegpu.worker")

_TYPES = {"float": "float32", "double": "float64"}  # the others are named as NumPy names them
# Symbolic sizes of the warm-up call: 1 suits batches; some networks need a picture of some size.
_WARM_SIZES = (1, 64)


@dataclass(frozen=True, slots=True)
class _Input:
    """What a model wants of an input: sizes are numbers, symbols, or "" for any."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    @classmethod
    def of(cls, tensor: pb.TensorSignature) -> _Input:
        dtype = from_number(tensor.dtype)
        assert dtype is not None, "made by _signature"
        shape = (size.fixed if size.WhichOneof("value") == "fixed" else size.symbol for size in tensor.shape)
        return cls(tensor.name, dtype, tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(size) or '?' for size in self.shape)}]"

    def fits(self, array: Any, sizes: dict[str, int]) -> bool:
        """Whether the array suits; `sizes` are the numbers that the symbols of this call stand for."""
        if array.dtype != self.dtype or len(array.shape) != len(self.shape):
            return False
        for wanted, size in zip(self.shape, array.shape, strict=True):
            if isinstance(wanted, int):
                if size != wanted:
                    return False
            elif wanted and sizes.setdefault(wanted, size) != size:
                return False
        return True

    def zeros(self, size: int) -> HostArray:
        """Zeros of this shape, with `size` for what is not fixed."""
        return np.zeros([wanted if isinstance(wanted, int) else size for wanted in self.shape], self.dtype)


class Model:
    """One loaded model."""

    def __init__(self, name: str, path: Path, device: Device, threads: int) -> None:
        self.name = name
        self._device = device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin after a run would take the cores from the daemon and from the other devices.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = path.read_bytes()
        self._session = onnxruntime.InferenceSession(content, options, providers=[device.provider])
        if self._session.get_providers()[0] != device.provider[0]:
            raise RuntimeError(
                f"ONNX Runtime {onnxruntime.__version__} runs on {self._session.get_providers()[0]} here, not on "
                f"{device.provider[0]}: install exactly one of onnxruntime and onnxruntime-gpu, and its CUDA libraries"
            )
        self.signature = pb.ModelSignature(
            name=name,
            version=path.parent.name,
            digest=hashlib.sha256(content).digest(),
            inputs=[_signature(name, node) for node in self._session.get_inputs()],
            outputs=[_signature(name, node) for node in self._session.get_outputs()],
        )
        self.output_names = [tensor.name for tensor in self.signature.outputs]
        self._inputs = [_Input.of(tensor) for tensor in self.signature.inputs]
        self._names = [wanted.name for wanted in self._inputs]

    def arrange(self, inputs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Arrays by input name, from pairs with a name or, for those without one, by position.

        Raises InvalidInput for a missing, extra or unknown input, a wrong dtype, or a shape that does not fit."""
        names = self._names
        feed: dict[str, Any] = {}
        for position, (name, array) in enumerate(inputs):
            key = name or (names[position] if position < len(names) else f"number {position + 1}")
            if key not in names or key in feed:
                raise errors.InvalidInput(
                    field=f"model {self.name!r}", limit=f"the inputs {', '.join(names)}", given=f"an input {key}"
                )
            feed[key] = array
        sizes: dict[str, int] = {}
        for wanted in self._inputs:
            given = feed.get(wanted.name)
            if given is None:
                raise errors.InvalidInput(
                    field=f"model {self.name!r}", limit=f"the inputs {', '.join(names)}", given=f"no {wanted.name}"
                )
            if not wanted.fits(given, sizes):
                raise errors.InvalidInput(
                    field=f"model {self.name!r}, input {wanted.name!r}",
                    limit=str(wanted),
                    given=f"{given.dtype}[{', '.join(map(str, given.shape))}]",
                )
        return feed

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """The outputs in the model's order, as arrays of the device."""
        if self._device.place == "cpu":
            return list(self._session.run(self.output_names, feed))
        return self._run_bound(feed)

    def _run_bound(self, feed: dict[str, Any]) -> list[Any]:
        """Inputs and outputs stay on the device: ONNX Runtime reads and leaves tensors at device addresses."""
        device, binding = self._device, self._session.io_binding()
        held = []
        for name, array in feed.items():
            array = device.xp.asarray(array, copy=None)
            if not array.flags.c_contiguous:
                array = array.copy()
            held.append(array)
            binding.bind_input(name, device.place, 0, array.dtype.type, array.shape, device.pointer(array))
        for name in self.output_names:
            binding.bind_output(name, device.place, 0)
        self._session.run_with_iobinding(binding)
        outputs = zip(self.signature.outputs, binding.get_outputs(), strict=True)
        return [_wrapped(device, from_number(tensor.dtype), value) for tensor, value in outputs]

    def warm(self) -> None:
        """Runs once on zeros, so that the first caller does not pay for kernels and memory."""
        for size in _WARM_SIZES:
            try:
                self.run({wanted.name: self._device.upload(wanted.zeros(size)) for wanted in self._inputs})
                return
            except Exception as error:  # what a model demands of its sizes is known to the model alone
                logger.info("model %s does not run on sizes of %d: %s", self.name, size, error)
        logger.warning("model %s could not be warmed up: its first call will be slow", self.name)


def _wrapped(device: Device, dtype: np.dtype[Any] | None, value: Any) -> Any:
    assert dtype is not None
    shape = tuple(value.shape())
    if math.prod(shape) == 0:
        return device.xp.empty(shape, dtype=dtype)
    return device.wrap(value.data_ptr(), dtype, shape, value)


def _signature(model: str, node: Any) -> pb.TensorSignature:
    match = re.fullmatch(r"tensor\((\w+)\)", node.type)
    name = match.group(1) if match else ""
    try:
        number = number_of(np.dtype(_TYPES.get(name, name))) if name else None
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"model {model}: {node.name} is a {node.type}, which is not supported")
    tensor = pb.TensorSignature(name=node.name, dtype=number)  # type: ignore[arg-type]  # an enum's number
    for size in node.shape:
        if isinstance(size, int):
            tensor.shape.add(fixed=size)
        else:
            tensor.shape.add(symbol=size) if size else tensor.shape.add()
    return tensor


def load(repository: Path | None, device: Device, threads: int) -> dict[str, Model]:
    """The models of a repository, warm. Raises ValueError or RuntimeError naming the model that cannot be served.

    A probe runs first, so that a server without models also refuses to start where ONNX Runtime has no such provider
    and would fall back to the CPU in silence."""
    if device.place == "cuda":
        # CuPy finds the CUDA libraries that pip installed; ONNX Runtime finds them only if they are loaded already.
        onnxruntime.preload_dlls()
    probe = Model("probe", Path(__file__).with_name("probe.onnx"), device, threads)
    probe.run({"x": device.upload(np.ones(2, np.float32))})
    models: dict[str, Model] = {}
    for folder in sorted(repository.iterdir()) if repository else []:
        versions = sorted((v for v in folder.iterdir() if v.name.isdigit()), key=lambda v: int(v.name))
        if not versions or not (versions[-1] / "model.onnx").is_file():
            raise ValueError(f"{folder}: no <version>/model.onnx in it")
        try:
            models[folder.name] = Model(folder.name, versions[-1] / "model.onnx", device, threads)
        except Exception as error:
            raise RuntimeError(f"model {folder.name}: {error}") from error
        models[folder.name].warm()
    return models


def catalog(models: dict[str, Model]) -> pb.Catalog:
    """The signatures, with a digest that changes when one of them does."""
    made = pb.Catalog(models=[model.signature for model in models.values()])
    made.digest = hashlib.sha256(made.SerializeToString(deterministic=True)).digest()[:16]
    return made
