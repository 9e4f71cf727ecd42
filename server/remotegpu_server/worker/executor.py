# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs one program on a device: values in order, temporaries freed after their last use."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remotegpu import errors, program
from remotegpu.dtypes import from_number, number_of
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends import images
from remotegpu_server.backends.device import Device, HostArray
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.operations import implementation


class LeaseMemory:
    """What leases keep on the device: arrays by lease and handle id."""

    def __init__(self) -> None:
        self._arrays: dict[int, dict[int, Any]] = {}
        self._held: dict[int, int] = {}

    def get(self, lease: int, handle: int) -> Any:
        """The array of a handle, or None."""
        return self._arrays.get(lease, {}).get(handle)

    def keep(self, lease: int, handle: int, array: Any) -> None:
        """Stores an array; a handle id that is taken keeps its first array's place and gets the new one."""
        self.free(lease, [handle])
        self._arrays.setdefault(lease, {})[handle] = array
        self._held[lease] = self._held.get(lease, 0) + array.nbytes

    def free(self, lease: int, handles: Any) -> None:
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
    """One program to run. `body` is a read-only view of the request slab."""

    program: pb.Program
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
        self.models = models
        self.memory = LeaseMemory()
        self._index = index
        self.epoch = epoch

    def check(self, request: Request) -> None:
        """Refuses what cannot run, before it takes device memory. Raises InvalidInput, ModelNotFound or LeaseLost."""
        program.check(
            request.program,
            known=lambda name: implementation(name) is not None,
            body_size=len(request.body),
            epoch=self.epoch,
            device=self._index,
        )
        for index, node in enumerate(request.program.nodes):
            kind = node.WhichOneof("kind")
            if kind == "model" and node.model.model not in self.models:
                raise errors.ModelNotFound(
                    field=f"node {index}", limit=", ".join(self.models) or "none", given=node.model.model
                )
            if kind == "handle" and self.memory.get(request.lease, node.handle.id) is None:
                raise errors.InvalidInput(
                    field=f"node {index}", limit="a handle that this lease keeps", given=f"handle {node.handle.id}"
                )

    def run(self, request: Request) -> Outcome:
        """Runs a checked program. Raises RemoteError, OutOfMemory or InvalidInput; a failed one keeps nothing."""
        self.memory.free(request.lease, request.program.free)
        with self.device.memory_scope(request.lease, request.memory_limit):
            return _Run(self, request).run()

    def drop(self, lease: int) -> None:
        """Frees all that a lease holds on the device."""
        self.memory.drop(lease)
        self.device.drop(lease)


