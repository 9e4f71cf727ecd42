# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""From a program's bytes to steps that can be run, once for all calls that send the same bytes.

Everything that can be refused without running is refused here, so running needs no checks but those that depend on
values. A function's handler sends the same program again and again; the last ones are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from remotegpu import errors, program, wire
from remotegpu.dtypes import from_number
from remotegpu.opset import TABLE
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.operations import Implementation, implementation

# Programs remembered per worker, and the size up to which one is. Bytes.
_REMEMBERED = 256
_SIZE_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True)
class LoadTensor:
    """Bytes of the body as an array."""

    start: int
    end: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadImage:
    """Bytes of the body as a picture."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Recall:
    """An array that the lease keeps."""

    handle: int


@dataclass(frozen=True, slots=True)
class Operate:
    """An array operation."""

    message: pb.Operation
    run: Implementation


@dataclass(frozen=True, slots=True)
class Infer:
    """A model call; inputs are (name or "", node, port)."""

    model: Model
    inputs: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """One port of an earlier node, found by name."""

    node: int
    port: int


Step = LoadTensor | LoadImage | Recall | Operate | Infer | Pick


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output: `names` are those of all ports of a model call, or None for one value."""

    node: int
    port: int
    fetch: bool
    keep: int
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked program. `last_uses`: by node, the nodes whose values nobody needs once it has run."""

    steps: tuple[Step, ...]
    names: tuple[str, ...]
    outputs: tuple[Wanted, ...]
    free: tuple[int, ...]
    handles: tuple[tuple[int, int], ...]
    last_uses: Mapping[int, tuple[int, ...]]


class Preparer:
    """Prepares programs for one device and epoch, with a memory for those seen before."""

    def __init__(self, models: Mapping[str, Model], device: int, epoch: int) -> None:
        self._models = models
        self._device = device
        self._epoch = epoch
        self._seen: OrderedDict[tuple[bytes, int], Prepared] = OrderedDict()

    def prepare(self, data: memoryview, body_size: int) -> Prepared:
        """Raises ProtocolError, InvalidInput, ModelNotFound or LeaseLost."""
        if len(data) > _SIZE_LIMIT:
            return self._prepared(wire.parse(pb.Program, data), body_size)
        key = (bytes(data), body_size)
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = self._prepared(wire.parse(pb.Program, key[0]), body_size)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key)
        return found

    def _prepared(self, message: pb.Program, body_size: int) -> Prepared:
        program.check(
            message,
            known=lambda name: implementation(name) is not None,
            body_size=body_size,
            epoch=self._epoch,
            device=self._device,
        )
        nodes = message.nodes
        steps = tuple(self._step(index, node, message) for index, node in enumerate(nodes))
        return Prepared(
            steps=steps,
            names=tuple(map(_name, nodes)),
            outputs=tuple(_wanted(output, steps) for output in message.outputs),
            free=tuple(message.free),
            handles=tuple((index, step.handle) for index, step in enumerate(steps) if isinstance(step, Recall)),
            last_uses=_last_uses(message),
        )

    def _step(self, index: int, node: pb.Node, message: pb.Program) -> Step:
        kind = node.WhichOneof("kind")
        if kind == "tensor":
            tensor, dtype = node.tensor, from_number(node.tensor.dtype)
            assert dtype is not None, "checked before"
            return LoadTensor(tensor.offset, tensor.offset + tensor.size, dtype, tuple(tensor.shape))
        if kind == "image":
            return LoadImage(node.image.offset, node.image.offset + node.image.size)
        if kind == "handle":
            return Recall(node.handle.id)
        if kind == "model":
            inputs = tuple((item.name, item.ref.node, item.ref.port) for item in node.model.inputs)
            return Infer(self._model(index, node.model.model), inputs)
        if kind == "named_port":
            return self._pick(index, node.named_port, message)
        run = implementation(node.operation.name)
        assert run is not None, "checked before"
        _check_arguments(index, node.operation)
        return Operate(node.operation, run)

    def _model(self, index: int, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            raise errors.ModelNotFound(field=f"node {index}", limit=", ".join(self._models) or "none", given=name)
        return model

    def _pick(self, index: int, port: pb.NamedPort, message: pb.Program) -> Pick:
        name = message.nodes[port.node].model.model
        names = self._model(port.node, name).output_names
        if port.name not in names:
            raise errors.InvalidInput(
                field=f"node {index}, output of model {name!r}", limit=", ".join(names), given=port.name
            )
        return Pick(port.node, names.index(port.name))


def _check_arguments(index: int, operation: pb.Operation) -> None:
    """Only arguments of the table reach the implementation: a NumPy function has others, such as `out` and `where`,
    that show memory which nobody wrote to. Raises InvalidInput."""
    signature = TABLE[operation.name].signature
    kwargs = {item.name: item.value for item in operation.kwargs}
    allowed = f"{operation.name}({signature.text})"

    def refused(given: str) -> errors.InvalidInput:
        return errors.InvalidInput(field=f"node {index}", limit=allowed, given=given)

    if len(kwargs) != len(operation.kwargs):
        raise refused("the same keyword twice")
    try:
        bound = signature.bind(operation.name, operation.args, kwargs)
    except TypeError as error:
        raise refused(str(error).removesuffix(f": {allowed}")) from error
    for name, value in zip(signature.names, bound, strict=True):
        if not isinstance(value, pb.Argument):
            continue  # a default, or arrays
        kind = value.WhichOneof("value")
        # NumPy makes dtypes of text and lists too, among them those whose items are Python objects.
        if (name == "dtype" and kind not in {"dtype", "none"}) or (name == "device" and kind != "none"):
            raise refused(f"{name} as {kind}")


def _wanted(output: pb.Output, steps: tuple[Step, ...]) -> Wanted:
    step = steps[output.ref.node]
    names = tuple(step.model.output_names) if output.every_port and isinstance(step, Infer) else None
    return Wanted(output.ref.node, output.ref.port, output.fetch, output.keep, names)


def _name(node: pb.Node) -> str:
    kind = node.WhichOneof("kind")
    if kind == "operation":
        return node.operation.name
    return f"model {node.model.model}" if kind == "model" else str(kind)


def _last_uses(message: pb.Program) -> dict[int, tuple[int, ...]]:
    last: dict[int, int] = {}
    for index, node in enumerate(message.nodes):
        for used in _references(node):
            last[used] = index
    for output in message.outputs:
        last.pop(output.ref.node, None)
    by_node: dict[int, list[int]] = {}
    for used, index in last.items():
        by_node.setdefault(index, []).append(used)
    return {index: tuple(used) for index, used in by_node.items()}


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
