# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Programs on the wire: a plan becomes a `remotegpu.v1.Program` and a body; a received one is checked.

`check` is the border: after it, everything in a program that can be known without running it is known to be right, so
the executor needs no checks of its own for references, sizes, names or epochs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from remotegpu import errors, graph, strings, wire
from remotegpu.dtypes import Dtype, from_number, number_of
from remotegpu.tensor_checks import check_place, is_elsewhere, is_plain, stored_dtype
from remotegpu.v1 import program_pb2 as pb

NODE_LIMIT = 100_000
OUTPUT_LIMIT = 10_000
DIMENSION_LIMIT = 32
NESTING_LIMIT = 4
# Bytes of all compressed tensors of a program, unpacked: a frame of some bytes may stand for any number.
EXPANSION_LIMIT = 4 * 1024**3


def encode(plan: graph.Plan) -> tuple[pb.Program, wire.Body]:
    """The program message of a plan and the body with its tensors.

    Raises InvalidInput for an argument or a dtype that does not travel."""
    program, body = pb.Program(free=plan.free), wire.Body()
    for node in plan.nodes:
        _ENCODERS[type(node)](program.nodes.add(), node, plan, body)
    for output in plan.outputs:
        program.outputs.add(
            ref=pb.Ref(node=output.node, port=output.port),
            fetch=output.fetch,
            keep=output.keep,
            every_port=output.every_port,
        )
    return program, body


def _number(dtype: Dtype) -> pb.DType.ValueType:
    number = number_of(dtype)
    # The wire knows one byte order: the bytes of the other one would arrive as other numbers.
    if number is None or dtype != dtype.newbyteorder("<"):
        raise errors.InvalidInput(field="dtype", limit="a little-endian dtype that travels", given=str(dtype))
    return cast("pb.DType.ValueType", number)


def _data(array: Any) -> wire.Buffer:
    return strings.encode(array) if strings.is_strings(array) else wire.bytes_of(array)


def _encode_source(target: pb.Node, node: graph.Source, _plan: graph.Plan, body: wire.Body) -> None:
    tensor, data = target.tensor, _data(node.array)
    tensor.dtype = pb.DTYPE_BYTES if strings.is_strings(node.array) else _number(node.array.dtype)
    tensor.shape.extend(node.array.shape)
    tensor.size = len(data)
    tensor.offset = body.add(data)


def _encode_picture(target: pb.Node, node: graph.Picture, _plan: graph.Plan, body: wire.Body) -> None:
    target.image.size = len(node.data)
    target.image.offset = body.add(node.data)


def _encode_constant(target: pb.Node, node: graph.Constant, plan: graph.Plan, _body: wire.Body) -> None:
    tensor = target.tensor
    tensor.dtype = _number(node.array.dtype)
    tensor.shape.extend(node.array.shape)
    tensor.size = node.array.nbytes
    tensor.content = plan.contents[node.digest][0]


def _encode_packed(target: pb.Node, node: graph.Packed, _plan: graph.Plan, body: wire.Body) -> None:
    tensor = target.tensor
    tensor.dtype = _number(node.dtype)
    tensor.shape.extend(node.shape)
    tensor.compression = cast("pb.Compression.ValueType", node.compression)
    if node.travels_as is not None:
        tensor.travels_as = _number(node.travels_as)
    tensor.size = len(node.data)
    tensor.offset = body.add(node.data)


def _encode_remote(target: pb.Node, node: graph.Remote, plan: graph.Plan, _body: wire.Body) -> None:
    number = plan.remotes.index(node)
    if node.dtype is None or node.shape is None:
        target.image.fetched = number
        return
    target.tensor.dtype = _number(node.dtype)
    target.tensor.shape.extend(node.shape)
    target.tensor.size = node.dtype.itemsize * math.prod(node.shape)
    target.tensor.fetched = number


