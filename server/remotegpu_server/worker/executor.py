# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs prepared programs on a device: values in order, temporaries freed after their last use."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remotegpu import errors, program
from remotegpu.dtypes import number_of
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends import images
from remotegpu_server.backends.device import Device, HostArray
from remotegpu_server.backends.models import Model

from .prepared import Infer, LoadImage, LoadTensor, Operate, Pick, Prepared, Preparer, Recall, Step


class LeaseMemory:
    """What leases keep on the device: arrays by lease and handle id."""

    def __init__(self) -> None:
        self._arrays: dict[int, dict[int, Any]] = {}
        self._held: dict[int, int] = {}

    def get(self, lease: int, handle: int) -> Any:
        """The array of a handle, or None."""
        mine = self._arrays.get(lease)
        return None if mine is None else mine.get(handle)

    def keep(self, lease: int, handle: int, array: Any) -> None:
        """Stores an array; one that the handle had before is freed."""
        self.free(lease, (handle,))
        self._arrays.setdefault(lease, {})[handle] = array
        self._held[lease] = self._held.get(lease, 0) + array.nbytes

    def free(self, lease: int, handles: Iterable[int]) -> None:
        """Frees handles; those that are not there are passed over, so a repeated free is harmless."""
        mine = self._arrays.get(lease, {})
        for handle in handles:
            array = mine.pop(handle, None)
            if array is not None:
                self._held[lease] -= array.nbytes

    def drop(self, lease: int) -> None:
        """Frees all that a lease holds."""
        self._arrays.pop(lease, None)
        self._held.pop(lease, None)

    def held(self, lease: int | None = None) -> int:
        """Bytes held by one lease, or by all."""
        return sum(self._held.values()) if lease is None else self._held.get(lease, 0)


@dataclass(slots=True)
class Request:
    """One program to run. `program` and `body` are read-only views of the request slab."""

    program: memoryview
    body: memoryview
    lease: int
    memory_limit: int


@dataclass(slots=True)
class Outcome:
    """What came of it: the result message, the arrays to copy out with their places in it, times; or an error."""

    error: bytes | None = None
    result: pb.Result = field(default_factory=pb.Result)
    fetched: list[tuple[pb.Value, Any]] = field(default_factory=list)
    h2d_ns: int = 0
    compute_ns: int = 0


class Executor:
    """Holds a device, its models and what leases keep there."""

    def __init__(self, device: Device, models: dict[str, Model], index: int, epoch: int) -> None:
        self.device = device
        self.memory = LeaseMemory()
        self.epoch = epoch
        self._preparer = Preparer(models, index, epoch)

    def run(self, request: Request) -> Outcome:
        """Checks and runs a program. A failed one keeps nothing.

        Raises ProtocolError, InvalidInput, ModelNotFound or LeaseLost before it takes device memory; RemoteError,
        OutOfMemory or InvalidInput for what only running shows."""
        prepared = self._preparer.prepare(request.program, len(request.body))
        self.memory.free(request.lease, prepared.free)
        for index, handle in prepared.handles:
            if self.memory.get(request.lease, handle) is None:
                raise errors.InvalidInput(
                    field=f"node {index}", limit="a handle that this lease keeps", given=f"handle {handle}"
                )
        with self.device.memory_scope(request.lease, request.memory_limit):
            return _Run(self, request, prepared).run()

    def drop(self, lease: int) -> None:
        """Frees all that a lease holds on the device."""
        self.memory.drop(lease)
        self.device.drop(lease)