class _Run:
    def __init__(self, executor: Executor, request: Request) -> None:
        self._executor = executor
        self._request = request
        self._device = executor.device
        self._values: list[list[Any]] = []
        self._last_use = _last_uses(request.program)
        self._taken = executor.memory.held(request.lease)

    def run(self) -> Outcome:
        nodes = self._request.program.nodes
        start = self._device.mark()
        loaded = {i: self._guard(i, node, self._load) for i, node in enumerate(nodes) if _is_input(node)}
        uploaded = self._device.mark()
        for index, node in enumerate(nodes):
            values = loaded.pop(index) if index in loaded else self._guard(index, node, self._compute)
            self._values.append(values)
            for used in self._last_use.get(index, ()):
                self._values[used] = []
        outcome = self._outputs()
        computed = self._device.mark()
        outcome.h2d_ns = self._device.elapsed_ns(start, uploaded)
        outcome.compute_ns = self._device.elapsed_ns(uploaded, computed)
        return outcome

    def _guard(self, index: int, node: pb.Node, work: Callable[[int, pb.Node], list[Any]]) -> list[Any]:
        try:
            return work(index, node)
        except errors.Error:
            raise
        except Exception as error:
            if self._device.is_broken(error):
                raise
            asked = self._device.memory_error(error)
            why = f"{type(error).__name__}: {error}"
            if asked is not None:
                limit = self._request.memory_limit or self._device.free_memory()
                raise errors.OutOfMemory(
                    node=index, operation=_name(node), why=why, asked=asked, limit=limit
                ) from error
            text = traceback.format_exc(limit=-6)
            raise errors.RemoteError(node=index, operation=_name(node), why=why, traceback=text) from error

    def _load(self, _index: int, node: pb.Node) -> list[Any]:
        if node.WhichOneof("kind") == "tensor":
            tensor = node.tensor
            data = self._request.body[tensor.offset : tensor.offset + tensor.size]
            host: HostArray = np.frombuffer(data, from_number(tensor.dtype)).reshape(tuple(tensor.shape))
            return [self._device.upload(host)]
        picture = images.decode(self._request.body[node.image.offset : node.image.offset + node.image.size])
        return [self._device.upload(picture)]

    def _compute(self, index: int, node: pb.Node) -> list[Any]:
        kind = node.WhichOneof("kind")
        if kind == "operation":
            return self._operation(index, node.operation)
        if kind == "model":
            model = self._executor.models[node.model.model]
            inputs = [(item.name, self._value(item.ref)) for item in node.model.inputs]
            return model.run(model.arrange(inputs))
        if kind == "named_port":
            return [self._named_port(index, node.named_port)]
        return [self._executor.memory.get(self._request.lease, node.handle.id)]

    def _operation(self, index: int, operation: pb.Operation) -> list[Any]:
        function = implementation(operation.name)
        assert function is not None, "checked before"
        args = [program.decode_argument(argument, self._value) for argument in operation.args]
        kwargs = {item.name: program.decode_argument(item.value, self._value) for item in operation.kwargs}
        made = function(self._device.xp, *args, **kwargs)
        values = list(made) if isinstance(made, (tuple, list)) else [made]
        limit = self._request.memory_limit
        for value in values:
            if getattr(value, "base", None) is None:
                self._taken += value.nbytes
            if limit and self._taken > limit:
                raise errors.OutOfMemory(
                    node=index,
                    operation=operation.name,
                    why="the lease declared no more",
                    asked=value.nbytes,
                    limit=limit,
                )
        return values

    def _named_port(self, index: int, port: pb.NamedPort) -> Any:
        call = self._request.program.nodes[port.node].model
        names = self._executor.models[call.model].output_names
        if port.name not in names:
            raise errors.InvalidInput(
                field=f"node {index}, output of model {call.model!r}", limit=", ".join(names), given=port.name
            )
        return self._values[port.node][names.index(port.name)]

    def _value(self, ref: pb.Ref) -> Any:
        values = self._values[ref.node]
        if ref.port >= len(values):
            raise errors.InvalidInput(
                field=f"node {ref.node}", limit=f"ports 0 to {len(values) - 1}", given=f"port {ref.port}"
            )
        return values[ref.port]

    def _outputs(self) -> Outcome:
        outcome = Outcome()
        request, memory = self._request, self._executor.memory
        kept: list[tuple[int, Any]] = []
        for index, output in enumerate(request.program.outputs):
            node = request.program.nodes[output.ref.node]
            names = self._executor.models[node.model.model].output_names if output.every_port else [""]
            arrays = self._values[output.ref.node] if output.every_port else [self._value(output.ref)]
            for name, array in zip(names, arrays, strict=True):
                number = number_of(np.dtype(array.dtype))
                if number is None:
                    raise errors.InvalidInput(
                        field=f"output {index}", limit="a dtype that travels", given=str(array.dtype)
                    )
                value = outcome.result.values.add(
                    output=index, name=name, shape=array.shape, epoch=self._executor.epoch
                )
                value.dtype = number  # type: ignore[assignment]  # the number of an enum value
                if output.fetch:
                    outcome.fetched.append((value, array))
                if output.keep:
                    kept.append((output.keep, self._device.own(array)))
        for handle, array in kept:
            memory.keep(request.lease, handle, array)
        return outcome


def _is_input(node: pb.Node) -> bool:
    return node.WhichOneof("kind") in {"tensor", "image"}


def _name(node: pb.Node) -> str:
    kind = node.WhichOneof("kind")
    if kind == "operation":
        return node.operation.name
    return f"model {node.model.model}" if kind == "model" else str(kind)


def _last_uses(message: pb.Program) -> dict[int, list[int]]:
    """By node: the nodes whose values nobody needs once it has run."""
    last: dict[int, int] = {}
    for index, node in enumerate(message.nodes):
        for used in _references(node):
            last[used] = index
    for output in message.outputs:
        last.pop(output.ref.node, None)
    by_node: dict[int, list[int]] = {}
    for used, index in last.items():
        by_node.setdefault(index, []).append(used)
    return by_node


def _references(node: pb.Node) -> list[int]:
    kind = node.WhichOneof("kind")
    if kind == "model":
        return [item.ref.node for item in node.model.inputs]
    if kind == "named_port":
        return [node.named_port.node]
    found: list[int] = []
    if kind == "operation":
        waiting = [*node.operation.args, *(item.value for item in node.operation.kwargs)]
        while waiting:
            argument = waiting.pop()
            which = argument.WhichOneof("value")
            if which == "ref":
                found.append(argument.ref.node)
            elif which == "list":
                waiting.extend(argument.list.items)
    return found