def _encode_handle(target: pb.Node, node: graph.Handle, _plan: graph.Plan, _body: wire.Body) -> None:
    target.handle.id = node.id
    target.handle.epoch = node.epoch


def _encode_placeholder(target: pb.Node, node: graph.Placeholder, _plan: graph.Plan, _body: wire.Body) -> None:
    target.placeholder.input = node.input


def _encode_operation(target: pb.Node, node: graph.Operation, plan: graph.Plan, _body: wire.Body) -> None:
    operation = target.operation
    operation.name = node.name
    for argument in node.args:
        _encode_argument(operation.args.add(), argument, plan)
    for name, argument in node.kwargs:
        keyword = operation.kwargs.add(name=name)
        _encode_argument(keyword.value, argument, plan)


def _encode_model(target: pb.Node, node: graph.ModelCall, plan: graph.Plan, _body: wire.Body) -> None:
    target.model.model = node.model
    for name, value in node.inputs:
        index, port = plan.ref(value)
        target.model.inputs.add(name=name, ref=pb.Ref(node=index, port=port))


def _encode_port(target: pb.Node, node: graph.NamedPort, plan: graph.Plan, _body: wire.Body) -> None:
    target.named_port.node = plan.positions[id(node.call)]
    target.named_port.name = node.name


_ENCODERS: dict[type, Callable[[pb.Node, Any, graph.Plan, wire.Body], None]] = {
    graph.Source: _encode_source,
    graph.Picture: _encode_picture,
    graph.Constant: _encode_constant,
    graph.Packed: _encode_packed,
    graph.Remote: _encode_remote,
    graph.Handle: _encode_handle,
    graph.Placeholder: _encode_placeholder,
    graph.Operation: _encode_operation,
    graph.ModelCall: _encode_model,
    graph.NamedPort: _encode_port,
}


def _encode_argument(target: pb.Argument, value: Any, plan: graph.Plan) -> None:
    match value:
        case graph.Value():
            node, port = plan.ref(value)
            target.ref.node = node
            target.ref.port = port
        case tuple():
            target.list.SetInParent()
            for item in value:
                _encode_argument(target.list.items.add(), item, plan)
        case slice():
            _encode_slice(target.slice, value)
        case np.dtype():
            target.dtype = _number(value)
        case _ if value is None or value is Ellipsis:
            (target.none if value is None else target.ellipsis).SetInParent()
        case _:
            _encode_scalar(target, value)


def _encode_scalar(target: pb.Argument, value: Any) -> None:
    match value:
        case bool():
            target.boolean = value
        case int() if -(2**63) <= value < 2**63:
            target.integer = value
        case float():
            target.real = value
        case str():
            target.text = value
        case _:
            raise _refused(value)


def _encode_slice(target: pb.Slice, value: slice) -> None:
    target.SetInParent()
    for name in ("start", "stop", "step"):
        bound = getattr(value, name)
        if bound is not None:
            try:
                setattr(target, name, operator.index(bound))
            except (TypeError, ValueError) as error:  # not an integer, or beyond 64 bits
                raise _refused(value) from error


def _refused(value: Any) -> errors.InvalidInput:
    return errors.InvalidInput(
        field="argument",
        limit="arrays, 64-bit integers, floats, strings, dtypes, slices, tuples",
        given=f"{value!r:.40}",
    )


def decode_argument(argument: pb.Argument, values: Callable[[pb.Ref], Any]) -> Any:
    """A checked argument as Python value; `values` gives the tensor of a reference."""
    kind = argument.WhichOneof("value")
    if kind == "ref":
        return values(argument.ref)
    if kind == "list":
        return tuple(decode_argument(item, values) for item in argument.list.items)
    if kind == "slice":
        bounds = argument.slice
        return slice(*(getattr(bounds, n) if bounds.HasField(n) else None for n in ("start", "stop", "step")))
    if kind == "dtype":
        return from_number(argument.dtype)
    if kind in {"none", "ellipsis"}:
        return None if kind == "none" else Ellipsis
    return getattr(argument, str(kind))


