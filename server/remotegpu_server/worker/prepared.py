# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""From a program's bytes to steps that can be run, once for all calls that send the same bytes.

Everything that can be refused without running is refused here, so running needs no checks but those that depend on
values. A function's handler sends the same program again and again; the last ones are remembered.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from remotegpu import errors, program, wire
from remotegpu.dtypes import BYTES, from_number
from remotegpu.opset import TABLE
from remotegpu.strings import STRINGS
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.operations import Implementation, implementation

from .order import Touched


class Loading:
    """What stands for a model that is being loaded. Whoever loads it rings when it is there (or cannot be loaded), and
    is asked again."""

    # Why it cannot be loaded, once that is known.
    error: errors.Error | None = None


class Models(Protocol):
    """The models that programs of a worker may run. A reference is `name`, `name:version` or `name:alias`."""

    def output_names(self, reference: str) -> Sequence[str] | None:
        """In the model's order, None if they are not known before it is loaded; loads nothing. Raises ModelNotFound."""

    def get(self, reference: str, lease: int) -> Model | Loading:
        """The model, which stays usable as long as somebody holds it. Raises ModelNotFound, or why it cannot be
        loaded."""

    def drop(self, lease: int) -> None:
        """The lease is over. Any thread may say so."""


# Programs remembered per worker, and the size up to which one is. Bytes.
_REMEMBERED = 256
_SIZE_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True)
class LoadTensor:
    """Bytes as an array: of the body, or of the "content" or "fetched" file of that number."""

    start: int
    end: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    source: str = "body"
    number: int = 0
    # `remotegpu.v1.Compression`, and the dtype of the bytes if it is another.
    compression: int = 0
    travels_as: np.dtype[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_as_it_lies(self) -> bool:
        """Whether the bytes of the body are the array."""
        return self.source == "body" and not (self.compression or self.travels_as) and self.dtype != STRINGS


@dataclass(frozen=True, slots=True)
class LoadImage:
    """Bytes as a picture, from the same places."""

    start: int
    end: int
    source: str = "body"
    number: int = 0


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
    """A model call; inputs are (name or "", node, port). The model is looked up when the step runs: a program that is
    remembered must not hold on to one that was unloaded."""

    reference: str
    inputs: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """One port of an earlier model call, found by name."""

    node: int
    name: str


@dataclass(frozen=True, slots=True)
class Take:
    """An input of a saved program, by its place."""

    number: int


Step = LoadTensor | LoadImage | Recall | Operate | Infer | Pick | Take


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output: one value, or `every_port` of a model call."""

    node: int
    port: int
    fetch: bool
    keep: int
    every_port: bool


@dataclass(frozen=True, slots=True, eq=False)
class SingleModel:
    """A program that is plain tensors of the body, one model that takes them, and outputs of it that are fetched.

    `tensors`: where each begins in the body, how many elements, dtype, shape; `inputs`: name (or "") and tensor;
    `outputs`: name or number of one, None for all. `node` and `name` are the call's, `last_node` the program's."""

    reference: str
    tensors: tuple[tuple[int, int, np.dtype[Any], tuple[int, ...]], ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[str | int | None, ...]
    node: int
    name: str
    last_node: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked program. `last_uses`: by node, the nodes whose values nobody needs once it has run; `touched`: the
    handles of its lease that it reads or changes."""

    steps: tuple[Step, ...]
    names: tuple[str, ...]
    outputs: tuple[Wanted, ...]
    free: tuple[int, ...]
    handles: tuple[tuple[int, int], ...]
    last_uses: Mapping[int, tuple[int, ...]]
    touched: Touched
    # Nothing runs before its only model, so that it need not be asked for before that.
    is_plain: bool
    # What it is, if it is no more than that.
    single: SingleModel | None


class Preparer:
    """Prepares programs for one device and epoch, with a memory for those seen before."""

    def __init__(self, device: int, epoch: int) -> None:
        self._device = device
        self._epoch = epoch
        self._seen: OrderedDict[tuple[bytes, int, tuple[int, int]], Prepared] = OrderedDict()

    def prepare(self, data: memoryview, body_size: int, attached: tuple[int, int] = (0, 0)) -> Prepared:
        """`attached`: how many contents and how many fetched files the call has. Raises ProtocolError, InvalidInput or
        LeaseLost."""
        if len(data) > _SIZE_LIMIT:
            return self._prepared(wire.parse(pb.Program, data), body_size, attached)
        key = (bytes(data), body_size, attached)
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = self._prepared(wire.parse(pb.Program, key[0]), body_size, attached)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key)
        return found

    def seen(self, data: memoryview, body_size: int) -> Prepared | None:
        """What is remembered of a program without attachments."""
        if len(data) > _SIZE_LIMIT:
            return None
        key = (bytes(data), body_size, (0, 0))
        found = self._seen.get(key)
        if found is not None:
            self._seen.move_to_end(key)
        return found

    def _prepared(self, message: pb.Program, body_size: int, attached: tuple[int, int]) -> Prepared:
        program.check(
            message,
            known=lambda name: implementation(name) is not None,
            body_size=body_size,
            epoch=self._epoch,
            device=self._device,
            attached=attached,
        )
        return prepared_program(message)


