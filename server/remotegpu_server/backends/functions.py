# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Functions as models: Python that the operator has placed in the model repository, run in the worker.

The file `function.py` has

    inputs = {"x": ("float32", ("n", 3))}    # by name a dtype and sizes: numbers, symbols, None for any
    outputs = {"y": ("float32", ("n",))}
    max_batch = 0                             # optional: rows up to which calls may be put together
    def call(xp, **arrays): ...               # arrays by name, or a tuple of them in the order of `outputs`

`xp` is the Array API namespace of the device (NumPy's or CuPy's, as array_api_compat spells it). The dtype "bytes"
stands for strings, which are object arrays of `bytes` on the host. A function may run in several threads at once if the
server has several sessions. It must not write to its inputs: others use the same memory. When it is loaded, it is
called with zeros and random numbers, to be warm and to see whether its rows depend on each other.

What it raises reaches callers as RemoteError with its traceback, errors of `remotegpu.errors` as they are.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remotegpu import errors
from remotegpu.dtypes import BYTES, number_of
from remotegpu.strings import STRINGS, strings_of
from remotegpu.v1 import compute_pb2 as pb
from remotegpu.v1 import worker_pb2 as worker

from .device import Device
from .models import Model, read
from .sessions import SessionOptions
from .trials import Port

PLATFORM = "remotegpu_python"


class Function(Model):
    """A function of the operator's."""

    def __init__(self, file: worker.ModelFile, device: Device, options: SessionOptions) -> None:
        """Imports the file. Raises ModelUnusable with the reason."""
        self._reference = f"{file.name}:{file.version}"
        content, digest = read(file)
        module = self._imported(content, Path(file.path), f"remotegpu_function_{file.id}")
        self._call = getattr(module, "call", None)
        if not callable(self._call):
            raise self._unusable("it has no function `call`")
        most = getattr(module, "max_batch", options.max_batch)
        if not isinstance(most, int) or most < 0:
            raise self._unusable(f"max_batch is {most!r:.80}, and not a whole number from 0")
        self._most = most
        signature = pb.ModelSignature(
            digest=digest,
            inputs=self._tensors(module, "inputs"),
            outputs=self._tensors(module, "outputs"),
            platform=PLATFORM,
        )
        super().__init__(file, device, signature)

    def try_out(self, max_batch: int) -> None:
        """As for all models, within the bound that the function sets itself."""
        super().try_out(min(max_batch, self._most))

    def _unusable(self, why: str) -> errors.ModelUnusable:
        return errors.ModelUnusable(model=self._reference, why=why)

    def _imported(self, content: bytes, path: Path, name: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path, loader=_Source(content, path))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look for it there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise self._unusable(f"it cannot be imported: {type(error).__name__}: {error}") from error
        return module

    def _tensors(self, module: types.ModuleType, side: str) -> list[pb.TensorSignature]:
        declared = getattr(module, side, None)
        if not isinstance(declared, Mapping) or (side == "outputs" and not declared):
            raise self._unusable(f"`{side}` is not a dict of names with dtype and sizes")
        found = []
        for name, item in declared.items():
            try:
                dtype, sizes = item
                found.append(_tensor(name, dtype, sizes))
            except (TypeError, ValueError) as error:
                why = f"`{side}`: {name!r:.80}: {item!r:.80} is not a dtype with sizes ({error})"
                raise self._unusable(why) from error
        return found

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        assert self._call is not None, "checked before"
        try:
            made = self._call(self._device.xp, **{name: _read_only(array) for name, array in feed.items()})
        except SystemExit as error:  # that would end the worker
            raise RuntimeError(f"the function calls exit({error.code!r:.80})") from error
        outputs = [self._output(port, array) for port, array in self._paired(made)]
        self.check_outputs(feed, outputs)
        return outputs

    def _paired(self, made: Any) -> list[tuple[Port, Any]]:
        """Outputs as declared, each with what the function gave for it. Raises TypeError if others came."""
        names = self.output_names
        if isinstance(made, tuple) and len(made) == len(names):
            return list(zip(self.outputs, made, strict=True))
        if isinstance(made, Mapping) and set(made) == set(names):
            return [(port, made[port.name]) for port in self.outputs]
        if isinstance(made, Mapping):
            given = f"the outputs {', '.join(map(repr, made))}"
        else:
            given = f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
        raise TypeError(f"model {self._reference} gave {given}, not {', '.join(map(repr, names))}")

    def _output(self, port: Port, array: Any) -> Any:
        if port.dtype != STRINGS:
            return self._device.xp.asarray(array)
        host = np.asarray(array)
        if host.dtype.kind not in "USO":
            return host  # refused with its dtype
        try:
            return strings_of(host)
        except errors.InvalidInput as error:
            raise TypeError(f"output {port.name!r} of model {self._reference}: {error}") from error


class _Source(importlib.abc.InspectLoader):
    """Loads a module from bytes: those whose digest is told, and no older ones from a cache."""

    def __init__(self, content: bytes, path: Path) -> None:
        self._content = content
        self._path = path

    def get_source(self, fullname: str) -> str:
        """For tracebacks."""
        return importlib.util.decode_source(self._content)

    def get_code(self, fullname: str) -> types.CodeType:
        """Compiles it."""
        return self.source_to_code(self._content, str(self._path))


def _read_only(array: Any) -> Any:
    """A view that cannot be written to, where the library has that."""
    if not isinstance(array, np.ndarray):
        return array
    view = array.view()
    view.setflags(write=False)
    return view


def _tensor(name: Any, dtype: Any, sizes: Sequence[Any]) -> pb.TensorSignature:
    """Raises TypeError or ValueError for what cannot be declared."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError("a name is a Python identifier")
    number = BYTES if dtype == "bytes" else number_of(np.dtype(dtype))
    if number is None:
        raise ValueError(f"{dtype} does not travel")
    made = pb.TensorSignature(name=name, dtype=number)  # type: ignore[arg-type]  # an enum's number
    for size in sizes:
        if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
            made.shape.add(fixed=size)
        elif size is None or isinstance(size, str):
            made.shape.add(symbol=size) if size else made.shape.add()
        else:
            raise ValueError("a size is a whole number, a symbol, or None for any")
    return made