class _Run:
    def __init__(self, executor: Executor, request: Request, prepared: Prepared) -> None:
        self._executor = executor
        self._request = request
        self._prepared = prepared
        self._device = executor.device
        self._values: list[list[Any]] = []
        self._taken = executor.memory.held(request.lease)

    def run(self) -> Outcome:
        steps, last_uses = self._prepared.steps, self._prepared.last_uses
        start = self._device.mark()
        # All transfers first: they overlap, and their time is told apart from computing.
        loaded = {i: self._try(i, s) for i, s in enumerate(steps) if isinstance(s, (LoadTensor, LoadImage))}
        uploaded = self._device.mark()
        for index, step in enumerate(steps):
            self._values.append(loaded.pop(index) if index in loaded else self._try(index, step))
            for used in last_uses.get(index, ()):
                self._values[used] = []
        outcome = self._outputs()
        computed = self._device.mark()
        outcome.h2d_ns = self._device.elapsed_ns(start, uploaded)
        outcome.compute_ns = self._device.elapsed_ns(uploaded, computed)
        return outcome

    def _try(self, index: int, step: Step) -> list[Any]:
        try:
            return self._step(index, step)
        except errors.Error:
            raise
        except Exception as error:
            if self._device.is_broken(error):
                raise
            name, why = self._prepared.names[index], f"{type(error).__name__}: {error}"
            asked = self._device.memory_error(error)
            if asked is not None:
                limit = self._request.memory_limit or self._device.free_memory()
                raise errors.OutOfMemory(node=index, operation=name, why=why, asked=asked, limit=limit) from error
            text = traceback.format_exc(limit=-6)
            raise errors.RemoteError(node=index, operation=name, why=why, traceback=text) from error

    def _step(self, index: int, step: Step) -> list[Any]:
        match step:
            case LoadTensor(start=start, end=end, dtype=dtype, shape=shape):
                host: HostArray = np.frombuffer(self._request.body[start:end], dtype).reshape(shape)
                return [self._device.upload(host)]
            case LoadImage(start=start, end=end):
                return [self._device.upload(images.decode(self._request.body[start:end]))]
            case Recall(handle=handle):
                return [self._executor.memory.get(self._request.lease, handle)]
            case Infer(model=model, inputs=inputs):
                return model.run(model.arrange([(name, self._value(node, port)) for name, node, port in inputs]))
            case Pick(node=node, port=port):
                return [self._value(node, port)]
            case Operate():
                return self._operation(index, step)

    def _operation(self, index: int, step: Operate) -> list[Any]:
        message = step.message
        args = [program.decode_argument(argument, self._referred) for argument in message.args]
        kwargs = {item.name: program.decode_argument(item.value, self._referred) for item in message.kwargs}
        made = step.run(self._device.xp, *args, **kwargs)
        values = list(made) if isinstance(made, tuple) else [made]
        limit = self._request.memory_limit
        for value in values:
            if value.base is None:
                self._taken += value.nbytes
            if limit and self._taken > limit:
                why = "the lease declared no more"
                raise errors.OutOfMemory(node=index, operation=message.name, why=why, asked=value.nbytes, limit=limit)
        return values

    def _referred(self, ref: pb.Ref) -> Any:
        return self._value(ref.node, ref.port)

    def _value(self, node: int, port: int) -> Any:
        values = self._values[node]
        if port >= len(values):
            raise errors.InvalidInput(field=f"node {node}", limit=f"{len(values)} ports", given=f"port {port}")
        return values[port]

    def _outputs(self) -> Outcome:
        outcome = Outcome()
        kept: list[tuple[int, Any]] = []
        for index, wanted in enumerate(self._prepared.outputs):
            names = wanted.names or ("",)
            arrays = self._values[wanted.node] if wanted.names else [self._value(wanted.node, wanted.port)]
            for name, array in zip(names, arrays, strict=True):
                number = number_of(np.dtype(array.dtype))
                if number is None:
                    limit = "a dtype that travels"
                    raise errors.InvalidInput(field=f"output {index}", limit=limit, given=str(array.dtype))
                value = outcome.result.values.add(
                    output=index,
                    name=name,
                    dtype=number,
                    shape=array.shape,
                    epoch=self._executor.epoch,
                )
                if wanted.fetch:
                    outcome.fetched.append((value, array))
                if wanted.keep:
                    kept.append((wanted.keep, self._device.own(array)))
        for handle, array in kept:
            self._executor.memory.keep(self._request.lease, handle, array)
        return outcome