def prepared_program(message: pb.Program) -> Prepared:
    """A program that `program.check` has passed. Raises InvalidInput for arguments that no operation has."""
    nodes = message.nodes
    steps = tuple(_step(index, node) for index, node in enumerate(nodes))
    outputs = tuple(Wanted(o.ref.node, o.ref.port, o.fetch, o.keep, o.every_port) for o in message.outputs)
    handles = tuple((index, step.handle) for index, step in enumerate(steps) if isinstance(step, Recall))
    return Prepared(
        steps=steps,
        names=tuple(map(_name, nodes)),
        outputs=outputs,
        free=tuple(message.free),
        handles=handles,
        last_uses=_last_uses(message),
        is_plain=_is_plain(steps),
        single=None if message.free else _single(steps, outputs),
        touched=Touched(
            frozenset(handle for _, handle in handles),
            frozenset([*message.free, *(wanted.keep for wanted in outputs if wanted.keep)]),
        ),
    )


def _is_plain(steps: Sequence[Step]) -> bool:
    *before, last = steps or (None,)
    return isinstance(last, Infer) and all(isinstance(step, (LoadTensor, LoadImage)) for step in before)


def _single(steps: Sequence[Step], outputs: Sequence[Wanted]) -> SingleModel | None:
    node = next((index for index, step in enumerate(steps) if not isinstance(step, LoadTensor)), len(steps))
    call = steps[node] if node < len(steps) else None
    loads = [step for step in steps[:node] if isinstance(step, LoadTensor) and step.is_as_it_lies]
    if not isinstance(call, Infer) or len(loads) < node or any(port for _, _, port in call.inputs):
        return None
    found: list[str | int | None] = []
    for wanted in outputs:
        step = steps[wanted.node]
        if not wanted.fetch or wanted.keep or not (step is call or (isinstance(step, Pick) and not wanted.port)):
            return None
        found.append(step.name if isinstance(step, Pick) else None if wanted.every_port else wanted.port)
    if not all(isinstance(step, Pick) for step in steps[node + 1 :]):
        return None
    return SingleModel(
        reference=call.reference,
        tensors=tuple((load.start, math.prod(load.shape), load.dtype, load.shape) for load in loads),
        inputs=tuple((name, used) for name, used, _ in call.inputs),
        outputs=tuple(found),
        node=node,
        name=f"model {call.reference}",
        last_node=len(steps) - 1,
    )


def check_models(prepared: Prepared, models: Models) -> None:
    """Checks what can be told of a program's models without loading them.

    Raises ModelNotFound, or InvalidInput for an output that the model does not have."""
    names: dict[int, Sequence[str] | None] = {}
    for index, step in enumerate(prepared.steps):
        if isinstance(step, Infer):
            try:
                names[index] = models.output_names(step.reference)
            except errors.ModelNotFound as error:
                raise not_found(index, error) from None
        elif isinstance(step, Pick):
            call, known = prepared.steps[step.node], names[step.node]
            assert isinstance(call, Infer), "checked before"
            if known is not None:
                port_named(index, step, call.reference, known)


def not_found(index: int, error: errors.ModelNotFound) -> errors.ModelNotFound:
    """The error with the node that names the model."""
    return errors.ModelNotFound(field=f"node {index}", limit=error.limit, given=error.given)


def port_named(index: int, step: Pick, reference: str, names: Sequence[str]) -> int:
    """Which of a model's outputs node `index` means. Raises InvalidInput if it has none of that name."""
    if step.name not in names:
        raise errors.InvalidInput(
            field=f"node {index}, output of model {reference!r}", limit=", ".join(names), given=step.name
        )
    return names.index(step.name)


def _step(index: int, node: pb.Node) -> Step:
    kind = node.WhichOneof("kind")
    if kind == "tensor":
        tensor = node.tensor
        dtype = STRINGS if tensor.dtype == BYTES else from_number(tensor.dtype)
        assert dtype is not None, "checked before"
        end, shape, travels_as = tensor.offset + tensor.size, tuple(tensor.shape), from_number(tensor.travels_as)
        return LoadTensor(tensor.offset, end, dtype, shape, *_source(tensor), tensor.compression, travels_as)
    if kind == "image":
        return LoadImage(node.image.offset, node.image.offset + node.image.size, *_source(node.image))
    if kind == "handle":
        return Recall(node.handle.id)
    if kind == "model":
        inputs = tuple((item.name, item.ref.node, item.ref.port) for item in node.model.inputs)
        return Infer(node.model.model, inputs)
    if kind == "named_port":
        return Pick(node.named_port.node, node.named_port.name)
    if kind == "placeholder":
        return Take(node.placeholder.input)
    run = implementation(node.operation.name)
    assert run is not None, "checked before"
    _check_arguments(index, node.operation)
    return Operate(node.operation, run)


def _source(item: pb.Tensor | pb.EncodedImage) -> tuple[str, int]:
    if item.HasField("content"):
        return "content", item.content
    return ("fetched", item.fetched) if item.HasField("fetched") else ("body", 0)


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
