# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models of a device: what a loaded file takes and gives, and its runs; ONNX models."""

from __future__ import annotations

import abc
import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remotegpu import errors
from remotegpu.dtypes import BYTES, from_number, number_of
from remotegpu.strings import STRINGS, is_strings
from remotegpu.v1 import compute_pb2 as pb
from remotegpu.v1 import worker_pb2 as worker

from . import onnx_file, sessions, trials
from .device import Device, HostArray
from .sessions import Session, SessionOptions

PLATFORM = "onnxruntime_onnx"
_TYPES = {"float": "float32", "double": "float64"}  # the others are named as NumPy names them


class Model(abc.ABC):
    """One loaded model of whatever kind. Runs of several threads may overlap.

    `output_names` are in the model's order. `max_batch`: rows that one run may have when calls are put together along
    the first dimension; 0: they are not. `nbytes`: device memory that it is counted with. `calls`: references of the
    models that it calls itself."""

    calls: Sequence[str] = ()

    def __init__(self, file: worker.ModelFile, device: Device, signature: pb.ModelSignature) -> None:
        """Not warm yet, and counted with its file's size: see `load`. The signature has what the kind of model knows;
        name and version are added here."""
        self.name, self.version = file.name, file.version
        self.nbytes = file.size
        self.max_batch = 0
        # Called whenever the last run under way has ended.
        self.on_idle: Callable[[], None] = lambda: None
        self._runs = 0
        self._counting = threading.Lock()
        self._device = device
        self._describe(signature)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}:{self.version}>"

    def _describe(self, signature: pb.ModelSignature) -> None:
        self.signature = signature
        signature.name, signature.version = self.name, self.version
        self.inputs = [_port(tensor) for tensor in signature.inputs]
        self.outputs = [_port(tensor) for tensor in signature.outputs]
        self.output_names = [port.name for port in self.outputs]
        self._names = [port.name for port in self.inputs]

    @abc.abstractmethod
    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        """A run, of any thread. Raises whatever goes wrong."""

    @property
    def is_running(self) -> bool:
        """Whether a run is under way."""
        return self._runs > 0

    def arrange(self, inputs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Arrays by input name, from pairs with a name or, for those without one, by position.

        Raises InvalidInput for a missing, extra or unknown input, a wrong dtype, or a shape that does not fit."""
        names = self._names
        feed: dict[str, Any] = {}
        for position, (name, array) in enumerate(inputs):
            key = name or (names[position] if position < len(names) else f"number {position + 1}")
            if key not in names or key in feed:
                raise self._refused(f"an input {key}")
            feed[key] = array
        sizes: dict[str, int] = {}
        for wanted in self.inputs:
            given = feed.get(wanted.name)
            if given is None:
                raise self._refused(f"no {wanted.name}")
            if not _fits(wanted, given, sizes):
                raise errors.InvalidInput(
                    field=f"model {self.name!r}, input {wanted.name!r}",
                    limit=_text(wanted.dtype, wanted.shape),
                    given=_text(given.dtype, given.shape),
                )
        return feed

    def _refused(self, given: str) -> errors.InvalidInput:
        limit = f"the inputs {', '.join(self._names)}" if self._names else "no inputs"
        return errors.InvalidInput(field=f"model {self.name!r}", limit=limit, given=given)

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        """The outputs in the model's order, as arrays of the device; strings as object arrays of bytes on the host.

        Raises whatever goes wrong."""
        with self._counting:
            self._runs += 1
        try:
            return self._run(feed)
        finally:
            with self._counting:
                self._runs -= 1
            if not self._runs:
                self.on_idle()

    def check_outputs(self, feed: Mapping[str, Any], arrays: Sequence[Any]) -> None:
        """For models that are not held to their signature by what runs them. Raises TypeError, which names the output,
        for a dtype or shape that is not the declared one."""
        sizes: dict[str, int] = {}
        for port in self.inputs:
            _fits(port, feed[port.name], sizes)
        for port, array in zip(self.outputs, arrays, strict=True):
            if not _fits(port, array, sizes):
                given, declared = _text(array.dtype, array.shape), _text(port.dtype, port.shape)
                raise TypeError(f"output {port.name!r} of model {self.name}:{self.version} is {given}, not {declared}")

    def try_out(self, max_batch: int) -> None:
        """Makes it warm, and finds out whether calls may be put together, up to `max_batch` rows (less than 2: no)."""
        trials.warm(f"{self.name}:{self.version}", self.inputs, self._run_from_host)
        joinable = max_batch > 1 and trials.may_join(self.inputs, self.outputs)
        if joinable and trials.rows_agree(self.inputs, self._run_from_host):
            self.max_batch = self.signature.max_batch = max_batch

    def _run_from_host(self, feed: Mapping[str, HostArray]) -> list[HostArray]:
        device = self._device
        inputs = {name: array if is_strings(array) else device.upload(array) for name, array in feed.items()}
        found: list[HostArray] = []
        for array in self.run(inputs):
            host = array
            if not is_strings(array):
                host = np.empty(array.shape, array.dtype)
                device.download(array, host)
            found.append(host)
        return found


class OnnxModel(Model):
    """An ONNX model in a session of ONNX Runtime."""

    def __init__(self, file: worker.ModelFile, device: Device, options: SessionOptions) -> None:
        """Loads the file. Raises whatever goes wrong."""
        content, digest = read(file)
        facts = _facts(file, content)
        # By its path only where ONNX Runtime must find what lies beside it.
        self._session = Session(Path(file.path) if facts.external else content, device, options)
        signature = pb.ModelSignature(
            digest=digest,
            inputs=[_signature(node, facts) for node in self._session.inputs],
            outputs=[_signature(node, facts) for node in self._session.outputs],
            platform=PLATFORM,
        )
        super().__init__(file, device, signature)
        self._dtypes = [port.dtype for port in self.outputs]

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        """Raises InvalidInput for strings that are not UTF-8, and what ONNX Runtime raises."""
        return self._session.run(feed, self._dtypes)


def read(file: worker.ModelFile) -> tuple[bytes, bytes]:
    """The file's bytes and their digest. Raises ModelUnusable if it has changed since it was loaded, or OSError."""
    content = Path(file.path).read_bytes()
    digest = hashlib.sha256(content).digest()
    if file.digest and digest != file.digest:
        why = "its file was changed after it had been loaded: load it again"
        raise errors.ModelUnusable(model=f"{file.name}:{file.version}", why=why)
    return content, digest


# Makes a model of a file that is not warm yet.
Opened = Callable[[worker.ModelFile, Device, SessionOptions], Model]


def load(file: worker.ModelFile, device: Device, options: SessionOptions, opened: Opened = OnnxModel) -> Model:
    """A file as a warm model. Raises ModelUnusable with the reason, or OutOfMemory; all else ends the device."""
    before = device.free_memory()
    try:
        model = opened(file, device, options)
        model.try_out(options.max_batch)
    except Exception as error:
        raise sessions.told(f"{file.name}:{file.version}", file.size, device, error) from error
    # On the host this is a constant, so the file's size counts there. What others allocate meanwhile counts here too:
    # rather too much than too little.
    model.nbytes = max(file.size, before - device.free_memory())
    return model


def check_device(device: Device, options: SessionOptions) -> None:
    """Runs a probe, so that a server without models also refuses to start where ONNX Runtime has no such provider and
    would fall back to the CPU in silence. Raises ValueError or RuntimeError."""
    if device.place == "cuda":
        sessions.preload()
    path = Path(__file__).with_name("probe.onnx")
    probe = OnnxModel(worker.ModelFile(name="probe", version="1", path=str(path)), device, options)
    probe.run({"x": device.upload(np.ones(2, np.float32))})


def _facts(file: worker.ModelFile, content: bytes) -> onnx_file.Facts:
    model = f"{file.name}:{file.version}"
    try:
        facts = onnx_file.facts(content)
    except ValueError as error:
        raise errors.ModelUnusable(model=model, why=f"its file is not an ONNX model ({error})") from error
    if file.uploaded and facts.external:
        why = "its tensors lie in other files: save it as one file (external data is not uploaded)"
        raise errors.ModelUnusable(model=model, why=why)
    return facts


def _signature(node: Any, facts: onnx_file.Facts) -> pb.TensorSignature:
    match = re.fullmatch(r"tensor\((\w+)\)", node.type)
    name = match.group(1) if match else ""
    try:
        number = BYTES if name == "string" else number_of(np.dtype(_TYPES.get(name, name))) if name else None
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{node.name} is a {node.type}, which is not supported")
    tensor = pb.TensorSignature(name=node.name, dtype=number)  # type: ignore[arg-type]  # an enum's number
    tensor.unknown_rank = node.name in facts.unranked
    for size in node.shape:
        if isinstance(size, int) and size >= 0:
            tensor.shape.add(fixed=size)
        else:  # some exporters write -1
            tensor.shape.add(symbol=size) if size and isinstance(size, str) else tensor.shape.add()
    return tensor


def _port(tensor: pb.TensorSignature) -> trials.Port:
    dtype = STRINGS if tensor.dtype == BYTES else from_number(tensor.dtype)
    assert dtype is not None, "made by _signature"
    shape = (size.fixed if size.WhichOneof("value") == "fixed" else size.symbol for size in tensor.shape)
    return trials.Port(tensor.name, dtype, None if tensor.unknown_rank else tuple(shape))


def _fits(port: trials.Port, array: Any, sizes: dict[str, int]) -> bool:
    """Whether the array suits; `sizes` are the numbers that the symbols of this call stand for."""
    if array.dtype != port.dtype:
        return False
    if port.shape is None:
        return True
    if len(array.shape) != len(port.shape):
        return False
    for wanted, size in zip(port.shape, array.shape, strict=True):
        if isinstance(wanted, int):
            if size != wanted:
                return False
        elif wanted and sizes.setdefault(wanted, size) != size:
            return False
    return True


def _text(dtype: np.dtype[Any], shape: Sequence[int | str] | None) -> str:
    sizes = "..." if shape is None else ", ".join(str(size) if size != "" else "?" for size in shape)
    return f"{'strings' if dtype == STRINGS else dtype}[{sizes}]"
