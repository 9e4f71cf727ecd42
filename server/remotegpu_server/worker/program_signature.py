# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a saved program takes and gives: its outputs worked out from its inputs and the signatures of the models that it
calls, by the rules that callers' arrays go by. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from remotegpu import errors, graph, program
from remotegpu.dtypes import BYTES, from_number, number_of
from remotegpu.graph import UNKNOWN, Dim, Meta
from remotegpu.operations import Unresolved, record
from remotegpu.strings import STRINGS
from remotegpu.v1 import compute_pb2, saved_pb2
from remotegpu.v1 import program_pb2 as pb

from .prepared import Infer, LoadImage, LoadTensor, Operate, Pick, Prepared, Step, Take, port_named

Signature = compute_pb2.ModelSignature


class _Inference:
    """Walks a program once, in order."""

    def __init__(
        self, saved: saved_pb2.SavedProgram, prepared: Prepared, signature_of: Callable[[str], Signature]
    ) -> None:
        self.dims: dict[str, Dim] = {}
        # By node, what is known of its ports; None: not even how many there are.
        self.metas: list[Sequence[Meta] | None] = []
        self._inputs = [_meta(tensor, self.dims) for tensor in saved.inputs]
        self._steps = prepared.steps
        self._called: dict[int, Signature] = {}
        self._signature_of = signature_of

    def walk(self) -> None:
        """Raises ValueError naming the node that cannot be."""
        for index, step in enumerate(self._steps):
            try:
                self.metas.append(self._step(index, step))
            except (TypeError, ValueError, IndexError, OverflowError) as error:
                raise ValueError(f"node {index}: {error}") from error

    def of(self, node: int, port: int) -> Meta:
        """What is known of a port. Raises ValueError for one that is not there."""
        metas = self.metas[node]
        if metas is None:
            return UNKNOWN
        if port >= len(metas):
            raise ValueError(f"port {port} of node {node}, which has {len(metas)}")
        return metas[port]

    def _step(self, index: int, step: Step) -> Sequence[Meta] | None:
        match step:
            case Take(number=number):
                return (self._inputs[number],)
            case LoadTensor():
                return (Meta(step.dtype, step.shape),)
            case LoadImage():
                return (Meta(np.dtype(np.uint8), (Dim(), Dim(), 3)),)
            case Operate():
                return self._operation(step.message)
            case Infer():
                return self._model(index, step)
            case Pick():
                names = [tensor.name for tensor in self._called[step.node].outputs]
                return (self.of(step.node, port_named(index, step, self._called[step.node].name, names)),)
        raise AssertionError("checked before: no handles")

    def _operation(self, message: pb.Operation) -> Sequence[Meta] | None:
        def value(ref: pb.Ref) -> graph.Value:
            return graph.Value(None, self.of(ref.node, ref.port))

        args = [program.decode_argument(argument, value) for argument in message.args]
        kwargs = {item.name: program.decode_argument(item.value, value) for item in message.kwargs}
        try:
            return record(message.name, args, kwargs)[1]
        except Unresolved:
            return None

    def _model(self, index: int, step: Infer) -> Sequence[Meta]:
        signature = self._called[index] = self._signature_of(step.reference)
        sizes: dict[str, graph.Size] = {}
        wanted = {tensor.name: tensor for tensor in signature.inputs}
        for position, (name, node, port) in enumerate(step.inputs):
            by_place = signature.inputs[position].name if position < len(signature.inputs) else ""
            tensor = wanted.pop(name or by_place, None)
            if tensor is None:
                raise ValueError(f"model {step.reference!r} has no input {name or f'number {position + 1}'}")
            _bind(step.reference, tensor, self.of(node, port), sizes)
        if wanted:
            raise ValueError(f"model {step.reference!r} is called without {', '.join(wanted)}")
        return [_meta(tensor, sizes) for tensor in signature.outputs]


def _bind(reference: str, tensor: compute_pb2.TensorSignature, meta: Meta, sizes: dict[str, graph.Size]) -> None:
    """Finds out what the symbols of a model stand for. What only running shows is checked then."""
    dtype = STRINGS if tensor.dtype == BYTES else from_number(tensor.dtype)
    if meta.dtype is not None and meta.dtype != dtype:
        given, limit = ("strings" if each == STRINGS else each for each in (meta.dtype, dtype))
        raise ValueError(f"model {reference!r}, input {tensor.name!r}: given {given}, allowed: {limit}")
    if meta.shape is None or tensor.unknown_rank:
        return
    if len(meta.shape) != len(tensor.shape):
        limit = f"{len(tensor.shape)} dimensions"
        raise ValueError(f"model {reference!r}, input {tensor.name!r}: given {len(meta.shape)}, allowed: {limit}")
    for wanted, size in zip(tensor.shape, meta.shape, strict=True):
        if wanted.symbol:
            sizes.setdefault(wanted.symbol, size)


def _meta(tensor: compute_pb2.TensorSignature, sizes: dict[str, graph.Size] | dict[str, Dim]) -> Meta:
    dtype = STRINGS if tensor.dtype == BYTES else from_number(tensor.dtype)
    if tensor.unknown_rank:
        return Meta(dtype, None)
    return Meta(dtype, tuple(_size(size, sizes) for size in tensor.shape))


def _size(size: compute_pb2.Size, sizes: dict[str, graph.Size] | dict[str, Dim]) -> graph.Size:
    if size.WhichOneof("value") == "fixed":
        return size.fixed
    return sizes.setdefault(size.symbol, Dim()) if size.symbol else Dim()


def signature(saved: saved_pb2.SavedProgram, prepared: Prepared, signature_of: Callable[[str], Signature]) -> Signature:
    """The inputs and outputs of a saved program; an output whose dtype cannot be told without running it has none.
    `signature_of`: of a model that it calls.

    Raises ValueError for a program that can run on no input, and what `signature_of` raises."""
    inference = _Inference(saved, prepared, signature_of)
    inference.walk()
    outputs = [
        _tensor(name, inference.of(output.ref.node, output.ref.port), inference.dims)
        for name, output in zip(saved.outputs, saved.program.outputs, strict=True)
    ]
    return Signature(inputs=saved.inputs, outputs=outputs)


def _tensor(name: str, meta: Meta, dims: Mapping[str, Dim]) -> compute_pb2.TensorSignature:
    made = compute_pb2.TensorSignature(name=name, unknown_rank=meta.shape is None)
    if meta.dtype is not None:
        number = BYTES if meta.dtype == STRINGS else number_of(meta.dtype)
        if number is None:
            raise errors.InvalidInput(field=f"output {name!r}", limit="a dtype that travels", given=str(meta.dtype))
        made.dtype = number  # type: ignore[assignment]  # an enum's number
    for size in _settled(meta.shape or ()):
        if isinstance(size, int):
            made.shape.add(fixed=size)
        else:
            symbol = next((symbol for symbol, dim in dims.items() if dim is size), "")
            made.shape.add(symbol=symbol) if symbol else made.shape.add()
    return made


def _settled(shape: graph.Shape) -> Iterator[graph.Size]:
    return (size.size if isinstance(size, Dim) and size.size is not None else size for size in shape)