class _Checker:
    """Walks a program once, in order."""

    def __init__(
        self, known: Callable[[str], bool], body_size: int, epoch: int, device: int, attached: tuple[int, int]
    ) -> None:
        self._known = known
        self._body_size = body_size
        self._epoch = epoch
        self._device = device
        self._attached = attached
        self._expanded = 0
        # The dtypes of the placeholders that there may be.
        self.placeholders: Sequence[int] = ()
        # Nodes that are string tensors.
        self._strings: set[int] = set()
        self._here = 0
        self._program: pb.Program | None = None

    def check(self, program: pb.Program) -> None:
        _limit("program nodes", len(program.nodes), NODE_LIMIT)
        _limit("program outputs", len(program.outputs), OUTPUT_LIMIT)
        self._program = program
        for self._here, node in enumerate(program.nodes):
            kind = node.WhichOneof("kind")
            if kind is None:
                raise errors.InvalidInput(
                    field=f"node {self._here}", limit="a kind of node that this server knows", given="an unknown node"
                )
            getattr(self, f"_{kind}")(getattr(node, kind))
        self._here = len(program.nodes)
        self._outputs(program)

    def _outputs(self, program: pb.Program) -> None:
        kept = [output.keep for output in program.outputs if output.keep]
        if len(set(kept)) != len(kept):
            raise errors.InvalidInput(
                field="program outputs", limit="handle ids that differ", given="the same id twice"
            )
        for output in program.outputs:
            self._operand(output.ref)
            is_model = program.nodes[output.ref.node].WhichOneof("kind") == "model"
            if output.every_port and (output.keep or not is_model):
                raise errors.InvalidInput(
                    field="program outputs", limit="every_port for fetched model calls", given="another node, or keep"
                )

    def _reference(self, ref: pb.Ref) -> None:
        if ref.node >= self._here:
            raise errors.InvalidInput(
                field=f"node {self._here}",
                limit="references to earlier nodes",
                given=f"a reference to node {ref.node}: a cycle, or a node out of order",
            )

    def _operand(self, ref: pb.Ref) -> None:
        """A reference to what is not a string tensor."""
        self._reference(ref)
        if ref.node in self._strings:
            field = f"node {self._here}"
            raise errors.InvalidInput(field=field, limit="strings as inputs of models only", given=f"node {ref.node}")

    def _string_tensor(self, name: str, tensor: pb.Tensor) -> None:
        if not is_plain(tensor):
            limit = "plain bytes in the body for strings"
            raise errors.InvalidInput(field=name, limit=limit, given="compressed, converted, or other bytes")
        _limit(f"{name} dimensions", len(tensor.shape), DIMENSION_LIMIT)
        least = 4 * math.prod(length or 1 for length in tensor.shape)
        _limit(f"{name} size", least, 2**63 - 1)
        least = least if all(tensor.shape) else 0
        if tensor.size < least:
            limit = f"at least {least} bytes for strings{list(tensor.shape)}"
            raise errors.InvalidInput(field=name, limit=limit, given=f"{tensor.size} bytes")
        self._span(name, tensor.offset, tensor.size)
        self._strings.add(self._here)

    def _tensor(self, tensor: pb.Tensor) -> None:
        name = f"node {self._here}, tensor"
        if tensor.dtype == pb.DTYPE_BYTES:
            self._string_tensor(name, tensor)
            return
        dtype = from_number(tensor.dtype)
        if dtype is None:
            raise errors.InvalidInput(field=name, limit="a dtype of the protocol", given=f"dtype {tensor.dtype}")
        _limit(f"{name} dimensions", len(tensor.shape), DIMENSION_LIMIT)
        # No array has more bytes than 63 bits can count, not even an empty one when its zero sizes are passed over.
        _limit(f"{name} size", math.prod(length or 1 for length in tensor.shape) * dtype.itemsize, 2**63 - 1)
        stored = stored_dtype(name, tensor, dtype)
        size = math.prod(tensor.shape) * stored.itemsize
        if tensor.compression:
            self._expanded += size
            _limit(f"{name}, all compressed ones unpacked", self._expanded, EXPANSION_LIMIT)
        elif size != tensor.size:
            raise errors.InvalidInput(
                field=name, limit=f"{size} bytes for {stored}{list(tensor.shape)}", given=f"{tensor.size} bytes"
            )
        self._place(name, tensor)

    def _image(self, image: pb.EncodedImage) -> None:
        self._place(f"node {self._here}, image", image)

    def _place(self, name: str, item: pb.Tensor | pb.EncodedImage) -> None:
        if is_elsewhere(item):
            check_place(name, item, self._attached)
        else:
            self._span(name, item.offset, item.size)

    def _span(self, name: str, offset: int, size: int) -> None:
        if offset % wire.ALIGNMENT or offset + size > self._body_size:
            raise errors.InvalidInput(
                field=name,
                limit=f"an offset aligned to {wire.ALIGNMENT} within a body of {self._body_size} bytes",
                given=f"offset {offset}, size {size}",
            )

    def _handle(self, handle: pb.Handle) -> None:
        if handle.epoch != self._epoch:
            raise errors.LeaseLost(device=self._device, epoch=self._epoch, why="its worker was restarted")

    def _placeholder(self, placeholder: pb.Placeholder) -> None:
        if placeholder.input >= len(self.placeholders):
            field, limit = f"node {self._here}", f"one of {len(self.placeholders)} inputs of a saved program"
            raise errors.InvalidInput(field=field, limit=limit, given=f"input {placeholder.input}")
        if self.placeholders[placeholder.input] == pb.DTYPE_BYTES:
            self._strings.add(self._here)

    def _operation(self, operation: pb.Operation) -> None:
        if not self._known(operation.name):
            raise errors.InvalidInput(
                field=f"node {self._here}",
                limit="an operation of this server",
                given=f"operation {operation.name!r:.80}",
            )
        for argument in (*operation.args, *(keyword.value for keyword in operation.kwargs)):
            self._argument(argument, 0)

    def _argument(self, argument: pb.Argument, depth: int) -> None:
        kind = argument.WhichOneof("value")
        if kind is None or (kind == "dtype" and from_number(argument.dtype) is None):
            raise errors.InvalidInput(
                field=f"node {self._here}", limit="a kind of argument that this server knows", given="an unknown one"
            )
        if kind == "ref":
            self._operand(argument.ref)
        elif kind == "list":
            _limit(f"node {self._here}, argument nesting", depth, NESTING_LIMIT)
            for item in argument.list.items:
                self._argument(item, depth + 1)

    def _model(self, model: pb.ModelCall) -> None:
        for item in model.inputs:
            self._reference(item.ref)

    def _named_port(self, port: pb.NamedPort) -> None:
        self._reference(pb.Ref(node=port.node))
        assert self._program is not None
        if self._program.nodes[port.node].WhichOneof("kind") != "model":
            raise errors.InvalidInput(
                field=f"node {self._here}", limit="a named output of a model call", given=f"one of node {port.node}"
            )


def _limit(field: str, given: int, limit: int) -> None:
    if given > limit:
        raise errors.InvalidInput(field=field, limit=f"at most {limit}", given=str(given))


def check(
    program: pb.Program,
    *,
    known: Callable[[str], bool],
    body_size: int,
    epoch: int,
    device: int,
    attached: tuple[int, int] = (0, 0),
    placeholders: Sequence[int] = (),
) -> None:
    """`attached`: how many contents and fetched files the call has; `placeholders`: dtype numbers of a saved program's
    inputs. Raises InvalidInput (which node, what is allowed, what was given) or LeaseLost (a handle of an older epoch).
    """
    checker = _Checker(known, body_size, epoch, device, attached)
    checker.placeholders = placeholders
    checker.check(program)
